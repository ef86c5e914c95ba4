#!/usr/bin/env python
"""Overhead of the study around the training: processor and wall-clock milliseconds of a trial, and plain Optuna's.

A trial has twelve parameters and fifteen reports, with TPE and Hyperband, in SQLite; its training is replaced by a
curve that is computed at once. The history is first filled up to 100, 1,000 or 10,000 trials, then some trials are
timed. Plain Optuna is a loop of ask, suggest, report, should_prune and tell on the storage that Optuna makes by itself,
and on one with the write-ahead log that we use.

Usage: python scripts/bench/overhead.py [--sizes 100 1000 10000] [--trials 20] [--workers 1 2 4 8 16 32] [--json]
       (twenty minutes)
"""

import argparse
import itertools
import math
import multiprocessing
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from harness import Cell, Row, run, table
from optuna.trial import TrialState

from data.datasets import load
from data.splits import make_parts
from models.training.checkpoint import Checkpoints
from models.training.learner import make_learner
from models.training.loop import EpochResult
from models.training.recipe import TrainConfig
from study.config.resolve import resolve
from study.config.schema import StudyConfig
from study.config.space import distributions
from study.search.opening import open_study
from study.search.sampling import make_pruner
from study.search.trial import TrialEnd, objective
from study.search.worker import search
from study.storage.backend import drop_views
from study.storage.door import open_storage
from study.storage.sqlite.copies import copy_file
from study.training.start import TrainingRun
from study.training.workspace import Workspace, make_workspace

SIDES = ("plain Optuna", "plain Optuna, wal", "ours", "ours without views")
EPOCHS = 15
WARM = 3
SPACE = {
    "num_conv_blocks": [1, 2, 3],
    "base_filters": [4, 8],
    "filters_multiplier": [1, 2],
    "kernel_sizes": ["3-3-3", "5-3-3"],
    "use_batch_norm": [True, False],
    "conv_dropout": {"low": 0.0, "high": 0.5},
    "dense_units": ["none", "64"],
    "dense_dropout": {"low": 0.0, "high": 0.5},
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
    "label_smoothing": {"low": 0.0, "high": 0.2},
    "augment_strength": {"low": 0.0, "high": 2.0},
}


def make_config(trials: int, sampler: str) -> StudyConfig:
    given = {"data": "digits", "preset": "quick", "image_size": 8, "space": SPACE, "baseline": {}, "trials": trials}
    return resolve(None, {**given, "sampler": sampler, "epochs": EPOCHS, "min_epochs": 1, "eta": 3})


def curve(params: dict[str, Any]) -> Iterator[EpochResult]:
    """Yield a learning curve by a formula: it is better with a learning rate near 0.002 and little dropout."""
    best = 0.95 - 0.05 * abs(math.log10(params["learning_rate"] / 0.002)) - 0.1 * params["conv_dropout"]
    for epoch in range(1, EPOCHS + 1):
        value = best * (1 - math.exp(-epoch / 4))
        right = dict.fromkeys(("train_accuracy", "val_accuracy", "val_balanced_accuracy"), value)
        lost = dict.fromkeys(("train_loss", "val_loss"), 1 - value)
        yield EpochResult(epoch=epoch, learning_rate=0.001, images=1000, seconds=1.0, **right, **lost)


def no_training(
    work: Workspace, params: dict[str, Any], seed: int, checkpoints: Checkpoints, after_step: object
) -> TrainingRun:
    pixels, classes = 3 * work.config.image_size**2, len(work.dataset.classes)  # the best network predicts val
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, classes))
    return TrainingRun(model, make_learner(model, TrainConfig(epochs=1, learning_rate=1.0)), curve(params))  # type: ignore[arg-type]


def fill(study: optuna.Study, config: StudyConfig, size: int) -> None:
    """Add finished trials as a long search would have left them, each in one transaction."""
    space = distributions(config.space)
    sampler = optuna.samplers.RandomSampler(seed=0)
    have = len(study.get_trials(deepcopy=False))
    for number in range(have, size):
        frozen = optuna.trial.create_trial(state=TrialState.RUNNING)
        params = {name: sampler.sample_independent(study, frozen, name, one) for name, one in space.items()}
        epochs = EPOCHS if number % 3 == 0 else 1 + number % 2 * 2
        values = [result.val_accuracy or 0.0 for result in itertools.islice(curve(params), epochs)]
        rungs = {f"completed_rung_{rung}": values[3**rung - 1] for rung in range(3) if len(values) >= 3**rung}
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE if len(values) == EPOCHS else TrialState.PRUNED,
                value=values[-1],
                params=params,
                distributions=space,
                intermediate_values=dict(enumerate(values, start=1)),
                system_attrs=rungs,
                user_attrs={"seconds": 1.0},
            )
        )


def ours(url: str, folder: Path, trials: int, sampler: str, *, seen: bool = True) -> Iterator[int]:
    """Run the next trials, up to `trials` in all; yield at the end of each. Without `seen` there are no views."""
    config = make_config(trials, sampler)
    dataset = load("digits", config.image_size, Path(tempfile.gettempdir()) / "bench-cache", groups="none")
    parts = make_parts(dataset.labels, dataset.groups, dataset.classes, dataset.paths, 0)
    work = make_workspace(config, dataset, parts, torch.device("cpu"), folder / "runs" / "s")
    study = open_study(open_storage(url, create=True), "s", config, dataset.fingerprint, parts.hash, work.folder)
    if not seen:
        with study.storage.engine.begin() as connection:
            drop_views(connection)
    return (news.number for news in search(study, objective(work, no_training)) if isinstance(news, TrialEnd))


