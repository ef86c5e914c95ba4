#!/usr/bin/env python
"""The published procedure against ours: the same images, configurations and epochs, on this machine, in one run.

The reference is written as its script works (see Villwin007/Cancer-Image-Classification-with-AutoML-Driven-Neural-
Architecture-Optimization): every image is decoded and resized by the training process in every epoch, batches of 16,
float32, Adam with weight decay 1e-4 and ReduceLROnPlateau(0.5, 2), no augmentation (its own never runs), every
configuration to the end; then the best goes on for twice the epochs in batches of 32. Ours is the study itself, from
opening the folder to the exported model, (a) without pruning, (b) with Hyperband; its winner is trained afresh for
three times the epochs, so that both models have seen as much. Both see the same train and val parts, and are scored
on the same held-out images once, at the end.

Usage: python scripts/bench_reference.py DIR [--json]         a folder of class folders, with groups.csv or without
       python scripts/bench_reference.py --generate 768       synthetic tissue of 768 pixels     (ten minutes each)
"""

import argparse
import csv
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from data.datasets import load
from data.public import tissue
from data.splits import make_parts
from models.bundle import folder as bundle
from models.bundle.reference import IMAGENET
from models.training.recipe import derive_seed
from study import launch
from study.config.resolve import Asked, resolve
from study.config.schema import StudyConfig
from study.storage.door import open_storage

BATCH, FINAL_BATCH, DECAY = 16, 32, 1e-4
EPOCH_ELSEWHERE = 12.9
"""Seconds of the reference's own loop for the epoch that `smallest_epoch` repeats, on 2 quiet cores."""
FILES = (".jpeg", ".jpg", ".png")
SPACE: dict[str, list[Any]] = {
    "num_conv_blocks": [3, 4, 5],
    "filters_multiplier": [1, 2],
    "kernel_sizes": ["3-3-3", "3-5-3", "5-3-5", "3-3-5-3", "3-5-5-3"],
    "use_batch_norm": [True, False],
    "conv_dropout": [0.1, 0.2, 0.3],
    "dense_units": ["64-32", "64", "32"],
    "dense_dropout": [0.3, 0.4, 0.5],
    "learning_rate": [1e-2, 1e-3, 1e-4],
}
"""The reference's space with the networks an eighth as wide, and rates for so few steps."""

Images = tuple[list[Path], list[int]]


def drawn(count: int, seed: int) -> list[dict[str, Any]]:
    """Random points of the space, as the reference draws them."""
    rng = random.Random(seed)
    return [{name: rng.choice(values) for name, values in SPACE.items()} for _ in range(count)]


# ---- the reference ----------------------------------------------------------------------------------------------


def network(point: dict[str, Any], base: int, size: int, classes: int) -> nn.Module:
    """Convolution, batch norm, ReLU, pooling, dropout; then dense layers."""
    blocks = point["num_conv_blocks"]
    kernels = ([int(k) for k in point["kernel_sizes"].split("-")] + [3] * blocks)[:blocks]
    layers: list[nn.Module] = []
    channels = 3
    for block, kernel in enumerate(kernels):
        width = (base * point["filters_multiplier"]) << block
        layers.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2))
        if point["use_batch_norm"]:
            layers.append(nn.BatchNorm2d(width))
        layers += [nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(point["conv_dropout"])]
        channels = width
    units = channels * (size >> blocks) ** 2
    layers.append(nn.Flatten())
    for width in map(int, point["dense_units"].split("-")):
        layers += [nn.Linear(units, width), nn.ReLU(), nn.Dropout(point["dense_dropout"])]
        units = width
    return nn.Sequential(*layers, nn.Linear(units, classes))


