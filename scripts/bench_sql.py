#!/usr/bin/env python
"""How long each recipe of `study sql` takes, beside the same answer through Optuna's own API, on one history.

The history is 10,000 trials of 15 epochs, written by Optuna's storage in two studies; `study sql` is timed without the
start of Python. Optuna's side is what it takes to have all trials as a table: load_study and trials_dataframe().

Usage: python scripts/bench_sql.py [--trials 10000] [--epochs 15] [--storage URL] [--runs 3] [--json]
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from study.config.resolve import resolve
from study.config.space import distributions
from study.search.open_study import open_study
from study.storage import views
from study.storage.door import open_storage
from study.storage.query import ask
from study.storage.recipes import RECIPES


def fill(url: str, name: str, trials: int, epochs: int) -> None:
    """A study of this program, as Hyperband leaves it."""
    wanted = {"epochs": epochs, "space.num_conv_blocks": [2, 3, 4], "space.use_batch_norm": [True, False]}
    config = resolve(None, {"preset": "full", "data": "digits", **wanted})
    study = open_study(open_storage(url, create=True), name, config, "content", "parts", Path("runs", name)).study
    kinds = distributions(config.space)
    sampler = optuna.samplers.RandomSampler(seed=0)
    scratch = optuna.create_study(sampler=sampler)
    for number in range(trials):
        params = scratch.ask(kinds).params
        value = ((number * 7919) % 1000) / 1000
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if number % 3 else TrialState.COMPLETE,
                value=value,
                params=params,
                distributions=kinds,
                intermediate_values={step: value * step / epochs for step in range(1, epochs + 1)},
                user_attrs={"bracket": number % 3, "seconds": 12.5, "num_params": 1000 + number},
            )
        )


def timed(work: Any, runs: int) -> float:
    """Median of the seconds."""
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def answered(url: str, sql: str) -> int:
    with ask(url, sql, 600) as answer:
        return len(list(answer.rows()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--storage", help="an empty database; without it, a new SQLite file")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        url = given.storage or f"sqlite:///{place}/optuna.db"
        for name, share in (("one", given.trials * 3 // 4), ("two", given.trials - given.trials * 3 // 4)):
            fill(url, name, share, given.epochs)
        storage = open_storage(url, create=False)
        seconds = {"views made": timed(lambda: views.refresh(storage.engine), given.runs)}
        for name in views.NAMES:
            seconds[f"all of {name}"] = timed(lambda name=name: answered(url, f"SELECT * FROM {name}"), given.runs)
        for recipe in RECIPES:
            seconds[recipe.name] = timed(lambda recipe=recipe: answered(url, recipe.sql), given.runs)

        def through_optuna() -> None:
            for name in ("one", "two"):
                optuna.load_study(study_name=name, storage=url).get_trials(deepcopy=False)

        seconds["Optuna: load all trials"] = timed(through_optuna, given.runs)
    found = {
        "machine": f"{os.cpu_count()} {platform.machine()} processors",
        "trials": given.trials,
        "epochs": given.epochs,
        "runs": given.runs,
        "seconds": seconds,
    }
    if given.json:
        print(json.dumps(found))
        return
    print(f"{found['machine']}; {given.trials} trials of {given.epochs} epochs; seconds, median of {given.runs}")
    for name, value in seconds.items():
        print(f"{name:28} {value:7.2f}")


if __name__ == "__main__":
    main()
