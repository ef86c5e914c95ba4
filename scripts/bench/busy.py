#!/usr/bin/env python
"""Time of a training step while other programs run, by the way torch's OpenMP threads wait for each other.

Threads wait in a busy loop for a while (GOMP_SPINCOUNT turns), or give their processor back at once
(OMP_WAIT_POLICY=passive). Each setting has a process of its own, because it is read when torch is loaded; the other
programs are processes that count in a loop. In each round all settings are measured one after another, so that a
machine whose speed drifts affects all alike.

Usage: python scripts/bench/busy.py [--rounds 3]         (about ten minutes on two cores)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from harness import Cell, Row, run

SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    **{f"spin {count}": {"GOMP_SPINCOUNT": str(count)} for count in (0, 1000, 2000, 4000, 10_000)},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
NETWORKS = {"small": ([16, 32, 64, 128], 64, 16), "large": ([32, 64, 128], 64, 64)}
"""Networks to train: name -> (filters of the blocks, pixels, images of a batch)."""

CHILD = """
import json, sys, time
import torch
from models.architecture import CNNConfig, plain_blocks
from models.cnn import build_cnn, prepare
from models.training.learner import make_learner
from models.training.recipe import TrainConfig
from models.training.step import train_step

for line in sys.stdin:
    filters, side, batch, threads, seconds = json.loads(line)
    torch.set_num_threads(threads)
    blocks = plain_blocks(filters, [3] * len(filters))
    config = CNNConfig(num_classes=5, image_size=side, blocks=blocks, batch_norm=True, conv_dropout=0.1, head="gap",
                       dense_units=(), dense_dropout=0.0)
    recipe = TrainConfig(epochs=1, learning_rate=1e-3)
    learner = make_learner(prepare(build_cnn(config), torch.device("cpu")), recipe)
    x = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 5, (batch,))
    learner.model.train()
    took = []
    end = None
    while end is None or time.perf_counter() < end or len(took) < 6:
        start = time.perf_counter()
        train_step(learner, recipe, x, y, batch)
        took.append(time.perf_counter() - start)
        if len(took) == 2:
            end = time.perf_counter() + seconds
    print(1000 * sum(took[2:]) / len(took[2:]), flush=True)
"""


class Trainer:
    """Process in which torch was loaded with one setting."""

    def __init__(self, setting: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            env={**clean, **SETTINGS[setting]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self, network: str, threads: int, seconds: float) -> float:
        """Measure the milliseconds of a step, the mean over `seconds`."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([*NETWORKS[network], threads, seconds]) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run `count` processes that count in a loop."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def situation(trainers: dict[str, Trainer], network: str, threads: int, others: int, given: argparse.Namespace) -> Row:
    """Measure one row: the milliseconds of a step with each setting, the median over the rounds."""
    found: dict[str, list[float]] = {setting: [] for setting in trainers}
    with busy(others):
        for _ in range(given.rounds):
            for setting, trainer in trainers.items():
                found[setting].append(trainer.step(network, threads, given.seconds))
    return {setting: round(statistics.median(steps), 1) for setting, steps in found.items()}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    trainers = {setting: Trainer(setting) for setting in SETTINGS}
    for network in given.networks:
        for threads in given.threads:
            for others in given.busy:
                name = f"{network}, {threads} threads, {others} busy"
                yield name, partial(situation, trainers, network, threads, others, given)


if __name__ == "__main__":
    run(
        __doc__ or "",
        cells,
        {
            "--rounds": {"type": int, "default": 3},
            "--seconds": {"type": float, "default": 1.0, "help": "of steps in each cell"},
            "--networks": {"nargs": "+", "default": list(NETWORKS), "choices": list(NETWORKS)},
            "--threads": {"type": int, "nargs": "+", "default": [1, 2]},
            "--busy": {"type": int, "nargs": "+", "default": [0, 1, 2, 4]},
        },
    )
