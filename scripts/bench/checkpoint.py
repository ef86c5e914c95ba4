#!/usr/bin/env python
"""Cost of checkpoints: seconds to write one, compared with the training between two, and seconds to copy one to memory.

Files are written to the disk of the current folder; n = 5 writes for each network.

Usage: python scripts/bench/checkpoint.py [--json]      (a minute on 2 cores)
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from harness import Cell, Row, run, seconds
from training import NETWORKS, network

from models.cnn import build_cnn, count_parameters, prepare
from models.training import checkpoint
from models.training.learner import make_learner
from models.training.loop import fit
from models.training.recipe import TrainConfig
from models.training.step import Batch

IMAGES, BATCH, WRITES = 32, 16, 5
INTERVAL = 30.0


def measure(name: str, size: int) -> Row:
    """Train one epoch of a few images, then time some checkpoints of the same state."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = prepare(build_cnn(network(name, size)), device)
    recipe = TrainConfig(epochs=1, learning_rate=1e-3)
    learner = make_learner(model, recipe)

    def batches() -> Iterator[Batch]:
        for _ in range(IMAGES // BATCH):
            x = torch.randn(BATCH, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
            yield x, torch.randint(0, 5, (BATCH,), device=device)

    results = list(fit(learner, recipe, batches, IMAGES // BATCH, None, 0))

    def copy() -> None:
        kept.after_epoch(learner, results)  # no file is due yet: the state is only copied, to be saved at a signal
        if device.type == "cuda":
            torch.cuda.synchronize()

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        folder = Path(place)
        writes = [seconds(lambda: checkpoint.write(folder, "bench", learner.state(), results)) for _ in range(WRITES)]
        megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        kept = checkpoint.Checkpoints(folder, "bench", 1e9)
        copies = [seconds(copy) for _ in range(WRITES)]
    cost = statistics.median(writes)
    between = max(INTERVAL, max(writes) / checkpoint.COST)
    return {
        "parameters": count_parameters(model),
        "MB": megabytes,
        "written in s": cost,
        "worst s": max(writes),
        "training between two, at least, s": between,
        "share of the time %": 100 * cost / (between + cost),
        "copied each epoch in s": statistics.median(copies),
        "training, s per 1,000 images": 1000 * results[0].seconds / IMAGES,
    }


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    for name in given.networks:
        yield name, partial(measure, name, given.size)


if __name__ == "__main__":
    networks = {"nargs": "+", "default": list(NETWORKS), "choices": list(NETWORKS)}
    run(__doc__ or "", cells, {"--networks": networks, "--size": (128, "pixels")})
