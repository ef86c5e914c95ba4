#!/usr/bin/env python
"""How fast networks train here, beside a plain loop and beside a matrix product's rate, all in one run.

Corners of the published space (its smallest network, its best, its largest) at 128 px (`--size`). Ours: augmented from
uint8 on the device, channels last, fused optimiser, and on CUDA bfloat16. Plain: the same network as the published
script trains it (float32, ReLU before pooling, no augmentation, images already on the device). A cell whose batch would
take longer than `--patience` seconds at the matrix product's rate is left out and says so.

Usage: python scripts/bench_training.py [--json] [--batches 16 64 256 1024]       (some minutes on 2 cores)
       python scripts/bench_training.py --whole 20000      the published work itself, by the study: 15 x 15 epochs over
                                                           so many generated images, 30 final ones; pruned and not
                                                           (--trials, --epochs: a smaller piece of it)
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from data.augment import Augment
from data.batches import Normalisation, Pixels, eval_batches, train_batches
from data.public import tissue
from models.architecture import CNNConfig, plain_blocks
from models.bundle.reference import IMAGENET
from models.cnn import build_cnn, count_parameters, prepare
from models.training.learner import make_learner
from models.training.loop import evaluate, fit
from models.training.recipe import TrainConfig
from study import launch
from study.config.presets import REFERENCE_AUGMENT
from study.config.resolve import Asked, resolve
from study.search.trial import TrialEpoch

NETWORKS = {
    "smallest": ((32, 64, 128), (3, 3, 3), (256,)),
    "published best": ((128, 256, 512, 1024), (3, 3, 5, 3), (256, 128)),
    "largest": ((128, 256, 512), (5, 3, 5), (512, 256)),
}
CLASSES, EPOCH = 5, 20_000
VALIDATED = 0.2
"""Share of images that are evaluated for each one trained on (the published split)."""


def network(name: str, size: int) -> CNNConfig:
    filters, kernels, dense = NETWORKS[name]
    return CNNConfig(
        num_classes=CLASSES,
        image_size=size,
        blocks=plain_blocks(filters, kernels),
        batch_norm=False,
        conv_dropout=0.1,
        dense_units=dense,
        dense_dropout=0.4,
    )


def plain_network(config: CNNConfig) -> nn.Module:
    """In the published order: convolution, ReLU, pooling, dropout."""
    layers: list[nn.Module] = []
    channels = 3
    for block in config.blocks:
        convolution = nn.Conv2d(channels, block.filters, block.kernel_size, padding=block.kernel_size // 2)
        layers += [convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(config.conv_dropout)]
        channels = block.filters
    units = channels * (config.image_size >> len(config.blocks)) ** 2
    layers.append(nn.Flatten())
    for width in config.dense_units:
        layers += [nn.Linear(units, width), nn.ReLU(), nn.Dropout(config.dense_dropout)]
        units = width
    return nn.Sequential(*layers, nn.Linear(units, CLASSES))


def matrix_rate(device: torch.device) -> float:
    """Operations per second of a large product in the type that training uses (best of 5)."""
    cuda = device.type == "cuda"
    side = 8192 if cuda else 2048
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16 if cuda else None) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: a @ b, device) for _ in range(6))


def timed(work: Callable[[], Any], device: torch.device) -> float:
    settle(device)
    start = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - start


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def operations(config: CNNConfig) -> tuple[float, float]:
    """Multiplications and additions of one image, (forward, backward), by torch's own counter."""
    model = build_cnn(config)
    with FlopCounterMode(display=False) as ahead:
        loss = model(torch.randn(2, 3, config.image_size, config.image_size)).sum()
    with FlopCounterMode(display=False) as back:
        loss.backward()
    return ahead.get_total_flops() / 2, back.get_total_flops() / 2


