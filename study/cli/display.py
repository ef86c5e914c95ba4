"""Display of a study for a person, while it runs and at its end."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from data import counted
from data.findings import count_label_conflicts, group_warnings, odd, proposal
from models.bundle.card import Origin, StudyCard, percent
from models.bundle.verdict import Verdict, verdict
from study.budget.stages import CONFIRM_SEEDS, Plan, in_words
from study.cli.console import duration, err, out, plain, storage_option
from study.config.schema import StudyConfig
from study.config.space import used_parameters
from study.launch import News
from study.result.final import Outcome
from study.result.refit import Activity, FinalEpoch
from study.search.opening import StudyWithImages
from study.search.trial import Step, TrialEnd, TrialEpoch, TrialStart

DRAW_SECONDS = 0.2
SILENCE = 20.0
"""Seconds without a line after which a log says what is being done."""
BUSY = 1.25
"""Factor by which a machine must be slower than a quiet one before the user is told."""


class Display:
    """The progress of a study on stderr: bars on a terminal; in a log, one plain line per finished trial and stage."""

    def __init__(
        self, progress: Progress, say: Callable[[str], None], log: Callable[[str], None], first: str = ""
    ) -> None:
        self._progress = progress
        self._first = first  # said once something has begun, so that a mistake gives one line alone
        self._say = say  # prints on a terminal and in a log
        self._log = log  # prints in a log only
        self._doing = "starting"
        self._tasks: dict[str, TaskID] = {}
        self._opened: StudyWithImages | None = None
        self._outcome: Outcome | None = None
        self._hours: float | None = None
        self._epochs = 0  # epochs seen in this run
        self._places: dict[str, dict[int, int]] = {}  # epochs of each training after the search, by stage and place
        self._started = time.monotonic()
        self._drawn = 0.0
        self._counting = "", 0.0, 0  # what `images` counts, when it began, and how much was done by then
        self._pruned = 0
        self._best: float | None = None

    @property
    def opened(self) -> bool:
        """True once the study exists."""
        return self._opened is not None

    def images(self, what: str, done: int, total: int) -> None:
        """Show the progress of reading the images, or of another task before the study is open."""
        self._begin()
        if what != self._counting[0] or done < self._counting[2]:
            self._counting = what, time.monotonic(), done
        _, began, before = self._counting
        spent, left = time.monotonic() - began, ""
        if done > before and spent > 1:  # a shorter time says little about the rest
            left = f"{duration(spent * (total - done) / (done - before))} left"
        self._doing = f"{what}: {done:,} of {total:,}{'; ' if left else ''}{left}"
        self._show(what, done, total, left)

    def line(self, text: str) -> None:
        """Show a line, on a terminal and in a log."""
        self._begin()
        self._say(text)

    def watch(self, step: Step) -> None:
        """Show a training step; drawn a few times a second."""
        if time.monotonic() - self._drawn < DRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        self._doing = f"{step.stage}: trial {step.trial}, epoch {step.epoch}, step {step.step} of {step.steps}"
        name = "trial" if step.stage == "search" else step.stage
        self._show(f"{name} {step.trial}", step.step, step.steps, f"epoch {step.epoch}", only="step")

    def follow(self, news: Iterator[News]) -> None:
        """Run a study to its end, and show what happens."""
        for item in news:
            # The display reads the database, too, where somebody may have deleted the study meanwhile.
            with self._opened.study.while_it_exists() if self._opened else nullcontext():
                self._hear(item)

    def doing(self) -> str:
        """Return what is being done and the time left, for a log that was silent for long; called by another thread."""
        clock = self._opened.study.clock if self._opened else None
        left = "" if clock is None or self._hours is None else max(0.0, 3600 * self._hours - clock.spent())
        return f"{self._doing}{'' if left == '' else f'; {duration(float(left))} left in all'}"

    def _begin(self) -> None:
        if self._first:
            self._say(self._first)
            self._first = ""

    def _hear(self, item: News) -> None:
        self._begin()
        if isinstance(item, Plan):
            for line in first_lines(item):
                self._say(line)
            again = f" again, {item.again}" if item.again else ""
            self._say(f"planned{again}: {_planned_in_words(item)}")
        elif isinstance(item, StudyWithImages):
            self._open(item)
        elif isinstance(item, TrialStart):
            self._log_first(item)
        elif isinstance(item, TrialEpoch):
            self._epoch(item)
        elif isinstance(item, TrialEnd):
            self._end(item)
        elif isinstance(item, FinalEpoch):
            self._final(item)
        elif isinstance(item, Activity):
            self._doing = item.what
        else:
            self._outcome = item

    def _open(self, opened: StudyWithImages) -> None:
        self._opened, self._hours = opened, opened.study.hours()
        self._doing = "search"
        for line in (*opened.dataset.account, *(one.line() for one in odd(opened.dataset))):
            self._say(line)
        if clash := count_label_conflicts(opened.dataset):  # at least two
            err.print(f"{clash} files have the same content but different classes (see: study data audit)")
        for line in group_warnings(opened.dataset):
            look = f"study data audit {_as_options(opened.study.config)} --html audit.html"
            self._say(
                f"{line}: look at them ({look}), and give the groups yourself if they are wrong (--set groups=...)"
            )
        if seen := proposal(opened.dataset):
            self._say(seen.line())
        self._started = time.monotonic()
        if opened.study.planned():
            self._say(f"decided: {in_words(opened.study.config)}")
        self._say(f"study {opened.study.name}: {_parts_in_words(opened)}; {self._left()}")
        self._show_search(self._standing())

    def _standing(self) -> int:
        """Return the number of trials done by all workers, and note the pruned ones and the best score."""
        assert self._opened is not None
        states: dict[str, list[float]] = {"COMPLETE": [], "PRUNED": []}
        for trial in self._opened.study.own_trials():
            states[trial.state.name].append(trial.value or 0.0)
        self._pruned = len(states["PRUNED"])
        self._best = max(states["COMPLETE"], default=None)
        return sum(map(len, states.values()))

    def _log_first(self, news: TrialStart) -> None:
        """Log that a trial begins, unless an epoch was seen: the first sign of life, however slow the network."""
        self._doing = f"search: trial {news.number}, its first epoch from here"
        if not self._epochs:
            self._log(f"trial {news.number} begins: {news.network}")

    def _epoch(self, news: TrialEpoch) -> None:
        assert self._opened is not None
        self._epochs += 1
        self._doing = f"search: trial {news.number}, {news.epoch} of {self._opened.study.config.epochs} epochs done"
        self._show_search(None)
        note = f"trial {news.number}: {percent(news.value)}"
        self._show("epoch", news.epoch, self._opened.study.config.epochs, note)

    def _end(self, news: TrialEnd) -> None:
        done = self._standing()
        self._show_search(done)
        score = "" if news.value is None else f" at {percent(news.value)}"
        best = "" if self._best is None else f"; best {percent(self._best)}"
        self._log(
            f"trial {news.number} {news.state.lower()}{score}; {done} done, {self._pruned} pruned{best}; {self._left()}"
        )

    def _final(self, news: FinalEpoch) -> None:
        self._epochs += 1
        places = self._places.setdefault(news.stage, {})  # several workers train several at once
        places[news.place] = news.result.epoch
        total, before = news.epochs * news.trainings, min(places)
        done = before * news.epochs + sum(places.values())
        at_once = max(1, sum(epoch < news.epochs for epoch in places.values()))
        seconds = (total - done) * news.result.seconds / at_once
        left = f"{duration(seconds)} left" if seconds >= 1 else "less than a second left"
        self._doing = f"{news.stage}: trial {news.trial}, {news.result.epoch} of {news.epochs} epochs done"
        self._show(news.stage, done, total, left)
        self._show("epoch", news.result.epoch, news.epochs, f"trial {news.trial}")
        if news.result.epoch == news.epochs:
            finished = before + sum(epoch == news.epochs for epoch in places.values())
            rest = f"; {left} in this stage" if done < total else ""
            self._log(f"{news.stage}: {finished} of {news.trainings} done (trial {news.trial}){rest}")

    def _left(self) -> str:
        """Return the time left in the search and in all, or how many trials are wanted."""
        assert self._opened is not None
        study, seconds = self._opened.study, self._seconds_left()
        if seconds is None:
            return f"{counted(study.config.trials or 0, 'trial')} wanted"
        if study.hours() is None:
            return f"{duration(seconds)} left"
        return f"{duration(max(0.0, study.search_seconds_left()))} left in the search, {duration(seconds)} in all"

    def _seconds_left(self) -> float | None:
        """Return the seconds left in all.

        They are computed from the hours or, without hours, from the trials left and this run's pace; None before its
        first epoch.
        """
        assert self._opened is not None
        study = self._opened.study
        config, hours = study.config, study.hours()
        if hours is not None:
            return max(0.0, 3600 * hours - study.clock.spent())
        if config.trials is None or not self._epochs or "search" not in self._tasks:
            return None
        task = next(task for task in self._progress.tasks if task.id == self._tasks["search"])
        spent = time.monotonic() - self._started
        per_epoch = spent / self._epochs
        per_trial = spent / max(1.0, task.completed - (task.fields["first"] or 0) + 0.5)
        left = (config.trials - task.completed) * min(per_trial, per_epoch * config.epochs)
        return left + per_epoch * config.final_epochs * _trainings(config)

    def _show_search(self, done: int | None) -> None:
        """Show the bar of the search with the best score and the time left in all."""
        assert self._opened is not None
        seconds = self._seconds_left()
        notes = [] if self._best is None else [f"best {percent(self._best)}"]
        notes += [] if seconds is None else [f"{duration(seconds)} left"]
        self._show("search", done, self._opened.study.config.trials, " · ".join(notes))

    def _show(self, name: str, done: int | None, total: int | None, note: str, only: str | None = None) -> None:
        key = only or name
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(name, total=total, note=note, first=done)
        self._progress.update(self._tasks[key], description=name, completed=done, total=total, note=escape(plain(note)))

    def summary(self, name: str, storage: str) -> None:
        """Print the final screen: what was found, what it is worth, and what to type next."""
        assert self._outcome is not None
        assert self._opened is not None
        card = self._outcome.card
        table = Table(box=None, show_header=False, pad_edge=False)
        worth = verdict(card)
        assert worth is not None
        for key, value in _summary_rows(name, card, worth, self._outcome.directory):
            table.add_row(key, escape(plain(value)))
        out.print(table)
        for line in worth.notes:
            out.print(plain(line), soft_wrap=True, highlight=False, markup=False)
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


FEW_SOURCES = 10
"""Number of sources in a part below which its score says little, whatever the number of its images."""


def _parts_in_words(opened: StudyWithImages) -> str:
    """Return in words how many images, of how many sources, each part has; few test sources are warned of."""
    groups, parts = opened.dataset.groups, opened.parts
    sources = {part: len(set(groups[getattr(parts, part)].tolist())) for part in parts.counts()}
    alone = len(set(groups.tolist())) == len(groups)
    counts = ", ".join(
        f"{part} {count}" + ("" if alone else f" of {counted(sources[part], 'source')}")
        for part, count in parts.counts().items()
        if count
    )
    few = (
        f"; {counted(sources['test'], 'test source')} can say little of others"
        if 0 < sources.get("test", 0) < FEW_SOURCES
        else ""
    )
    return f"{counted(len(groups), 'image')} ({counts}){few}"


def _summary_rows(name: str, card: StudyCard, worth: Verdict, directory: Path) -> list[tuple[str, str]]:
    """Return the rows of the final screen, the verdict first."""
    study = card.study
    space = study.config.get("space")
    params = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in used_parameters(space if isinstance(space, dict) else {}, study.params).items()
    )
    metric = study.metric.replace("_", " ")
    score = "none" if study.selection_score is None else percent(study.selection_score)
    many = "the best of many, " if study.trials > 1 else ""
    return [
        (card.score_name, f"{worth.value} ({worth.on}; majority class {percent(card.test.majority)})"),
        ("verdict", worth.word),
        ("model", f"{directory} (report.html, MODEL_CARD.md): {worth.choice[0].lower()}{worth.choice[1:]}"),
        ("study", f"{name}: {_which(study)}"),
        ("architecture", f"{params} ({card.final.num_params or 0:,} parameters)"),
        ("selection score", f"{score} ({metric} on validation; {many}not a performance)"),
    ]


def _as_options(config: StudyConfig) -> str:
    """Return the images and groups of a study as arguments of `study data`."""
    groups = "" if config.groups is None else f" --groups {quote(config.groups)}"
    chosen = [f" --without {quote(name)}" for name in config.without]
    chosen += [] if config.only is None else [f" --only {quote(config.only)}"]
    chosen += [" --labels-from last"] if config.labels_from == "last" else []
    return f"{quote(config.data)}{groups}{''.join(chosen)}"


def _trainings(config: StudyConfig) -> int:
    """Return the number of trainings after the search, with the runner-up and the baseline."""
    confirming = config.confirm * CONFIRM_SEEDS + 1 if config.confirm > 1 else 0
    return confirming + config.final_seeds + bool(config.baseline)


def _which(study: Origin) -> str:
    trials = counted(study.trials, "trial")
    if study.trial != study.chosen:
        return f"{trials}, here trial {study.trial} (the winner is trial {study.chosen})"
    if study.no_complete_trial:
        return f"no trial ran to its end; trial {study.trial} was trained longest"
    if study.trial == study.winner:
        return f"{trials}, winner trial {study.trial}"
    return f"{trials}, winner trial {study.trial} (confirmed; trial {study.winner} had the best selection score)"


def first_lines(planned: Plan) -> list[str]:
    """Return what must be known before a plan is read: a busy machine, pretrained networks, and too few hours."""
    busy = (
        f"this machine is busy with other things: everything takes {planned.slower:.1f} times as long as on a quiet one"
    )
    return [
        *([busy] if planned.slower >= BUSY and not planned.again else []),
        *([planned.begins] if planned.begins and not planned.again else []),
        *([planned.given_up] if planned.given_up and not planned.again else []),
    ]


def _planned_in_words(planned: Plan) -> str:
    shown = [f"{stage} {duration(seconds)}" for stage, seconds in planned.stages.items() if seconds]
    return f"{', '.join(shown)}; {duration(sum(planned.stages.values()))} of {duration(3600 * planned.hours)}"


class _CountColumn(TextColumn):
    """A column of a bar that says "3 of 64", or "3" if the total is not known."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:.0f}" if task.total is None else f"{task.completed:.0f} of {task.total:.0f}")


