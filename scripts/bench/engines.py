#!/usr/bin/env python
"""Compare Ray Tune, with its Optuna searcher, with this project's engines when one worker is killed during the search.

  short  400 trials of one epoch of 0.2 seconds
  long   16 trials of 5 epochs of 0.4 seconds, each with a checkpoint of 10 MB after every epoch
  tiny   for a test

There are two workers, TPE and no pruner. Nothing is trained: an epoch is a sleep, and is noted in a file, from which
it is counted what was run twice and what was lost. When a third of the epochs are noted, one worker is killed with
SIGKILL. Both sides may begin a trial again three times.

  ours       workers of one machine, SQLite
  ours, ray  the same as actors on a Ray of this machine, SQLite
  ray tune   ray.tune with OptunaSearch, max_failures=3 (needs: pip install -e '.[bench]'); by its default each trial
             is a process of its own, "ray tune, reuse" has reuse_actors=True

Usage: python scripts/bench/engines.py [--only "ours/ray tune"] [--tasks short,long] [--runs 1] [--json]   (ten minutes)
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from harness import Cell, Row, among, medians, run, table
from optuna.trial import TrialState
from overhead import curve

from models.training.checkpoint import Checkpoints
from models.training.learner import make_learner
from models.training.loop import EpochResult
from models.training.recipe import TrainConfig
from study.config.resolve import resolve
from study.search.cluster import ray_actors
from study.search.local import local_processes
from study.search.opening import open_all
from study.search.trial import TrialNews, objective
from study.search.worker import at_work, search
from study.training.start import TrainingRun

WORKERS = 2
MEGABYTES = 10

HERE = Path(__file__).resolve().parent
ROOT, OTHERS = HERE.parents[1], os.environ.get("PYTHONPATH", "")
os.environ["PYTHONPATH"] = f"{HERE}:{ROOT}:{OTHERS}"  # where workers find this file
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"


@dataclass(frozen=True)
class Task:
    """Task that all sides run."""

    trials: int
    epochs: int
    seconds: float  # duration of an epoch
    checkpoint: bool  # whether one is written after each epoch


TASKS = {
    "short": Task(400, 1, 0.2, checkpoint=False),
    "long": Task(16, 5, 0.4, checkpoint=True),
    "tiny": Task(8, 2, 0.2, checkpoint=True),
}


def note(file: Path, trial: object, epoch: int) -> None:
    with file.open("a") as handle:
        handle.write(f"{trial} {epoch} {os.getpid()}\n")


def noted(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def work(name: str, url: str, device: torch.device, threads: int | None) -> Iterator[TrialNews]:
    """Do the work of our workers: the real search, in which a training only sleeps."""
    folder = Path(url.removeprefix("sqlite:///")).parent
    task = Task(**json.loads((folder / "task.json").read_text()))
    with at_work(name, url, threads) as opened:

        def start(place: Any, params: Any, seed: int, checkpoints: Checkpoints, after_step: object) -> TrainingRun:
            width = MEGABYTES * 10**6 // 4 // 202 if task.checkpoint else 1
            layers = torch.nn.Flatten(), torch.nn.Linear(192, width), torch.nn.Linear(width, 10)
            model = torch.nn.Sequential(*layers)  # the best network is kept, and predicts the digits
            learner = make_learner(model, TrainConfig(epochs=1, learning_rate=1.0))  # type: ignore[arg-type]
            number = int(checkpoints._folder.name.rpartition("-")[2])

            def epochs() -> Iterator[EpochResult]:
                done = checkpoints.restore(learner)
                yield from done
                for result in islice(curve(params), len(done), task.epochs):
                    time.sleep(task.seconds)
                    note(folder / "epochs.log", number, result.epoch)
                    done.append(result)
                    if task.checkpoint:
                        checkpoints.after_epoch(learner, done)
                    yield done[-1]

            return TrainingRun(model, learner, epochs())  # type: ignore[arg-type]

        yield from search(opened.study, objective(opened.workspace(device), start))


def ours(task: Task, folder: Path, engine: Any) -> set[str]:
    """Run the task with one of our engines; return the numbers of the trials that ended."""
    given = {"data": "digits", "preset": "quick", "image_size": 8, "trials": task.trials, "baseline": {}}
    given |= {"sampler": "tpe", "pruner": "none", "epochs": task.epochs, "min_epochs": 1, "checkpoint_seconds": 0}
    given |= {"workers": WORKERS, "space.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    given |= {"space.conv_dropout": {"low": 0.0, "high": 0.5}}
    url = f"sqlite:///{folder}/optuna.db"
    study = open_all(resolve(None, given), "s", url, create=True).study
    from engines import work  # by its module's name, which workers on a cluster can find

    for _ in engine("s", url, ["cpu"] * WORKERS, work):
        pass
    return {str(trial.number) for trial in study.trials(TrialState.COMPLETE)}


def tune(task: Task, folder: Path, *, reuse: bool) -> set[str]:
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def trainable(point: dict[str, Any]) -> None:
        done, context = 0, tune.get_context()
        content = {"weights": torch.zeros(MEGABYTES * 10**6 // 4)}
        if there := tune.get_checkpoint():
            with there.as_directory() as place:
                done = torch.load(Path(place) / "state.pt", weights_only=True)["epoch"]
        for result in islice(curve(point), done, task.epochs):
            time.sleep(task.seconds)
            note(folder / "epochs.log", context.get_trial_id(), result.epoch)
            metrics = {"accuracy": result.val_accuracy}
            if not task.checkpoint:
                tune.report(metrics)
                continue
            with tempfile.TemporaryDirectory() as place:
                torch.save({**content, "epoch": result.epoch}, Path(place) / "state.pt")
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(place))

    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=WORKERS)
    try:
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"learning_rate": tune.loguniform(1e-4, 1e-2), "conv_dropout": tune.uniform(0.0, 0.5)},
            tune_config=tune.TuneConfig(
                metric="accuracy",
                mode="max",
                search_alg=OptunaSearch(seed=0),
                num_samples=task.trials,
                max_concurrent_trials=WORKERS,
                reuse_actors=reuse,
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=3),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        ).fit()
        return {
            str(one.metrics["trial_id"])
            for one in results
            if not one.error and one.metrics and one.metrics.get("training_iteration", 0) >= task.epochs
        }
    finally:
        ray.shutdown()


def kill_one(file: Path, at: int, ended: threading.Event) -> None:
    """Send SIGKILL to the worker that noted the last epoch, in the middle of its next one."""
    while len(noted(file)) < at and not ended.wait(0.02):
        pass
    if not ended.is_set():
        trial, epoch, pid = noted(file)[-1]
        time.sleep(0.1)
        os.kill(int(pid), signal.SIGKILL)
        print(f"killed process {pid} after epoch {epoch} of trial {trial}", file=sys.stderr)


SIDES: dict[str, Callable[[Task, Path], set[str]]] = {
    "ours": lambda task, folder: ours(task, folder, local_processes),
    "ours, ray": lambda task, folder: ours(task, folder, ray_actors(None, 0)),
    "ray tune": lambda task, folder: tune(task, folder, reuse=False),
    "ray tune, reuse": lambda task, folder: tune(task, folder, reuse=True),
}


def measure(side: str, name: str) -> Row:
    """Run a task on one side, and measure the seconds of the whole call, including the start and end of the workers."""
    task = TASKS[name]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder, ended, before = Path(place), threading.Event(), Path.cwd()
        (folder / "task.json").write_text(json.dumps(asdict(task)))
        file = folder / "epochs.log"
        killer = threading.Thread(target=kill_one, args=(file, task.trials * task.epochs // 3, ended))
        killer.start()
        os.chdir(folder)
        try:
            start = time.perf_counter()
            finished = SIDES[side](task, folder)
            seconds = time.perf_counter() - start
        finally:
            os.chdir(before)
            ended.set()
            killer.join()
        times = Counter((trial, epoch) for trial, epoch, _ in noted(file))
        return {
            "task": name,
            "side": side,
            "seconds": round(seconds, 1),
            "ideal": task.trials * task.epochs * task.seconds / WORKERS,
            "trials with an epoch run twice": len({trial for (trial, _), count in times.items() if count > 1}),
            "epochs run twice": sum(times.values()) - len(times),
            "trials lost": task.trials - len(finished),
        }


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    for number in range(given.runs):
        for name in given.tasks:
            for side in given.only:
                yield f"run {number + 1}, {name}, {side}", partial(measure, side, name)


if __name__ == "__main__":
    tasks = {**among(TASKS), "default": ["short", "long"]}
    options = {"--only": among(SIDES, "/"), "--tasks": tasks, "--runs": 1}
    run(__doc__ or "", cells, options, lambda rows: table(medians(rows, "task", "side", "ideal")))
