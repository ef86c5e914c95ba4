#!/usr/bin/env python
"""Time of each recipe of `study sql`, compared with Optuna's own API on the same history.

The history is 10,000 trials of 15 epochs, written by Optuna's storage in two studies; `study sql` is timed without the
start of Python. Optuna's side loads all trials: load_study and get_trials().

Usage: python scripts/bench/sql.py [--trials 10000] [--epochs 15] [--storage URL] [--runs 3] [--json]
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import optuna
from harness import Cell, Row, run, seconds
from optuna.trial import TrialState, create_trial

from study.config.resolve import resolve
from study.config.space import distributions
from study.history import views
from study.history.query import ask
from study.history.recipes import RECIPES
from study.search.opening import open_study
from study.storage.backend import VIEWS
from study.storage.door import open_storage


def fill(url: str, name: str, trials: int, epochs: int) -> None:
    """Fill a study of this program with trials as Hyperband would leave them."""
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


def filled(url: str, trials: int, epochs: int) -> None:
    """Fill two studies in one database, with three quarters of the trials in the first one."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name, share in (("one", trials * 3 // 4), ("two", trials - trials * 3 // 4)):
        fill(url, name, share, epochs)


def answered(url: str, sql: str) -> int:
    with ask(url, sql, 600) as answer:
        return len(list(answer.rows()))


def through_optuna(url: str) -> None:
    for name in ("one", "two"):
        optuna.load_study(study_name=name, storage=url).get_trials(deepcopy=False)


def timed(work: Callable[[], object], runs: int) -> Row:
    return {"seconds, median": statistics.median(seconds(work) for _ in range(runs)), "n": runs}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    with tempfile.TemporaryDirectory() as place:
        url = given.storage or f"sqlite:///{place}/optuna.db"
        filled(url, given.trials, given.epochs)
        engine = open_storage(url, create=False).engine
        works: dict[str, Callable[[], object]] = {"views made": partial(views.refresh, engine)}
        works |= {f"all of {name}": partial(answered, url, f"SELECT * FROM {name}") for name in VIEWS}
        works |= {recipe.name: partial(answered, url, recipe.sql) for recipe in RECIPES}
        works["Optuna: load all trials"] = partial(through_optuna, url)
        for name, work in works.items():
            yield name, partial(timed, work, given.runs)


if __name__ == "__main__":
    storage = {"help": "an empty database; without it, a new SQLite file"}
    run(__doc__ or "", cells, {"--trials": 10_000, "--epochs": 15, "--storage": storage, "--runs": 3})