def batches(images: Images, size: int, batch: int, shuffle: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode, resize and normalise, image by image."""
    prepare = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET["mean"], IMAGENET["std"]),
        ]
    )
    files, labels = images
    order = torch.randperm(len(files)).tolist() if shuffle else list(range(len(files)))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        pixels = []
        for number in chosen:
            with Image.open(files[number]) as image:
                pixels.append(prepare(image.convert("RGB")))
        yield torch.stack(pixels), torch.tensor([labels[number] for number in chosen])


def train(
    model: nn.Module, optimizer: Any, plateau: Any, parts: tuple[Images, Images], size: int, batch: int, epochs: int
) -> float:
    """The best validation accuracy of so many epochs."""
    lossy = nn.CrossEntropyLoss()
    best = 0.0
    for _ in range(epochs):
        model.train()
        for x, y in batches(parts[0], size, batch, shuffle=True):
            optimizer.zero_grad()
            loss = lossy(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()  # it adds them up as it goes
        logits, labels = outputs(model, parts[1], size, batch)
        plateau.step(lossy(logits, labels).item())
        best = max(best, (logits.argmax(1) == labels).float().mean().item())
    return best


def outputs(model: nn.Module, images: Images, size: int, batch: int) -> tuple[Tensor, Tensor]:
    model.eval()
    with torch.no_grad():
        found = [(model(x), y) for x, y in batches(images, size, batch, shuffle=False)]
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


def reference(points: list[dict[str, Any]], parts: dict[str, Images], given: Any, classes: int) -> dict[str, Any]:
    """Every configuration to the end, then the best one goes on."""
    start = time.perf_counter()
    both = (parts["train"], parts["val"])
    best: tuple[float, nn.Module, float] | None = None
    for number, point in enumerate(points):
        torch.manual_seed(number)
        model = network(point, given.base, given.size, classes)
        optimizer = torch.optim.Adam(model.parameters(), lr=point["learning_rate"], weight_decay=DECAY)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
        accuracy = train(model, optimizer, plateau, both, given.size, BATCH, given.epochs)
        if best is None or accuracy > best[0]:
            best = (accuracy, model, point["learning_rate"])
    search = time.perf_counter() - start
    assert best is not None
    _, model, rate = best
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=DECAY)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    train(model, optimizer, plateau, both, given.size, FINAL_BATCH, 2 * given.epochs)
    logits, labels = outputs(model, parts["test"], given.size, FINAL_BATCH)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "search": search,
        "epochs": len(points) * given.epochs,
        "right": logits.argmax(1) == labels,
    }


def smallest_epoch(images: Images) -> float | None:
    """Seconds of one epoch of the reference's smallest network: 128 pixels, 720 images and 180 to validate on."""
    if len(images[0]) < 900:
        return None
    chosen = random.Random(0).sample(list(zip(*images, strict=True)), 900)
    halves = [list(map(list, zip(*some, strict=True))) for some in (chosen[:720], chosen[720:])]
    point = {"num_conv_blocks": 3, "filters_multiplier": 1, "kernel_sizes": "3-3-3", "use_batch_norm": False}
    model = network({**point, "conv_dropout": 0.1, "dense_units": "256", "dense_dropout": 0.3}, 32, 128, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=DECAY)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    start = time.perf_counter()
    train(model, optimizer, plateau, (tuple(halves[0]), tuple(halves[1])), 128, BATCH, 1)  # type: ignore[arg-type]
    return time.perf_counter() - start


# ---- ours -------------------------------------------------------------------------------------------------------


def make_config(folder: Path, given: Any, pruner: str) -> StudyConfig:
    wanted: dict[str, Any] = {
        "preset": "reference",
        "data": str(folder),
        "groups": None if (folder / "groups.csv").exists() else "none",
        "image_size": given.size,
        "trials": given.configurations,
        "epochs": given.epochs,
        "min_epochs": 1,
        "pruner": pruner,
        "batch_size": given.batch,
        # Theirs goes on with the winner's weights; ours starts afresh, and trains as long in all.
        "final_epochs": 3 * given.epochs,
        "final_batch_size": FINAL_BATCH,
        "augment": {"rotation": 0.0, "hflip": False, "crop": 1.0, "jitter": 0.0},
        "space": {**SPACE, "base_filters": given.base, "weight_decay": DECAY},
        "baseline": {},
    }
    return resolve(None, wanted)


def ours(points: list[dict[str, Any]], folder: Path, given: Any, pruner: str, place: Path) -> dict[str, Any]:
    """The study with these points enqueued, from the folder of images to the exported model."""
    url = f"sqlite:///{place}/optuna.db"
    config = make_config(folder, given, pruner)
    start = time.perf_counter()
    study = optuna.create_study(study_name="s", storage=open_storage(url, create=True), direction="maximize")
    for point in points:
        study.enqueue_trial(point)
    for _ in launch.run(Asked(config.model_dump(mode="json")), "s", url, ["cpu"]):
        pass
    seconds = time.perf_counter() - start
    trials = study.get_trials(deepcopy=False)
    assert [trial.params for trial in trials] == points
    search = max(trial.datetime_complete for trial in trials if trial.datetime_complete)
    began = min(trial.datetime_start for trial in trials if trial.datetime_start)
    dataset = load(str(folder), given.size, place / "runs" / "cache", groups=config.groups)
    parts = make_parts(dataset.labels, dataset.groups, dataset.classes, dataset.paths, config.seed)
    model = bundle.load(place / "runs" / "s" / "model")
    probabilities = model.predict(dataset.images[parts.test])
    return {
        "seconds": seconds,
        "search": (search - began).total_seconds(),
        "epochs": sum(len(trial.intermediate_values) for trial in trials),
        "right": torch.from_numpy(probabilities.argmax(1) == dataset.labels[parts.test]),
    }


# ---- both -------------------------------------------------------------------------------------------------------


def subset(source: Path, target: Path, each: int) -> Path:
    """The first images of each class by number of group, as links, with their groups."""
    groups: dict[str, str] = {}
    if (source / "groups.csv").exists():
        with (source / "groups.csv").open() as handle:
            for row in csv.DictReader(handle):
                groups[row["path"]] = row.get("group_id") or row["group"]
    lines = ["path,group"]
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        (target / folder.name).mkdir(parents=True)
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in FILES)
        names = [f"{folder.name}/{file.name}" for file in files]
        ordered = sorted(names, key=lambda name: (groups.get(name, name), name))[:each]
        for name in ordered:
            (target / name).symlink_to((source / name).resolve())
            lines.append(f"{name},{folder.name}-{groups.get(name, name)}")
    if groups:
        (target / "groups.csv").write_text("\n".join(lines) + "\n")
    return target


