"""`study status NAME --watch`: a study as it runs, drawn again every few seconds."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from data import counted
from models.bundle.card import percent
from study.attributes import SECONDS, number
from study.cli.console import duration, plain
from study.cli.standing import Stage, finished_model_card, stage_of
from study.result.report import rungs_table
from study.search.open_study import OpenStudy, existing
from study.search.standing import best_first
from study.storage.door import open_storage
from study.storage.owners.leases import holders_in_words

REFRESH_SECONDS = 2.0
IDLE_LOOKS = 10
"""Number of looks at a study that nobody works on, after which it counts as ended."""


@dataclass(frozen=True)
class RunningTrial:
    """A trial that is running."""

    number: int
    epoch: int
    epochs: int
    value: float | None
    worker: str


@dataclass(frozen=True)
class Snapshot:
    """The state of a study at one moment, as far as it is drawn."""

    name: str
    done: int
    pruned: int
    wanted: int | None
    best: tuple[int, float] | None  # (trial, selection score)
    running: tuple[RunningTrial, ...]
    rungs: tuple[tuple[int, int, int, int], ...]  # (bracket, rung, entered, promoted)
    left: str
    stage: Stage
    idle: bool  # nobody works on it, as far as one can see from here


def glance(name: str, url: str) -> Snapshot:
    """Look at a study once, as a reader: no worker waits for it."""
    storage = open_storage(url, create=False, write=False)
    try:
        study = existing(storage, name, url)
        own, held = study.own_trials(), holders_in_words(storage)
        complete = [trial for trial in own if trial.state == TrialState.COMPLETE]
        best = next(iter(best_first(complete)), None)
        running = [_running(trial, study, held) for trial in study.trials(TrialState.RUNNING)]
        stage = stage_of(study, finished_model_card(study))
        return Snapshot(
            name=study.name,
            done=len(own),
            pruned=len(own) - len(complete),
            wanted=study.config.trials,
            best=None if best is None else (best.number, best.value or 0.0),
            running=tuple(running),
            rungs=tuple(rungs_table(own, study.config)),
            left="" if stage == "finished" else _left(study, own, len(running)),
            stage=stage,
            idle=not study.clock.is_held(),
        )
    finally:
        storage.close()


def _running(trial: FrozenTrial, study: OpenStudy, held: dict[int, str]) -> RunningTrial:
    seen = trial.intermediate_values
    return RunningTrial(
        number=trial.number,
        epoch=max(seen, default=0),
        epochs=study.config.epochs,
        value=seen[max(seen)] if seen else None,
        worker=held.get(trial._trial_id, "left behind; the next run goes on with it"),
    )


def _left(study: OpenStudy, own: list[FrozenTrial], workers: int) -> str:
    """Return the time left in words, by the hours or, without hours, by what the trials took so far."""
    hours = study.hours()
    if hours is not None:
        search = max(0.0, study.search_seconds_left())
        whole = max(0.0, 3600 * hours - study.clock.spent())
        return f"{duration(search)} left in the search, {duration(whole)} in all"
    seconds = [number(trial.user_attrs, SECONDS) or 0.0 for trial in own]
    if study.config.trials is None or not seconds:
        return ""
    left = max(0, study.config.trials - len(own)) * sum(seconds) / len(seconds) / max(1, workers)
    return f"about {duration(left)} left in the search"


def follow(name: str, url: str, console: Console) -> bool:
    """Draw a study until it has ended: on a terminal in place, elsewhere a line for each change.

    Returns True if it has ended, and False if nobody works on it.
    """
    looks = _looks(name, url)
    one: Snapshot | None = next(looks)
    if not console.is_terminal:
        before = ""
        while one:
            if (line := _line(one)) != before:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            before, last, one = line, one, next(looks, None)
        return last.stage == "finished"
    with Live(console=console, auto_refresh=False) as live:
        while one:
            live.update(_drawn(one), refresh=True)
            last, one = one, next(looks, None)
    return last.stage == "finished"


def _looks(name: str, url: str) -> Iterator[Snapshot]:
    """Yield looks at a study until it has ended, or nobody worked on it for a while: a dead worker may be replaced."""
    idle = 0
    while True:
        one = glance(name, url)
        yield one
        idle = idle + 1 if one.idle else 0
        if one.stage == "finished" or idle >= IDLE_LOOKS:
            return
        time.sleep(REFRESH_SECONDS)


def _standing(one: Snapshot) -> str:
    trials = counted(one.done, "trial") if one.wanted is None else f"{one.done} of {counted(one.wanted, 'trial')}"
    best = "" if one.best is None else f"; best {percent(one.best[1])} (trial {one.best[0]})"
    return f"{one.name}: {one.stage}; {trials} done, {one.pruned} pruned{best}"


def _line(one: Snapshot) -> str:
    """Return a line on a study without the time left, which changes at every look."""
    running = ", ".join(f"trial {row.number} epoch {row.epoch}" for row in one.running)
    return plain(_standing(one) + (f"; running: {running}" if running else ""))


def _drawn(one: Snapshot) -> Group:
    running = Table("trial", "epoch", "score", "worker", box=None, pad_edge=False)
    for row in one.running:
        value = "" if row.value is None else percent(row.value)
        running.add_row(str(row.number), f"{row.epoch}/{row.epochs}", value, escape(plain(row.worker)))
    rungs = Table("bracket", "rung (epochs)", "entered", "promoted", box=None, pad_edge=False)
    for numbers in one.rungs:
        rungs.add_row(*map(str, numbers))
    parts: list[str | Table] = [escape(plain(_standing(one))), one.left]
    parts += [running] if one.running else []
    parts += [rungs] if one.rungs else []
    return Group(*(part for part in parts if part))
