#!/usr/bin/env python
"""Record learning curves of points of the `auto` space, for `search.py` to replay strategies on.

Each task has 16 points: eight that somebody would begin with, and eight drawn at random. Each is trained on train from
fresh weights for 3, 9, 18 and 36 epochs at 32 px, since a schedule depends on its length, and so a short training is
not the beginning of a long one. Kept are the metric on val after each epoch, and both accuracies on test after the
last. With `--seconds` the time of an epoch of each point is measured instead; the machine must then be quiet.

Usage: python scripts/bench/curves.py TASK=DATA[,GROUPS] ... --keep FILE [--seconds]      (digits=digits hands=DIR ...)
       python scripts/bench/curves.py --pack FILE OUT.json.gz
"""

import argparse
import gzip
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from batch import training_of
from harness import Cell, Row, run
from reference import CPU

from models.scores.evaluation import mean_recall, predict_logits
from study.budget.plan import TIERS
from study.budget.starts import starts
from study.config.draw import draw_uniform
from study.config.presets import PRESETS, STRONG
from study.config.schema import StudyConfig
from study.config.space import distributions
from study.search.opening import load_parts
from study.training.start import value_of
from study.training.workspace import Workspace, make_workspace

LENGTHS = (3, 9, 18, 36)
DRAWN, BEGUN = 8, 8
UNEQUAL = 3.0
"""Ratio of the largest class to the smallest from which on each class counts the same, as in a plan."""
MORE: tuple[dict[str, Any], ...] = (
    {"block": "residual", "num_conv_blocks": 3, "stem_stride": 1, "augment_turns": False},
    {"block": "residual", "num_conv_blocks": 4, "stem_stride": 1, "augment_turns": False, "learning_rate": 6e-3},
    {"block": "plain", "num_conv_blocks": 5, "stem_stride": 1, "weight_decay": 0.01},
    {"block": "residual", "num_conv_blocks": 4, "stem_stride": 2, "augment_strength": 1.0, "schedule": "cosine"},
)
"""Further points that somebody would begin with, as changes to STRONG."""


def points(config: StudyConfig) -> list[dict[str, Any]]:
    """Return first the points to begin with, then those drawn within the limit, which are the same for every task."""
    begun = starts(config)
    usual, width = begun[0], begun[1]["base_filters"]
    begun += [{**usual, **STRONG, "base_filters": width, **row} for row in MORE]
    kinds, rng, drawn = distributions(config.space), np.random.default_rng(0), []
    while len(drawn) < DRAWN:
        one = draw_uniform(kinds, rng)
        if config.above_limit(one) is None:
            drawn.append(one)
    return [*begun[:BEGUN], *drawn]


def opened(task: str, place: Path) -> Workspace:
    """Load the images of a task NAME=DATA[,GROUPS], divided into their own parts."""
    data, _, groups = task.partition("=")[2].partition(",")
    fields = {**PRESETS["auto"], **TIERS[2].fields, "data": data, "hours": None, "starts": [], "rivals": []}
    fields |= {"confirm": 1, "confirm_epochs": None, "final_epochs": 9, "final_seeds": 1, "pruner": "none"}
    fields |= {"metric": "accuracy", "class_weights": "none", "groups": groups or None}
    config = StudyConfig.model_validate(fields)
    dataset, parts = load_parts(config, place, None)
    counts = np.bincount(dataset.labels)
    if counts.max() >= UNEQUAL * counts.min():
        config = config.model_copy(update={"metric": "balanced_accuracy", "class_weights": "balanced"})
    return make_workspace(config, dataset, parts, CPU, place)


def trained(work: Workspace, point: dict[str, Any], length: int) -> Row:
    """Record the curve of one training, and the accuracies of its last weights on test."""
    training = training_of(work, point, length, "auto", 0)
    values, taken = [], []
    for result in training.epochs:
        values.append(0.0 if result.diverged else round(value_of(result, work.config), 4))
        taken.append(result.seconds)
        if result.diverged:
            return {"val": values, "test": 0.0, "balanced": 0.0, "seconds": min(taken)}
    logits = predict_logits(training.model, work.eval_batches("test"), ("",))
    named, labels = logits.argmax(-1), work.dataset.labels[work.parts.test]
    test, balanced = float((named == labels).mean()), mean_recall(named, labels)
    return {"val": values, "test": round(test, 4), "balanced": round(balanced, 4), "seconds": min(taken)}


def timed(work: Workspace, point: dict[str, Any]) -> Row:
    """Measure the seconds of an epoch: the median of three after the first."""
    taken = [result.seconds for result in training_of(work, point, 4, "auto", 0).epochs]
    return {"seconds": statistics.median(taken[1:])}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    with tempfile.TemporaryDirectory() as place:
        for task in given.tasks:
            name = task.partition("=")[0]
            work = opened(task, Path(place))
            about = {"task": name, "metric": work.config.metric, "images": len(work.parts.train)}
            for number, point in enumerate(points(work.config)):
                if given.seconds:
                    yield f"{name} {number} seconds", partial(told, {**about, "point": number}, timed, work, point)
                    continue
                for length in given.lengths:
                    what = {**about, "point": number, "begun": number < BEGUN, "length": length, "params": point}
                    yield f"{name} {number} {length}", partial(told, what, trained, work, point, length)


def told(about: Row, measure: Any, *rest: Any) -> Row:
    return {**about, **measure(*rest)}


def pack(rows: Path, out: Path) -> None:
    """Pack all rows into one JSON file; their seconds are those measured with --seconds, if there are any."""
    lines = [json.loads(line)["row"] for line in rows.read_text().splitlines()]
    kept = list({row["name"]: row for row in lines}.values())
    seconds = {(row["task"], row["point"]): row["seconds"] for row in kept if "length" not in row}
    found = [row for row in kept if "length" in row]
    for row in found:
        row["seconds"] = round(seconds.get((row["task"], row["point"]), row["seconds"]), 4)
        del row["name"]
    out.write_bytes(gzip.compress(json.dumps(found, separators=(",", ":")).encode(), mtime=0))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pack"]:
        pack(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        options = {"tasks": {"nargs": "+", "metavar": "TASK=DATA[,GROUPS]"}, "--seconds": False}
        options["--lengths"] = list(LENGTHS)
        run(__doc__ or "", cells, options)