@contextmanager
def show(console: Console, *, quiet: bool = False, first: str = "") -> Iterator[Display]:
    """Show bars on a terminal, removed at the end; lines elsewhere; nothing if `quiet`."""
    bars = console.is_terminal and not quiet
    spoken = [time.monotonic()]

    def say(line: str) -> None:
        spoken[0] = time.monotonic()
        if not quiet:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def log(line: str) -> None:
        if not bars:
            say(line)

    with Progress(
        TextColumn("{task.description:>18}"),
        BarColumn(bar_width=20),  # shrinks on a narrow terminal: nothing else wraps or is cut
        _CountColumn("{task.completed}"),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not bars,
    ) as progress:
        display = Display(progress, say, log, first)
        with _never_silent(display, say, lambda: spoken[0]) if not (bars or quiet) else nullcontext():
            yield display


@contextmanager
def _never_silent(display: Display, say: Callable[[str], None], last: Callable[[], float]) -> Iterator[None]:
    """Print a line that says what is being done whenever nothing was said for SILENCE seconds."""
    ended = threading.Event()

    def go() -> None:
        while not ended.wait(max(0.05, last() + SILENCE - time.monotonic())):
            if time.monotonic() - last() >= SILENCE:
                say(display.doing())

    teller = threading.Thread(target=go, daemon=True, name="never silent")
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