def matrix_rate() -> float:
    """Multiplications and additions per second of a large matrix product here (best of 5)."""
    side = 2048
    a, b = torch.randn(side, side), torch.randn(side, side)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def operations(points: list[dict[str, Any]], given: Any, counts: dict[str, int], classes: int) -> float:
    """Multiplications and additions of the search without pruning, by torch's own counter."""
    total = 0.0
    for point in points:
        model = network(point, given.base, given.size, classes)
        x = torch.randn(BATCH, 3, given.size, given.size)
        with FlopCounterMode(display=False) as forward:
            loss = model(x).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
        ahead, back = forward.get_total_flops() / BATCH, backward.get_total_flops() / BATCH
        total += given.epochs * (counts["train"] * (ahead + back) + counts["val"] * ahead)
    return total


def paired(ours_right: Tensor, theirs_right: Tensor, groups: NDArray[Any]) -> tuple[float, float, float]:
    """Difference of accuracies in points and its 95 % interval, by drawing whole groups (2,000 times)."""
    difference = 100 * (ours_right.double() - theirs_right.double()).numpy()
    _, group = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(group, difference), np.bincount(group)
    rng = np.random.default_rng(0)
    picks = rng.integers(len(sums), size=(2000, len(sums)))
    low, high = np.percentile(sums[picks].sum(1) / sizes[picks].sum(1), [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def compare(folder: Path, given: Any) -> dict[str, Any]:
    config = make_config(folder, given, "none")
    with tempfile.TemporaryDirectory() as cache:
        dataset = load(str(folder), given.size, Path(cache), groups=config.groups)
        parts = make_parts(dataset.labels, dataset.groups, dataset.classes, dataset.paths, config.seed)
    files = [folder / name for name in dataset.paths]
    held: dict[str, Images] = {
        part: ([files[i] for i in getattr(parts, part)], [int(dataset.labels[i]) for i in getattr(parts, part)])
        for part in ("train", "val", "test")
    }
    counts = {part: len(images[0]) for part, images in held.items()}
    points = drawn(given.configurations, derive_seed(given.seed, "configurations"))
    sides: dict[str, dict[str, Any]] = {}
    smallest = smallest_epoch((files, [int(label) for label in dataset.labels]))
    for name in ("reference", "ours", "ours, Hyperband"):
        with tempfile.TemporaryDirectory() as place:
            if name == "reference":
                sides[name] = reference(points, held, given, len(dataset.classes))
            else:
                sides[name] = ours(points, folder, given, "none" if name == "ours" else "hyperband", Path(place))
        print(f"{name}: {sides[name]['seconds']:.1f} s", file=sys.stderr)
    right = sides["reference"]["right"]
    for name, side in sides.items():
        side["accuracy"] = 100 * side["right"].double().mean().item()
        side["ratio"] = sides["reference"]["seconds"] / side["seconds"]
        if name != "reference":
            side["difference"] = paired(side["right"], right, dataset.groups[parts.test])
    rate = matrix_rate()
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "images": counts,
        "size": given.size,
        "configurations": len(points),
        "epochs": given.epochs,
        "smallest_epoch_seconds": smallest,
        "matrix_gflops": rate / 1e9,
        "search_floor_seconds": operations(points, given, counts, len(dataset.classes)) / rate,
        "sides": {name: {key: value for key, value in side.items() if key != "right"} for name, side in sides.items()},
    }


def show(found: dict[str, Any]) -> None:
    parts = ", ".join(f"{name} {count}" for name, count in found["images"].items())
    print(
        f"{found['machine']}, {found['cores']} cores, {found['threads']} threads; {parts} images, {found['size']} px; "
        f"{found['configurations']} configurations of {found['epochs']} epochs, the best for twice that; n = 1"
    )
    print(f"{'':18} {'seconds':>8} {'search':>8} {'epochs':>7} {'ratio':>6} {'held out':>9}   difference (95 %)")
    for name, side in found["sides"].items():
        line = f"{name:18} {side['seconds']:8.1f} {side['search']:8.1f} {side['epochs']:7} {side['ratio']:6.2f}"
        line += f" {side['accuracy']:8.1f} %"
        if "difference" in side:
            line += "   {:+.1f} ({:+.1f} to {:+.1f}) points".format(*side["difference"])
        print(line)
    print(
        f"arithmetic floor of the search: {found['search_floor_seconds']:.1f} s "
        f"at the {found['matrix_gflops']:.0f} GFLOP/s of a matrix product here"
    )
    if found["smallest_epoch_seconds"]:
        print(
            f"the reference's smallest network, 128 px, 720 + 180 images: {found['smallest_epoch_seconds']:.1f} s an "
            f"epoch ({EPOCH_ELSEWHERE} s was measured with its own script on 2 quiet cores)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--generate", type=int, metavar="PIXELS", help="synthetic tissue instead of a folder")
    parser.add_argument("--each", type=int, default=240, help="images of each class")
    parser.add_argument("--size", type=int, default=64, help="pixels after resizing")
    parser.add_argument("--base", type=int, default=4, help="filters of the narrowest first block")
    parser.add_argument("--configurations", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--batch", type=int, default=BATCH, help="of our search; the reference's is 16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if (given.folder is None) == (given.generate is None):
        parser.error("give a folder of class folders, or --generate PIXELS")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder
        if given.generate:
            folder = tissue.generate(Path(place) / "tissue", sources=given.each // 10, copies=10, size=given.generate)
        found = compare(subset(folder, Path(place) / "images", given.each), given)
    if given.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