def plain(url: str, trials: int, sampler: str, *, wal: bool) -> Iterator[int]:
    """Run the next trials, up to `trials` in all, with Optuna alone; yield at the end of each."""
    config = make_config(trials, sampler)
    if wal:
        sqlite3.connect(url.removeprefix("sqlite:///")).execute("PRAGMA journal_mode=WAL")
    kind = optuna.samplers.TPESampler if sampler == "tpe" else optuna.samplers.RandomSampler
    study = optuna.load_study(study_name="s", storage=url, sampler=kind(seed=0), pruner=make_pruner(config))

    for number in range(len(study.get_trials(deepcopy=False)), trials):
        trial = study.ask()
        params = {name: trial._suggest(name, one) for name, one in distributions(config.space).items()}
        state, value = TrialState.COMPLETE, 0.0
        for result in curve(params):
            value = result.val_accuracy or 0.0
            trial.report(value, result.epoch)
            if result.epoch < EPOCHS and trial.should_prune():
                state = TrialState.PRUNED
                break
        study.tell(trial, None if state == TrialState.PRUNED else value, state=state)
        yield number


def history(folder: Path, size: int, sampler: str) -> Path:
    """Return a database with `size` trials, which is made only once."""
    file = folder / f"{sampler}-{size}.db"
    if not file.exists():
        url = f"sqlite:///{file}"
        ours(url, folder, size, sampler)
        study = optuna.load_study(study_name="s", storage=open_storage(url, create=False))
        fill(study, make_config(size, sampler), size)
        study._storage.remove_session()
    return file


def measure(side: str, histories: Path, size: int, trials: int, sampler: str) -> Row:
    filled = history(histories, size, sampler)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        url = f"sqlite:///{folder}/optuna.db"
        copy_file(filled, folder / "optuna.db")
        total = size + WARM + trials
        if side.startswith("ours"):
            run = ours(url, folder, total, sampler, seen=side == "ours")
        else:
            run = plain(url, total, sampler, wal="wal" in side)
        first = list(itertools.islice(run, WARM))  # the first one reads the whole history, once per process
        wall, cpu = time.perf_counter(), time.process_time()
        ran = len(list(run))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert (len(first), ran) == (WARM, trials)
        study = optuna.load_study(study_name="s", storage=open_storage(url, create=False))
        new = [trial for trial in study.get_trials() if trial.number >= size + WARM]
        reports = sum(len(trial.intermediate_values) for trial in new)
    return {
        "sampler": sampler,
        "history": size,
        "side": side,
        "CPU ms a trial": 1000 * cpu / ran,
        "wall ms a trial": 1000 * wall / ran,
        "reports a trial": reports / ran,
        "CPU ms a report": 1000 * cpu / reports,
    }


def _one_of_many(url: str, folder: Path, trials: int, sampler: str, gate: Any) -> None:
    run = ours(url, folder, trials, sampler)
    gate.wait()
    list(run)


def many(workers: int, trials: int, sampler: str, server: str | None) -> Row:
    """Measure the trials and reports a second of several processes that train nothing: the limit of the database."""
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory() as place:
        folder, url = Path(place), server or f"sqlite:///{place}/optuna.db"
        ours(url, folder, trials, sampler)
        gate = context.Barrier(workers + 1)
        processes = [
            context.Process(target=_one_of_many, args=(url, folder, trials, sampler, gate)) for _ in range(workers)
        ]
        for process in processes:
            process.start()
        gate.wait()
        start = time.perf_counter()
        for process in processes:
            process.join()
        seconds = time.perf_counter() - start
        storage = open_storage(url, create=False)
        found = optuna.load_study(study_name="s", storage=storage).get_trials(deepcopy=False)
        assert [trial.number for trial in found if trial.state.is_finished()] == list(range(trials))
        reports = sum(len(trial.intermediate_values) for trial in found)
        optuna.delete_study(study_name="s", storage=storage)
    side = "PostgreSQL" if server else "SQLite"
    each = {"trials a second": trials / seconds, "reports a second": reports / seconds}
    return {"workers": workers, "database": side, "trials": trials, **each}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        for sampler, size, side in itertools.product(given.samplers, given.sizes, SIDES):
            work = partial(measure, side, Path(place), size, given.trials, sampler)
            yield f"{sampler}, {size} trials, {side}", work
    for workers, server in itertools.product(given.workers, [None, given.server] if given.server else [None]):
        name = f"{workers} workers on {'PostgreSQL' if server else 'SQLite'}"
        yield name, partial(many, workers, given.crew_trials, "tpe", server)


def show(rows: list[Row]) -> str:
    """Show a table of the sides, then one of the crews of several workers."""
    halves = ([row for row in rows if ("workers" in row) == crew] for crew in (False, True))
    return "\n\n".join(table(half) for half in halves if half)


if __name__ == "__main__":
    options = {"--sizes": [100, 1000, 10_000], "--trials": 20, "--samplers": ["tpe", "random"]}
    server = {"help": "an empty PostgreSQL database, for crews on it beside those on SQLite"}
    options |= {"--workers": [1, 2, 4, 8, 16, 32], "--crew-trials": (400, "of all workers of a crew together")}
    run(__doc__ or "", cells, {**options, "--server": server}, show)
