"""What a person sees while a study runs, and at its end."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from shlex import quote

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from data.findings import conflicting, odd, proposal, suspicious
from models.bundle.card import INCOMPLETE, Origin, StudyCard, beaten, percent
from study.cli.console import duration, err, out, plain, storage_option
from study.config.plan import CONFIRM_SEEDS, Planned, in_words
from study.config.schema import StudyConfig
from study.launch import News
from study.result.final import Outcome
from study.result.refit import FinalEpoch
from study.search.opened import Opened
from study.search.trial import Step, TrialEnd, TrialEpoch, TrialStart

DRAW_SECONDS = 0.2


class Display:
    """What happens, on stderr: bars on a terminal; in a log one plain line a finished trial and stage."""

    def __init__(
        self, progress: Progress, say: Callable[[str], None], log: Callable[[str], None], first: str = ""
    ) -> None:
        self._progress = progress
        self._first = first  # is said once something has begun, so that a mistake is one line alone
        self._say = say  # for both
        self._log = log
        self._tasks: dict[str, TaskID] = {}
        self._opened: Opened | None = None
        self._outcome: Outcome | None = None
        self._epochs = 0  # seen in this run
        self._places: dict[str, dict[int, int]] = {}  # epochs of each training after the search, by stage and place
        self._started = time.monotonic()
        self._drawn = 0.0
        self._pruned = 0
        self._best: float | None = None
        self._network = ""

    @property
    def opened(self) -> bool:
        """Whether the study exists by now."""
        return self._opened is not None

    def images(self, what: str, done: int, total: int) -> None:
        """Progress of reading the images, or of another task before the study is open."""
        self._begin()
        self._show(what, done, total, "")

    def watch(self, step: Step) -> None:
        """A training step; drawn a few times a second."""
        if time.monotonic() - self._drawn < DRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        name = "trial" if step.stage == "search" else step.stage
        words = self._network if step.stage == "search" else ""
        self._show(f"{name} {step.trial}", step.step, step.steps, f"epoch {step.epoch} {words}", only="step")

    def follow(self, news: Iterator[News]) -> None:
        """Run a study to its end, showing what happens."""
        for item in news:
            # It looks at the database too, where somebody may have deleted the study meanwhile.
            with self._opened.study.while_it_exists() if self._opened else nullcontext():
                self._hear(item)

    def _begin(self) -> None:
        if self._first:
            self._say(self._first)
            self._first = ""

    def _hear(self, item: News) -> None:
        self._begin()
        if isinstance(item, Planned):
            self._say(f"planned: {_planned_in_words(item)}")
        elif isinstance(item, Opened):
            self._open(item)
        elif isinstance(item, TrialStart):
            self._network = item.network
            self._log_first(item)
        elif isinstance(item, TrialEpoch):
            self._epoch(item)
        elif isinstance(item, TrialEnd):
            self._end(item)
        elif isinstance(item, FinalEpoch):
            self._final(item)
        else:
            self._outcome = item

    def _open(self, opened: Opened) -> None:
        self._opened = opened
        for line in (*opened.dataset.account, *(one.line() for one in odd(opened.dataset))):
            self._say(line)
        if clash := conflicting(opened.dataset):
            err.print(f"{clash} files stand in several classes with the same content (see: study data audit)")
        for line in suspicious(opened.dataset):
            look = f"study data audit {_as_options(opened.study.config)} --html audit.html"
            self._say(
                f"{line}: look at them ({look}), and say who shares a source if they are wrong (--set groups=...)"
            )
        if seen := proposal(opened.dataset):
            self._say(seen.line())
        self._started = time.monotonic()
        if opened.study.planned():
            self._say(f"decided: {in_words(opened.study.config)}")
        counts = ", ".join(f"{part} {count}" for part, count in opened.parts.counts().items() if count)
        self._log(f"images: {len(opened.dataset.labels)} ({counts}); {self._left()}")
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

    def _log_first(self, news: TrialStart) -> None:
        """The first sign of life in a log, whatever the network takes."""
        if not self._epochs:
            self._log(f"trial {news.number} begins: {news.network}")

    def _epoch(self, news: TrialEpoch) -> None:
        assert self._opened is not None
        self._epochs += 1
        best = f" · best {percent(self._best)}" if self._best is not None else ""
        note = f"trial {news.number} · {percent(news.value)}{best} · {self._pruned} pruned · {self._left()}"
        self._show("search", None, self._opened.study.config.trials, note)
        self._show("epoch", news.epoch, self._opened.study.config.epochs, "")

    def _end(self, news: TrialEnd) -> None:
        done = self._standing()
        self._show("search", done, None, "")
        score = "" if news.value is None else f" at {percent(news.value)}"
        best = "" if self._best is None else f"; best {percent(self._best)}"
        self._log(
            f"trial {news.number} {news.state.lower()}{score}; {done} done, {self._pruned} pruned{best}; {self._left()}"
        )

    def _final(self, news: FinalEpoch) -> None:
        self._epochs += 1
        places = self._places.setdefault(news.stage, {})  # several at once, where there are several workers
        places[news.place] = news.result.epoch
        total, before = news.epochs * news.trainings, min(places)
        done = before * news.epochs + sum(places.values())
        at_once = max(1, sum(epoch < news.epochs for epoch in places.values()))
        left = duration((total - done) * news.result.seconds / at_once)
        self._show(news.stage, done, total, f"trial {news.trial} · {left} left")
        self._show("epoch", news.result.epoch, news.epochs, "")
        if news.result.epoch == news.epochs:
            finished = before + sum(epoch == news.epochs for epoch in places.values())
            self._log(f"{news.stage}: {finished} of {news.trainings} done (trial {news.trial}); {left} left in it")

    def _left(self) -> str:
        """Time left in the search and in all, by the hours; without hours, trials left at this run's pace."""
        assert self._opened is not None
        study = self._opened.study
        config, hours = study.config, study.hours()
        if hours is not None:
            search = max(0.0, study.search_seconds_left())
            whole = max(0.0, 3600 * hours - study.clock.spent())
            return f"{duration(search)} left in the search, {duration(whole)} in all"
        if config.trials is None or not self._epochs or "search" not in self._tasks:
            return f"{config.trials} trials wanted"
        task = next(task for task in self._progress.tasks if task.id == self._tasks["search"])
        spent = time.monotonic() - self._started
        per_epoch = spent / self._epochs
        per_trial = spent / max(1.0, task.completed - (task.fields["first"] or 0) + 0.5)
        left = (config.trials - task.completed) * min(per_trial, per_epoch * config.epochs)
        return f"{duration(left + per_epoch * config.final_epochs * _trainings(config))} left"

    def _show(self, name: str, done: int | None, total: int | None, note: str, only: str | None = None) -> None:
        key = only or name
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(name, total=total, note=note, first=done)
        self._progress.update(self._tasks[key], description=name, completed=done, total=total, note=escape(plain(note)))

    def summary(self, name: str, storage: str) -> None:
        """The final screen: what was found, what it is worth, and what to type next."""
        assert self._outcome is not None
        assert self._opened is not None
        card = self._outcome.card
        table = Table(box=None, show_header=False, pad_edge=False)
        for key, value in _summary_rows(name, card):
            table.add_row(key, escape(plain(value)))
        out.print(table)
        if card.mark:
            out.print(card.mark)
        if not card.study.complete:
            out.print(INCOMPLETE)
        for line in beaten(card):
            out.print(line, soft_wrap=True, highlight=False)
        if card.test_openings > 1:
            out.print(f"The test part was opened {card.test_openings} times in this study: the score is optimistic.")
        if card.synthetic_data:
            out.print("The images are synthetic: the score says nothing about tissue.")
        parts = self._opened.parts
        path = self._opened.dataset.paths[int((parts.test if len(parts.test) else parts.val)[0])]
        option = storage_option(storage)
        config = self._opened.study.config
        budget = f"--trials {(config.trials or card.study.trials) * 2}"
        if config.hours is not None and card.study.trials < (config.trials or math.inf):
            budget = f"--hours {2 * config.hours:g}"
        for command in (
            f"study predict {quote(str(self._outcome.directory))} {quote(str(self._opened.dataset.root / path))}",
            f"study resume {quote(name)} {budget}{option}",
            f"study dashboard{option}",
        ):
            out.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)


