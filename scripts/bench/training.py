#!/usr/bin/env python
"""Speed of training on this machine, compared with a plain loop and with the rate of a matrix product, in one run.

The networks are corners of the published space (its smallest, its best, its largest) at 128 px (`--size`). Ours are
augmented from uint8 on the device, with channels last, a fused optimiser, and bfloat16 on CUDA. Plain is the same
network as the published script trains it (float32, ReLU before pooling, no augmentation, images already on the
device). A cell whose batch would take longer than `--patience` seconds at the rate of the matrix product is left out
and says so.

Usage: python scripts/bench/training.py [--json] [--batches 16 64 256 1024]       (some minutes on 2 cores)
       python scripts/bench/training.py --whole 20000      the published work itself, by the study: 15 x 15 epochs over
                                                           so many generated images, 30 final ones; pruned and not
                                                           (--trials, --epochs: a smaller piece of it;
                                                           --workers 1 2 4: by so many on the one device)
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import optuna
import torch
import torch.nn.functional as F
from harness import Cell, Row, run
from reference import matrix_rate, operations, timed
from reference import network as published
from torch import nn

from data.augment import Augment
from data.batches import DeviceImages, Normalisation, eval_batches, train_batches
from data.public import tissue
from models.architecture import CNNConfig, plain_blocks
from models.bundle.reference import IMAGENET
from models.cnn import build_cnn, count_parameters, prepare
from models.training.learner import make_learner
from models.training.loop import evaluate, fit
from models.training.recipe import TrainConfig
from study import launch
from study.config.presets import REFERENCE_AUGMENT
from study.config.resolve import StudyRequest, resolve
from study.search.trial import TrialEpoch

NETWORKS = {
    "smallest": ((32, 64, 128), (3, 3, 3), (256,)),
    "published best": ((128, 256, 512, 1024), (3, 3, 5, 3), (256, 128)),
    "largest": ((128, 256, 512), (5, 3, 5), (512, 256)),
}
CLASSES, EPOCH = 5, 20_000
VALIDATED = 0.2
"""Number of images that are evaluated for each image trained on (the published split)."""


def network(name: str, size: int) -> CNNConfig:
    filters, kernels, dense = NETWORKS[name]
    layers = {"batch_norm": False, "conv_dropout": 0.1, "dense_units": dense, "dense_dropout": 0.4}
    return CNNConfig(num_classes=CLASSES, image_size=size, blocks=plain_blocks(filters, kernels), **layers)


def plain_network(config: CNNConfig) -> nn.Module:
    """Build the network in the published order: convolution, ReLU, pooling, dropout."""
    kernels = "-".join(str(block.kernel_size) for block in config.blocks)
    point = {"num_conv_blocks": len(config.blocks), "filters_multiplier": 1, "kernel_sizes": kernels}
    point |= {"use_batch_norm": False, "conv_dropout": config.conv_dropout, "dense_dropout": config.dense_dropout}
    point["dense_units"] = "-".join(map(str, config.dense_units))
    return published(point, config.blocks[0].filters, config.image_size, CLASSES)


def trained(config: CNNConfig, batch: int, device: torch.device, steps: int) -> Row:
    """Measure the images per second, ours and plain, and the shares of our time for augmentation and evaluation."""
    torch.manual_seed(0)
    count, size = batch * steps, config.image_size
    pixels = DeviceImages(
        torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, device=device),
        torch.randint(0, CLASSES, (count,), device=device),
        Normalisation(**IMAGENET),
    )
    every = torch.arange(count, device=device)
    augment = Augment(**REFERENCE_AUGMENT)
    recipe = TrainConfig(epochs=2, learning_rate=1e-4)
    learner = make_learner(prepare(build_cnn(config), device), recipe)
    forget_peak(device)
    _, second = fit(learner, recipe, lambda: train_batches(pixels, every, batch, augment), steps, None, 0)
    peak = peak_bytes(device)
    augmenting = timed(lambda: [None for _ in train_batches(pixels, every, batch, augment)], device)
    evaluating = timed(lambda: evaluate(learner, eval_batches(pixels, every, batch)), device)
    return {
        "images per second": count / second.seconds,
        "plain": count / plain_epoch(config, pixels, batch, device),
        "augmentation": augmenting / second.seconds,
        "evaluation": VALIDATED * evaluating / (second.seconds + VALIDATED * evaluating),
        "peak bytes": peak,
        "epoch seconds": EPOCH * (second.seconds + VALIDATED * evaluating) / count,
    }


def plain_epoch(config: CNNConfig, pixels: DeviceImages, batch: int, device: torch.device) -> float:
    """Measure the seconds of a second epoch in the plain loop; the first one warms up."""
    model = plain_network(config).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-4)
    images = pixels.images.permute(0, 3, 1, 2).contiguous()

    def epoch() -> None:
        for start in range(0, len(images), batch):
            x, y = (images[start : start + batch].float() / 255 - 0.5) / 0.25, pixels.labels[start : start + batch]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()

    epoch()
    return timed(epoch, device)


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Return the peak of allocated bytes on the device; on a processor, the peak of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(name: str, size: int, batch: int, patience: float, device: torch.device) -> Row:
    config = network(name, size)
    # These networks are not kept, so that they do not count in the peak.
    each, parameters = sum(operations(build_cnn(config), size)), count_parameters(build_cnn(config))
    rate = matrix_rate(device)
    floor = batch * each / rate
    row: Row = {"network": name, "batch": batch, "GFLOP": each / 1e9, "parameters": parameters}
    row["GFLOP/s of a matrix product"] = rate / 1e9
    if floor > patience:
        return {**row, "left out": f"a batch takes {floor:.0f} s at the matrix product's rate"}
    row |= trained(config, batch, device, max(2, min(20, round(patience / (6 * floor)))))
    return {**row, "share of the matrix rate": row["images per second"] * each / rate}


def whole(folder: Path, images: int, pruner: str, workers: int, given: argparse.Namespace, device: torch.device) -> Row:
    """Run the published work as a study: 15 points of 15 epochs each and 30 final epochs, pruned or not."""
    fields = {"preset": "reference", "groups": "none", "image_size": given.size, "pretrained": False}
    fields |= {"trials": given.trials, "epochs": given.epochs, "final_epochs": 2 * given.epochs, "workers": workers}
    config = resolve(None, {**fields, "data": str(folder / "tissue"), "pruner": pruner})
    url, start = f"sqlite:///{folder}/optuna.db", time.perf_counter()
    request, epochs, searched = StudyRequest(config.model_dump(mode="json")), 0, 0.0
    for one in launch.run(request, f"{pruner}-{workers}", url, [str(device)]):
        if isinstance(one, TrialEpoch):
            epochs, searched = epochs + 1, time.perf_counter() - start
    row: Row = {"images": images, "pruner": pruner, "workers": workers, "epochs": epochs}
    return {**row, "search seconds": searched, "seconds": time.perf_counter() - start}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not given.whole:
        for name in NETWORKS:
            for batch in given.batches:
                yield f"{name}, {batch}", partial(measure, name, given.size, batch, given.patience, device)
        return
    copies = min(10, max(2, given.whole // 40))
    sources = max(4, round(given.whole / (copies * len(tissue.CLASSES))))
    with tempfile.TemporaryDirectory() as place:
        tissue.generate(Path(place) / "tissue", sources=sources, copies=copies, size=given.size)
        total = copies * sources * len(tissue.CLASSES)
        for pruner, workers in itertools.product(given.pruners, given.workers):
            yield f"{pruner}, {workers}", partial(whole, Path(place), total, pruner, workers, given, device)


if __name__ == "__main__":
    options = {"--batches": [16, 64, 256, 1024], "--patience": (10.0, "seconds a batch may take")}
    options |= {"--whole": {"type": int, "metavar": "IMAGES"}, "--size": (128, "pixels")}
    options |= {"--trials": (15, "of the whole work"), "--epochs": (15, "of a trial of the whole work")}
    options |= {"--pruners": ["none", "hyperband"], "--workers": [1]}
    run(__doc__ or "", cells, options)
