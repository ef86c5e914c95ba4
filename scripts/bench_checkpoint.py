#!/usr/bin/env python
"""What checkpoints cost: seconds to write one, beside the seconds of training between two; and to keep one in memory.

Usage: python scripts/bench_checkpoint.py [--json]      (a minute on 2 cores)
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from models.architecture import CNNConfig, plain_blocks
from models.cnn import build_cnn, count_parameters, prepare
from models.training import checkpoint
from models.training.learner import make_learner
from models.training.loop import fit
from models.training.recipe import TrainConfig
from models.training.step import Batch

NETWORKS = {
    "smallest": ((32, 64, 128), (3, 3, 3), (256,)),
    "published best": ((128, 256, 512, 1024), (3, 3, 5, 3), (256, 128)),
    "largest": ((128, 256, 512), (5, 3, 5), (512, 256)),
}
"""Corners of the reference's space: filters and kernels of the blocks, dense units, at 128 px."""
IMAGES, BATCH, WRITES = 32, 16, 5
INTERVAL = 30.0


def measure(
    filters: tuple[int, ...], kernels: tuple[int, ...], dense: tuple[int, ...], device: torch.device
) -> dict[str, float]:
    """One epoch of a few images, then some checkpoints of the same state."""
    config = CNNConfig(
        num_classes=5,
        image_size=128,
        blocks=plain_blocks(filters, kernels),
        batch_norm=False,
        conv_dropout=0.1,
        dense_units=dense,
        dense_dropout=0.2,
    )
    model = prepare(build_cnn(config), device)
    recipe = TrainConfig(epochs=1, learning_rate=1e-3)
    learner = make_learner(model, recipe)

    def batches() -> Iterator[Batch]:
        for _ in range(IMAGES // BATCH):
            x = torch.randn(BATCH, 3, 128, 128, device=device).contiguous(memory_format=torch.channels_last)
            yield x, torch.randint(0, 5, (BATCH,), device=device)

    results = list(fit(learner, recipe, batches, IMAGES // BATCH, None, 0))
    seconds = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for _ in range(WRITES):
            start = time.perf_counter()
            checkpoint.write(Path(folder), "bench", learner.state(), results)
            seconds.append(time.perf_counter() - start)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        kept = checkpoint.Checkpoints(Path(folder), "bench", 1e9)
        copies = []
        for _ in range(WRITES):
            start = time.perf_counter()
            kept.after_epoch(learner, results)  # not due: copied, for a signal to save
            if device.type == "cuda":
                torch.cuda.synchronize()
            copies.append(time.perf_counter() - start)
    cost = statistics.median(seconds)
    between = max(INTERVAL, max(seconds) / checkpoint.COST)
    return {
        "parameters": count_parameters(model),
        "megabytes": size / 1e6,
        "write_seconds": cost,
        "write_seconds_worst": max(seconds),
        "training_seconds_between": between,
        "share_percent": 100 * cost / (between + cost),
        "copy_seconds": statistics.median(copies),
        "seconds_per_1000_images": 1000 * results[0].seconds / IMAGES,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = {name: measure(*shape, device) for name, shape in NETWORKS.items()}
    if arguments.json:
        print(json.dumps({"machine": platform.processor() or platform.machine(), "n": WRITES, "networks": rows}))
        return
    print(f"device {device}, {torch.get_num_threads()} threads, n = {WRITES}, into the current folder's disk")
    for name, row in rows.items():
        print(
            f"{name:20} {row['parameters'] / 1e6:5.1f} M parameters  {row['megabytes']:5.0f} MB  "
            f"written in {row['write_seconds']:.2f} s (worst {row['write_seconds_worst']:.2f})  "
            f"every {row['training_seconds_between']:.0f} s of training or more: {row['share_percent']:.2f} %  "
            f"(copied each epoch in {row['copy_seconds']:.2f} s; "
            f"training: {row['seconds_per_1000_images']:.0f} s per 1,000 images)"
        )


if __name__ == "__main__":
    main()