def _summary_rows(name: str, card: StudyCard) -> list[tuple[str, str]]:
    test, study = card.test, card.study
    low, high = test.accuracy_interval
    unequal = study.metric == "balanced_accuracy"
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
        *([("balanced", f"{percent(test.balanced_accuracy)}, the mean recall of the classes")] if unequal else []),
        ("report", "report.html and card.json in the model folder"),
    ]


def _as_options(config: StudyConfig) -> str:
    """The images and groups of a study as `study data` takes them."""
    groups = "" if config.groups is None else f" --groups {quote(config.groups)}"
    chosen = [f" --without {quote(name)}" for name in config.without]
    chosen += [] if config.only is None else [f" --only {quote(config.only)}"]
    chosen += [" --labels-from last"] if config.labels_from == "last" else []
    return f"{quote(config.data)}{groups}{''.join(chosen)}"


def _trainings(config: StudyConfig) -> int:
    """After the search, with the runner-up and the baseline."""
    confirming = config.confirm * CONFIRM_SEEDS + 1 if config.confirm > 1 else 0
    return confirming + config.final_seeds + bool(config.baseline)


def _which(study: Origin) -> str:
    if study.trial == study.winner:
        return f"winner trial {study.trial}"
    return f"here trial {study.trial} (the winner is trial {study.winner})"


def _planned_in_words(planned: Planned) -> str:
    shown = [f"{stage} {duration(seconds)}" for stage, seconds in planned.stages.items() if seconds]
    return f"{', '.join(shown)}; {duration(sum(planned.stages.values()))} of {duration(3600 * planned.hours)}"


@contextmanager
def show(console: Console, *, quiet: bool = False, first: str = "") -> Iterator[Display]:
    """Bars on a terminal, removed at the end; lines elsewhere; nothing when quiet."""
    bars = console.is_terminal and not quiet

    def say(line: str) -> None:
        if not quiet:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def log(line: str) -> None:
        if not bars:
            say(line)

    with Progress(
        TextColumn("{task.description:>18}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not bars,
    ) as progress:
        yield Display(progress, say, log, first)
