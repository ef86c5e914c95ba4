"""Measurement of this machine's speed for a plan: a few small networks are trained on noise for a moment."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data.augment import Augment
from data.batches import DeviceImages, Normalisation, train_batches
from data.images import decode
from data.processes import usable_cpus
from models.architecture import CNNConfig, plain_blocks
from models.bundle.reference import IMAGENET
from models.cnn import build_cnn, prepare
from models.cost import cost
from models.training.learner import make_learner
from models.training.loop import fit
from models.training.recipe import TrainConfig
from study.budget.expect import Throughput
from study.budget.load import Load

IMAGES, BATCH = 256, 64
DECODED = 8
"""Number of files that are decoded to see how long one takes."""
GROUP_SECONDS = 0.04
"""Seconds of one processor for each image, to find out which images share a source.

Measured: 0.023 for 5,000 images of tissue, 0.06 for 2,000 photographs that look alike (`scripts/bench/groups.py`).
"""
RESULT_SECONDS, RESULT_IMAGE_SECONDS = 7.0, 0.001
"""Seconds for scoring, export and report once the imports are done: for any study, and for each image.

Measured: 5 s for 5,000 images on 2 quiet cores, with the decision trees to compare with; the rest is a margin.
"""
LEAST = 0.2
"""Least number of seconds for each network."""


def _probe(side: int, *filters: int) -> CNNConfig:
    return CNNConfig(
        num_classes=2,
        image_size=side,
        blocks=plain_blocks(filters, (3,) * len(filters)),
        batch_norm=True,
        conv_dropout=0.1,
        dense_units=(),
        dense_dropout=0.0,
        head="gap",
    )


PROBES = (_probe(32, 8, 16, 32), _probe(64, 32, 64, 128, 256), _probe(64, 16, 32, 64), _probe(32, 64, 128, 256, 512))
"""Networks to time, narrow and wide, large and small, so that arithmetic, memory, pixels and steps are told apart."""


def measure(
    device: torch.device, seconds: float, files: Sequence[Path], tell: Callable[[int, int], None] | None = None
) -> Throughput:
    """Measure the machine for about `seconds`.

    `files`: some of the images; `tell` is called with (networks done, networks in all).
    """
    taken, load = [], Load()
    for number, probe in enumerate(PROBES):
        taken.append(_image_seconds(probe, device, max(LEAST, seconds / len(PROBES))))
        if tell:
            tell(number + 1, len(PROBES))
    rows = [_row(probe) for probe in PROBES]
    per_unit = _solved(np.array(rows), np.array(taken))
    cores, slower = usable_cpus(), max(1.0, load.times_slower())
    return Throughput(
        flops=1 / per_unit[0],
        numbers=1 / per_unit[1],
        pixels=1 / per_unit[2],
        step=per_unit[3],
        decode=_decode_seconds(files) / cores,
        group=GROUP_SECONDS / cores * slower,
        result=RESULT_SECONDS * slower,
        result_image=RESULT_IMAGE_SECONDS * slower,
        slower=slower,
    )


def _row(probe: CNNConfig) -> tuple[float, float, float, float]:
    """Return what training on one image takes: (operations, activations, pixels, steps)."""
    network = cost(probe)
    return 3.0 * network.flops, network.numbers, probe.image_size**2, 1 / BATCH


def _solved(rows: np.ndarray, taken: np.ndarray) -> list[float]:
    """Return the seconds of each unit that explain the measured times best (non-negative least squares).

    `rows`: units of each network [networks, 4]; `taken`: its seconds [networks]. Each result is at least 1 % of the
    largest value that alone would exceed no measured time.
    """
    from scipy.optimize import nnls  # imported late: it takes a while, and a study without hours measures nothing

    weights = 1 / taken
    found, _ = nnls(rows * weights[:, None], np.ones(len(taken)))
    least = 0.01 * (taken[:, None] / rows).min(axis=0)
    return [float(value) for value in np.maximum(found, least)]


def _image_seconds(probe: CNNConfig, device: torch.device, seconds: float) -> float:
    """Return the seconds of training per image: the lower quartile over steps, without the first step.

    On CUDA it is taken over epochs, because all images of an epoch are augmented together there.
    """
    side = probe.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = DeviceImages(
        torch.randint(0, 256, (IMAGES, side, side, 3), dtype=torch.uint8, generator=generator).to(device),
        torch.randint(0, 2, (IMAGES,), generator=generator).to(device),
        Normalisation(**IMAGENET),
    )
    augment = Augment(rotation=20, hflip=True, vflip=True, crop=0.8, jitter=0.2, stain=0.15)
    recipe = TrainConfig(epochs=1_000_000, learning_rate=1e-3)
    every = torch.arange(IMAGES, device=device)
    times: list[float] = []
    last = time.perf_counter()
    steps = IMAGES // BATCH
    together = steps if device.type == "cuda" else 1

    def after_step(_: int, step: int, __: int) -> None:
        nonlocal last
        if step % together:
            return
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        times.append((now - last) / together)
        last = now

    with torch.random.fork_rng():
        learner = make_learner(prepare(build_cnn(probe), device), recipe)
        batches = partial(train_batches, pixels, every, BATCH, augment)
        epochs = fit(learner, recipe, batches, steps, None, 0, 0, after_step)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 3:
            last = time.perf_counter()
            next(epochs)
    return float(np.quantile(times[1:], 0.25)) / BATCH


def _decode_seconds(files: Sequence[Path]) -> float:
    some = files[:: max(1, len(files) // DECODED)][:DECODED]
    start = time.perf_counter()
    for file in some:
        try:
            decode(file, 64, ranges=None)
        except ValueError:  # an unreadable file is reported later, when all are decoded
            continue
    return (time.perf_counter() - start) / max(1, len(some))
