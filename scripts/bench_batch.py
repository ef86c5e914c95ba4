#!/usr/bin/env python
"""Do learning rates mean the same with larger batches? Random points of the `full` space, each trained three times.

With the small batch, with one four times as large and the rate moved by our rule, and with the large one and the rate
as it stands; scored on the same validation images. Printed: how alike the rankings are (Spearman), the mean difference
of the accuracies with its 95 % interval over the points, and the difference of the points that a search would take.

Usage: python scripts/bench_batch.py [DIR|digits|tissue] [--points N] [--epochs E] [--json]     (a few minutes)
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from models.training.checkpoint import Checkpoints
from models.training.recipe import derive_seed
from study.config.resolve import resolve
from study.config.schema import StudyConfig
from study.config.space import Range
from study.search.opened import load_parts
from study.training.start import start_training
from study.training.workspace import Workspace, make_workspace

SIDES = ("small", "rule", "unmoved")


def drawn(config: StudyConfig, count: int, seed: int) -> list[dict[str, Any]]:
    """Random points of the space."""
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


def accuracy(work: Workspace, point: dict[str, Any], batch: int, epochs: int, seed: int) -> float:
    """Validation accuracy after the last epoch; 0 where training diverged."""
    nowhere = Checkpoints(Path(tempfile.gettempdir()) / "no-such-training", "bench", 1e9)
    training = start_training(
        work, point, epochs=epochs, batch_size=batch, train_parts=("train",), seed=seed, checkpoints=nowhere
    )
    last = 0.0
    for result in training.epochs:
        if result.diverged:
            return 0.0
        last = result.val_accuracy or 0.0
    return last


def compare(given: Any) -> dict[str, Any]:
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
        works = {
            name: make_workspace(
                unmoved if name == "unmoved" else moved, dataset, parts, torch.device("cpu"), Path(place)
            )
            for name in SIDES
        }
        found: dict[str, list[float]] = {name: [] for name in SIDES}
        seconds = dict.fromkeys(SIDES, 0.0)
        for number, point in enumerate(drawn(moved, given.points, given.seed)):
            for name in SIDES:
                start = time.perf_counter()
                batch = given.batch if name == "small" else 4 * given.batch
                seed = derive_seed(given.seed, number)
                found[name].append(accuracy(works[name], point, batch, given.epochs, seed))
                seconds[name] += time.perf_counter() - start
            print(f"{number}: " + ", ".join(f"{name} {found[name][-1]:.3f}" for name in SIDES), file=sys.stderr)
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "images": parts.counts(),
        "size": given.size,
        "batch": [given.batch, 4 * given.batch],
        "points": given.points,
        "epochs": given.epochs,
        "seconds": seconds,
        "accuracy": found,
        "against small": {name: _against(found["small"], found[name]) for name in SIDES[1:]},
    }


def _against(small: list[float], large: list[float]) -> dict[str, Any]:
    difference = np.array(large) - np.array(small)
    rng = np.random.default_rng(0)
    means = difference[rng.integers(len(difference), size=(2000, len(difference)))].mean(axis=1)
    best = int(np.argmax(large))
    return {
        "spearman": float(spearmanr(small, large).statistic),
        "mean difference": float(difference.mean()),
        "interval": [float(bound) for bound in np.quantile(means, [0.025, 0.975])],
        "its best, beside the best of small": [large[best], max(small)],
        "its best scored with small": small[best],
    }


def show(found: dict[str, Any]) -> None:
    small, large = found["batch"]
    print(
        f"{found['cores']} cores, {found['threads']} threads; images {found['images']}, {found['size']} px; "
        f"{found['points']} random points of `full` (narrow), {found['epochs']} epochs"
    )
    print(f"{'':22} {'seconds':>8} {'median':>7}  {'ranking':>7}  mean difference (95 % over points)")
    for name in SIDES:
        line = f"{f'batch {small if name == SIDES[0] else large}':10} {name:11} {found['seconds'][name]:8.1f}"
        line += f" {100 * statistics.median(found['accuracy'][name]):6.1f}%"
        if name in found["against small"]:
            against = found["against small"][name]
            low, high = against["interval"]
            line += f"  {against['spearman']:7.3f}  {100 * against['mean difference']:+.1f} points"
            line += f" ({100 * low:+.1f} to {100 * high:+.1f})"
        print(line)
    best, top = found["against small"]["rule"]["its best, beside the best of small"]
    print(f"best with the rule {100 * best:.1f} %, best with the small batch {100 * top:.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits")
    parser.add_argument("--size", type=int, default=16, help="pixels")
    parser.add_argument("--base", type=int, default=4, help="filters of the narrowest first block")
    parser.add_argument("--batch", type=int, default=16, help="the small one")
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = compare(given)
    if given.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
