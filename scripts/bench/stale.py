#!/usr/bin/env python
"""Loss of TPE and Hyperband when many workers search at once, because each decides before the others have ended.

Nothing is trained: learning curves come from a surrogate of LCBench (multilayer perceptrons on OpenML tasks), and
workers run in a simulated time in which an epoch takes as long as the surrogate says. All crews get the same number of
epochs, counted over all workers; they differ only in how much of the history exists when a trial is drawn or judged.

Regret: (best of 50,000 random points at epoch 50 - value at epoch 50 of the point with the best value seen) / (best -
median) x 100; the mean over tasks and seeds, with the standard error over tasks of the difference to one worker.

Usage: python scripts/bench/stale.py FOLDER_OF_THE_TABLES [--workers 1 4 16 64] [--seeds 2] [--json]   (20 minutes)
"""

import argparse
import heapq
import json
import math
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import optuna
from harness import Cell, Row, run, table
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from study.config.resolve import resolve
from study.search.sampling import make_pruner

TASKS = (
    3945,
    34539,
    126026,
    146212,
    167104,
    167152,
    167168,
    167184,
    167190,
    167201,
    168330,
    168335,
    168908,
    189354,
    189865,
    189873,
    189906,
    189909,
)
"""OpenML tasks of the surrogate."""
SPACE: dict[str, BaseDistribution] = {
    "batch_size": IntDistribution(16, 512, log=True),
    "learning_rate": FloatDistribution(1e-4, 0.1, log=True),
    "momentum": FloatDistribution(0.1, 0.99),
    "weight_decay": FloatDistribution(1e-5, 0.1),
    "num_layers": IntDistribution(1, 5),
    "max_units": IntDistribution(64, 1024, log=True),
    "max_dropout": FloatDistribution(0.0, 1.0),
}
"""Space of the surrogate, in the order of its inputs."""
EPOCHS, LEAST, ETA = 50, 2, 3
SPENT = (500, 1000, 2000)
"""Numbers of epochs, of all workers together, after which the regret is taken."""


class Task:
    """Task of the surrogate, with its learning curves."""

    def __init__(self, session: onnxruntime.InferenceSession, code: int) -> None:
        self._session, self._code = session, code
        rng = np.random.default_rng(0)
        ends = self._run(np.column_stack([np.full(50_000, EPOCHS), *(draw(rng, one) for one in SPACE.values())]))[:, 1]
        self.best, self.median = float(ends.max()), float(np.median(ends))

    def _run(self, rows: np.ndarray) -> np.ndarray:
        codes = np.full((len(rows), 1), self._code, np.int32)
        found: np.ndarray = self._session.run(None, {"x_cat": codes, "x_cont": rows.astype(np.float32)})[0]
        return found

    def curve(self, point: dict[str, Any]) -> tuple[np.ndarray, float]:
        """Return the accuracies in percent after each of the 50 epochs, and the time of an epoch."""
        values = [point[name] for name in SPACE]
        found = self._run(np.array([[epoch, *values] for epoch in range(1, EPOCHS + 1)]))
        return found[:, 1], max(float(found[-1, 0]) / EPOCHS, 1e-6)

    def regret(self, last: float) -> float:
        return 100 * (self.best - last) / (self.best - self.median)


def draw(rng: np.random.Generator, one: BaseDistribution) -> np.ndarray:
    assert isinstance(one, FloatDistribution | IntDistribution)
    low, high = (math.log(one.low), math.log(one.high)) if one.log else (one.low, one.high)
    values = rng.uniform(low, high, 50_000)
    values = np.exp(values) if one.log else values
    return np.round(values) if isinstance(one, IntDistribution) else values


def search(task: Task, workers: int, seed: int) -> dict[int, float]:
    """Simulate a search; return the regret after each number of epochs in SPENT."""
    config = resolve(None, {"preset": "quick", "epochs": EPOCHS, "min_epochs": LEAST, "eta": ETA, "seed": seed})
    sampler, pruner = optuna.samplers.TPESampler(seed=seed, multivariate=True), make_pruner(config)
    study = optuna.create_study(study_name=f"s{seed}", sampler=sampler, pruner=pruner, direction="maximize")
    begun: dict[int, tuple[optuna.Trial, np.ndarray, float]] = {}

    def begin(at: float, worker: int) -> None:
        trial = study.ask(SPACE)
        begun[worker] = (trial, *task.curve(trial.params))
        heapq.heappush(events, (at + begun[worker][2], worker, 1))

    events: list[tuple[float, int, int]] = []
    for worker in range(workers):
        begin(0.0, worker)
    best, last, found = -math.inf, 0.0, dict[int, float]()
    for spent in range(1, SPENT[-1] + 1):
        at, worker, epoch = heapq.heappop(events)
        trial, values, seconds = begun[worker]
        value = float(values[epoch - 1])
        trial.report(value, epoch)
        if value > best:
            best, last = value, float(values[-1])
        if spent in SPENT:
            found[spent] = task.regret(last)
        if epoch == EPOCHS:
            study.tell(trial, value)
        elif trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
        else:
            heapq.heappush(events, (at + seconds, worker, epoch + 1))
            continue
        begin(at, worker)
    return found


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    codes = json.loads((given.folder / "lcbench_encoding.json").read_text())["OpenML_task_id"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(given.folder / "lcbench_model.onnx", options)
    task = cache(lambda number: Task(session, codes[str(number)]))

    def regrets(number: int, workers: int) -> Row:
        seeds = [list(search(task(number), workers, seed).values()) for seed in range(given.seeds)]
        return {"task": number, "workers": workers, "regrets": seeds}

    for number in TASKS[: given.tasks]:
        for workers in given.workers:
            yield f"task {number}, {workers} workers", partial(regrets, number, workers)


def show(rows: list[Row]) -> str:
    """Show the mean regret, and its difference to the first number of workers with the standard error over tasks."""
    crews = list(dict.fromkeys(row["workers"] for row in rows))
    found = {crew: np.array([np.mean(row["regrets"], 0) for row in rows if row["workers"] == crew]) for crew in crews}
    lines = []
    for crew, each in found.items():  # [tasks, looks]
        more = each - found[crews[0]]
        errors = more.std(0, ddof=1) / math.sqrt(len(more)) if len(more) > 1 else np.zeros(len(SPENT))
        said = [f"{mean:.2f}" for mean in each.mean(0)]
        if crew != crews[0]:
            ends = zip(said, more.mean(0), errors, strict=True)
            said = [f"{mean} ({plus:+.2f} ± {error:.2f})" for mean, plus, error in ends]
        lines.append({"workers": crew, **{f"{spent} epochs": one for spent, one in zip(SPENT, said, strict=True)}})
    return table(lines)


if __name__ == "__main__":
    options = {"folder": Path, "--workers": [1, 4, 16, 64], "--seeds": 2, "--tasks": len(TASKS)}
    run(__doc__ or "", cells, options, show)