def cell(config: CNNConfig, batch: int, device: torch.device, steps: int) -> dict[str, Any]:
    """Images per second, ours and plain, and where ours go."""
    torch.manual_seed(0)
    count, size = batch * steps, config.image_size
    pixels = Pixels(
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


def plain_epoch(config: CNNConfig, pixels: Pixels, batch: int, device: torch.device) -> float:
    """Seconds of the second pass; the first warms up."""
    model = plain_network(config).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-4)
    images = pixels.images.permute(0, 3, 1, 2).contiguous()

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        loss.item()

    def epoch() -> None:
        for start in range(0, len(images), batch):
            step((images[start : start + batch].float() / 255 - 0.5) / 0.25, pixels.labels[start : start + batch])

    epoch()
    return timed(epoch, device)


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """On the device; of the whole process where that is the processor."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(given: Any, device: torch.device) -> dict[str, Any]:
    rows = []
    rates = []
    for name in NETWORKS:
        config = network(name, given.size)
        ahead, back = operations(config)
        for batch in given.batches:
            rates.append(matrix_rate(device))
            floor = batch * (ahead + back) / rates[-1]
            row: dict[str, Any] = {"network": name, "batch": batch, "gflop": (ahead + back) / 1e9}
            row["parameters"] = count_parameters(build_cnn(config))
            if floor > given.patience:
                row["left out"] = f"a batch takes {floor:.0f} s at the matrix product's rate"
            else:
                steps = max(2, min(20, round(given.patience / (6 * floor))))
                row |= cell(config, batch, device, steps)
                row["share of the matrix rate"] = row["images per second"] * (ahead + back) / rates[-1]
            rows.append(row)
            print(f"{name}, {batch}: {row.get('images per second', 0):.1f} images/s", file=sys.stderr)
    return {"pixels": given.size, "gflops of a matrix product": [min(rates) / 1e9, max(rates) / 1e9], "rows": rows}


def show(found: dict[str, Any]) -> None:
    low, high = found["gflops of a matrix product"]
    print(f"{found['machine']}; a matrix product makes {low:,.0f} to {high:,.0f} GFLOP/s; {found['pixels']} px, n = 1")
    print(
        f"{'network':15} {'batch':>5} {'images/s':>9} {'plain':>8} {'ratio':>6} {'of matrix':>9} {'augment':>8} "
        f"{'evaluate':>8} {'peak':>8} {'20,000 images':>14}"
    )
    for row in found["rows"]:
        start = f"{row['network']:15} {row['batch']:5}"
        if "left out" in row:
            print(f"{start} left out: {row['left out']}")
            continue
        ours, plain = row["images per second"], row["plain"]
        print(
            f"{start} {ours:9.1f} {plain:8.1f} {ours / plain:6.2f} {100 * row['share of the matrix rate']:8.1f}% "
            f"{100 * row['augmentation']:7.1f}% {100 * row['evaluation']:7.1f}% {row['peak bytes'] / 2**30:5.2f} GB "
            f"{row['epoch seconds']:12.1f} s"
        )


def whole(given: Any, device: torch.device) -> dict[str, Any]:
    """The published work by the study: 15 points for 15 epochs each and 30 final epochs, all kept and pruned."""
    found: dict[str, Any] = {"pixels": given.size, "trials": given.trials, "epochs": given.epochs}
    fields = {"preset": "reference", "groups": "none", "image_size": given.size, "pretrained": False}
    fields |= {"trials": given.trials, "epochs": given.epochs, "final_epochs": 2 * given.epochs}
    with tempfile.TemporaryDirectory() as place:
        copies = min(10, max(2, given.whole // 40))
        sources = max(4, round(given.whole / (copies * len(tissue.CLASSES))))
        found["images"] = copies * sources * len(tissue.CLASSES)
        fields["data"] = str(tissue.generate(Path(place) / "tissue", sources=sources, copies=copies, size=given.size))
        for pruner in ("none", "hyperband"):
            config, url = resolve(None, {**fields, "pruner": pruner}), f"sqlite:///{place}/optuna.db"
            start = time.perf_counter()
            news = list(launch.run(Asked(config.model_dump(mode="json")), pruner, url, [str(device)]))
            found[f"seconds, {pruner}"] = time.perf_counter() - start
            found[f"epochs, {pruner}"] = sum(isinstance(one, TrialEpoch) for one in news)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--patience", type=float, default=10.0, help="seconds a batch may take")
    parser.add_argument("--whole", type=int, metavar="IMAGES")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--trials", type=int, default=15, help="of the whole work")
    parser.add_argument("--epochs", type=int, default=15, help="of a trial of the whole work")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    found: dict[str, Any] = {"machine": f"{name}, {torch.get_num_threads()} threads"}
    found |= whole(given, device) if given.whole else measure(given, device)
    if given.json or given.whole:
        print(json.dumps(found, indent=None if given.json else 2))
    else:
        show(found)


if __name__ == "__main__":
    main()
