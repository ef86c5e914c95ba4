#!/usr/bin/env python
"""Compare learning rates with small and large batches: random points of the `full` space, each trained three times.

Each point is trained with the small batch; with a batch four times as large and the rate adapted by our rule; and with
the large batch and an unchanged rate. All are scored on the same validation images. Printed: how similar the rankings
are (Spearman), the mean difference of the accuracies with its 95 % interval over the points, and the difference of the
points that a search would choose.

Usage: python scripts/bench/batch.py [DIR|digits|tissue] [--points N] [--epochs E] [--json]     (a few minutes)
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Cell, Row, between, paired, run, table
from scipy.stats import spearmanr

from models.training.checkpoint import Checkpoints
from models.training.recipe import derive_seed
from study.config.resolve import resolve
from study.config.schema import StudyConfig
from study.config.space import Range
from study.search.opening import load_parts
from study.training.start import TrainingRun, start_training
from study.training.workspace import Workspace, make_workspace

SIDES = ("small", "rule", "unmoved")


def drawn(config: StudyConfig, count: int, seed: int) -> list[dict[str, Any]]:
    """Draw random points of the space."""
    rng = random.Random(seed)

    def one(entry: Any) -> Any:
        if not isinstance(entry, Range):
            return rng.choice(entry)
        if isinstance(entry.low, int) and isinstance(entry.high, int):
            return rng.randint(entry.low, entry.high)
        if entry.log:
            return float(np.exp(rng.uniform(np.log(entry.low), np.log(entry.high))))
        return rng.uniform(entry.low, entry.high)

    searched = {name: entry for name, entry in config.space.items() if isinstance(entry, Range | list)}
    return [{name: one(entry) for name, entry in searched.items()} for _ in range(count)]


def training_of(
    work: Workspace, point: dict[str, Any], epochs: int, batch: Any, seed: int, parts: tuple[str, ...] = ("train",)
) -> TrainingRun:
    """Start a training that keeps no checkpoint."""
    nowhere = Checkpoints(Path(tempfile.gettempdir()) / "no-such-training", "bench", 1e9)
    return start_training(
        work, point, epochs=epochs, batch_size=batch, train_parts=parts, seed=seed, checkpoints=nowhere
    )


def accuracy(training: TrainingRun) -> float:
    """Return the validation accuracy after the last epoch; 0 if the training diverged."""
    last = 0.0
    for result in training.epochs:
        if result.diverged:
            return 0.0
        last = result.val_accuracy or 0.0
    return last


def measured(side: str, work: Workspace, number: int, point: dict[str, Any], given: argparse.Namespace) -> Row:
    start = time.perf_counter()
    batch = given.batch if side == "small" else 4 * given.batch
    found = accuracy(training_of(work, point, given.epochs, batch, derive_seed(given.seed, number)))
    images, seconds = len(work.parts.train), time.perf_counter() - start
    return {"side": side, "images": images, "batch": batch, "accuracy": found, "seconds": seconds}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    wanted = {
        "preset": "full",
        "data": given.data,
        "image_size": given.size,
        "space.base_filters": given.base,
        "space.num_conv_blocks": [2, 3],
        "baseline": {},
    }
    moved = resolve(None, {**wanted, "rate_batch_size": given.batch})
    unmoved = resolve(None, {**wanted, "rate_batch_size": None})
    with tempfile.TemporaryDirectory() as place:
        dataset, parts = load_parts(moved, Path(place), None)
        configs = {side: unmoved if side == "unmoved" else moved for side in SIDES}
        works = {
            side: make_workspace(config, dataset, parts, torch.device("cpu"), Path(place))
            for side, config in configs.items()
        }
        for number, point in enumerate(drawn(moved, given.points, given.seed)):
            for side, work in works.items():
                yield f"point {number}, {side}", partial(measured, side, work, number, point, given)


def show(rows: list[Row]) -> str:
    found = {side: [row["accuracy"] for row in rows if row["side"] == side] for side in SIDES}
    small, lines = found["small"], []
    for side, large in found.items():
        some = [row for row in rows if row["side"] == side]
        line: Row = {key: some[0][key] for key in ("side", "images", "batch")}
        line["seconds"], line["median %"] = sum(row["seconds"] for row in some), 100 * statistics.median(large)
        if side != "small":
            line["ranking (Spearman)"] = float(spearmanr(small, large).statistic)
            line["mean difference, points (95 % over points)"] = between(*paired(large, small))
            best = int(np.argmax(large))
            line["its best %"], line["scored with small %"] = 100 * large[best], 100 * small[best]
        lines.append(line)
    return f"{table(lines)}\n\nThe best with the small batch: {100 * max(small):.1f} %"


if __name__ == "__main__":
    options = {"data": "digits", "--size": (16, "pixels"), "--base": (4, "filters of the narrowest first block")}
    options |= {"--batch": (16, "the small one"), "--points": 24, "--epochs": 9, "--seed": 0}
    run(__doc__ or "", cells, options, show)
