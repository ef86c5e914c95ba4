"""What a person sees while a study runs, and at its end."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from shlex import quote
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from data.datasets import conflicting
from models.bundle.card import LEAKY, Origin, StudyCard, percent
from study.config.schema import StudyConfig
from study.launch import News
from study.result.final import Outcome
from study.result.refit import CONFIRM_SEEDS, FinalEpoch
from study.search.opened import Opened
from study.search.trial import TrialEnd, TrialEpoch
from study.storage.door import DEFAULT_URL

out = Console()
err = Console(stderr=True)


def print_table(head: Sequence[str], rows: Sequence[tuple[Any, ...]], title: str | None = None) -> None:
    """A plain table on stdout; nothing in it is cut."""
    shown = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for name in head:
        shown.add_column(escape(name), overflow="fold")
    for row in rows:
        shown.add_row(*(escape(str(value)) for value in row))
    # A pipe has no width to fit into: each row stays on one line.
    (out if out.is_terminal else Console(width=10_000)).print(shown)


class Display:
    """Progress on stderr while it is a terminal; silent otherwise."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._opened: Opened | None = None
        self._outcome: Outcome | None = None
        self._epochs = 0  # seen in this run
        self._started = time.monotonic()
        self._pruned = 0
        self._best: float | None = None

    @property
    def opened(self) -> bool:
        """Whether the study exists by now."""
        return self._opened is not None

    def images(self, what: str, done: int, total: int) -> None:
        """Progress of reading the images."""
        self._show(what, done, total, "")

    def follow(self, news: Iterator[News]) -> None:
        """Run a study to its end, showing what happens."""
        for item in news:
            if isinstance(item, Opened):
                self._open(item)
            elif isinstance(item, TrialEpoch):
                self._epoch(item)
            elif isinstance(item, TrialEnd):
                self._end()
            elif isinstance(item, FinalEpoch):
                self._final(item)
            else:
                self._outcome = item

    def _open(self, opened: Opened) -> None:
        self._opened = opened
        if clash := conflicting(opened.dataset):
            err.print(f"{clash} files stand in several classes with the same content (see: study data audit)")
        self._started = time.monotonic()
        self._show("search", self._standing(), opened.study.config.trials, "")

    def _standing(self) -> int:
        """Number of trials done, by whomever."""
        assert self._opened is not None
        states: dict[str, list[float]] = {"COMPLETE": [], "PRUNED": []}
        for trial in self._opened.study.own_trials():
            states[trial.state.name].append(trial.value or 0.0)
        self._pruned = len(states["PRUNED"])
        self._best = max(states["COMPLETE"], default=None)
        return sum(map(len, states.values()))

    def _epoch(self, news: TrialEpoch) -> None:
        assert self._opened is not None
        self._epochs += 1
        best = f" · best {percent(self._best)}" if self._best is not None else ""
        note = f"trial {news.number} · {percent(news.value)}{best} · {self._pruned} pruned · {self._time_left()}"
        self._show("search", None, self._opened.study.config.trials, note)
        self._show("epoch", news.epoch, self._opened.study.config.epochs, "")

    def _end(self) -> None:
        self._progress.update(self._tasks["search"], completed=self._standing())

    def _final(self, news: FinalEpoch) -> None:
        assert self._opened is not None
        config = self._opened.study.config
        self._epochs += 1
        total = config.final_epochs * news.trainings
        done = news.place * config.final_epochs + news.result.epoch
        left = (total - done) * news.result.seconds
        self._show(news.stage, done, total, f"trial {news.trial} · {_duration(left)} left")

    def _time_left(self) -> str:
        """Trials left at this run's pace per trial (pruning included), and the final training at its pace per epoch."""
        assert self._opened is not None
        config = self._opened.study.config
        task = next(task for task in self._progress.tasks if task.id == self._tasks["search"])
        spent = time.monotonic() - self._started
        if config.trials is None or not self._epochs:
            return ""
        per_epoch = spent / self._epochs
        per_trial = spent / max(1.0, task.completed - (task.fields["first"] or 0) + 0.5)
        left = (config.trials - task.completed) * min(per_trial, per_epoch * config.epochs)
        return f"{_duration(left + per_epoch * config.final_epochs * _trainings(config))} left"

    def _show(self, name: str, done: int | None, total: int | None, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note=note, first=done)
        self._progress.update(self._tasks[name], completed=done, total=total, note=note)

    def summary(self, name: str, storage: str) -> None:
        """The final screen: what was found, what it is worth, and what to type next."""
        assert self._outcome is not None
        assert self._opened is not None
        card = self._outcome.card
        table = Table(box=None, show_header=False, pad_edge=False)
        for key, value in _summary_rows(name, card):
            table.add_row(key, escape(value))
        out.print(table)
        if card.leaky:
            out.print(LEAKY)
        if card.test_openings > 1:
            out.print(f"The test part was opened {card.test_openings} times in this study: the score is optimistic.")
        if card.synthetic_data:
            out.print("The images are synthetic: the score says nothing about tissue.")
        parts = self._opened.parts
        path = self._opened.dataset.paths[int((parts.test if len(parts.test) else parts.val)[0])]
        option = storage_option(storage)
        more = (self._opened.study.config.trials or card.study.trials) * 2
        for command in (
            f"study predict {quote(str(self._outcome.directory))} {quote(str(self._opened.dataset.root / path))}",
            f"study resume {name} --trials {more}{option}",
            f"study dashboard{option}",
        ):
            out.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)


def storage_option(storage: str) -> str:
    """What a command needs that goes on with a study of this database."""
    return "" if storage == DEFAULT_URL else f" --storage {quote(storage)}"


def _summary_rows(name: str, card: StudyCard) -> list[tuple[str, str]]:
    test, study = card.test, card.study
    low, high = test.accuracy_interval
    params = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in study.params.items()
    )
    score = "none" if study.selection_score is None else percent(study.selection_score)
    return [
        ("study", f"{name}: {study.trials} trials, {_which(study)}"),
        ("architecture", f"{params} ({card.final.num_params or 0:,} parameters)"),
        ("selection score", f"{score} (validation; the best of many, not a performance)"),
        (
            card.score_name,
            f"{percent(test.accuracy)}, 95 % interval {percent(low)} to {percent(high)} "
            f"({test.images} images of {test.groups} groups; majority class {percent(test.majority)})",
        ),
        ("report", "report.html and card.json in the model folder"),
    ]


def _trainings(config: StudyConfig) -> int:
    """After the search, with the runner-up and the baseline."""
    confirming = config.confirm * CONFIRM_SEEDS + 1 if config.confirm > 1 else 0
    return confirming + config.final_seeds + bool(config.baseline)


def _which(study: Origin) -> str:
    if study.trial == study.winner:
        return f"winner trial {study.trial}"
    return f"here trial {study.trial} (the winner is trial {study.winner})"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@contextmanager
def show(console: Console, *, quiet: bool = False) -> Iterator[Display]:
    """Progress bars on a terminal, removed at the end; nothing elsewhere, or when quiet."""
    with Progress(
        TextColumn("{task.description:>14}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    ) as progress:
        yield Display(progress)
