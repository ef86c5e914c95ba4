#!/usr/bin/env python
"""Compare the published procedure with ours: the same images, configurations and epochs, on this machine, in one run.

The reference is written as the published script works (see Villwin007/
Cancer-Image-Classification-with-AutoML-Driven-Neural-Architecture-Optimization): the training process decodes and
resizes every image in every epoch; batches of 16, float32, Adam with weight decay 1e-4 and ReduceLROnPlateau(0.5, 2);
no augmentation (the script's own never runs); every configuration is trained to the end; then the best goes on for
twice the epochs in batches of 32. Ours is the study itself, from opening the folder to the exported model, (a) without
pruning, (b) with Hyperband; its winner is trained afresh for three times the epochs, so that both models have seen the
images equally often. Both see the same train and val parts, run on the processor (also where there is a GPU), and are
scored on the same held-out images once, at the end.

Usage: python scripts/bench/reference.py DIR [--json]         a folder of class folders, with groups.csv or without
       python scripts/bench/reference.py --generate 768       synthetic tissue of 768 pixels     (ten minutes each)
"""

import argparse
import csv
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from harness import Cell, Row, between, paired, run, seconds, table
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from data.datasets import ImageSet, load
from data.public import tissue
from data.splits import Parts, make_parts
from models.bundle import folder as bundle
from models.bundle.reference import IMAGENET
from models.training.recipe import derive_seed
from study import launch
from study.config.resolve import StudyRequest, resolve
from study.config.schema import StudyConfig
from study.storage.door import open_storage

BATCH, FINAL_BATCH, DECAY = 16, 32, 1e-4
CPU = torch.device("cpu")
SMALLEST = "an epoch of the reference's smallest network (its own script, on 2 quiet cores: 12.9 s)"
FLOOR = "the arithmetic of the search, at a matrix product's rate"
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
"""Space of the reference with networks an eighth as wide, and learning rates that suit so few steps."""

Images = tuple[list[Path], list[int]]


def drawn(count: int, seed: int, space: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Draw random points of the space, as the reference does."""
    rng = random.Random(seed)
    return [{name: rng.choice(values) for name, values in space.items()} for _ in range(count)]


# ---- the reference ----------------------------------------------------------------------------------------------


def network(point: dict[str, Any], base: int, size: int, classes: int) -> nn.Module:
    """Build the reference's network: blocks of convolution, batch norm, ReLU, pooling, dropout; then dense layers."""
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
    normalise = transforms.Normalize(IMAGENET["mean"], IMAGENET["std"])
    prepare = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), normalise])
    files, labels = images
    order = torch.randperm(len(files)).tolist() if shuffle else list(range(len(files)))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        pixels = []
        for number in chosen:
            with Image.open(files[number]) as image:
                pixels.append(prepare(image.convert("RGB")))
        yield torch.stack(pixels), torch.tensor([labels[number] for number in chosen])


def train(model: nn.Module, rate: float, parts: tuple[Images, Images], size: int, batch: int, epochs: int) -> float:
    """Train a network; return its best validation accuracy of all epochs."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=DECAY)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    lossy = nn.CrossEntropyLoss()
    best = 0.0
    for _ in range(epochs):
        model.train()
        for x, y in batches(parts[0], size, batch, shuffle=True):
            optimizer.zero_grad()
            loss = lossy(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()  # the script adds up the losses in each step
        logits, labels = outputs(model, parts[1], size, batch)
        plateau.step(lossy(logits, labels).item())
        best = max(best, (logits.argmax(1) == labels).float().mean().item())
    return best


def outputs(model: nn.Module, images: Images, size: int, batch: int) -> tuple[Tensor, Tensor]:
    model.eval()
    with torch.no_grad():
        found = [(model(x), y) for x, y in batches(images, size, batch, shuffle=False)]
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


def reference(points: list[dict[str, Any]], parts: dict[str, Images], given: Any, classes: int) -> Row:
    """Train every configuration to the end; then the best one goes on."""
    start = time.perf_counter()
    both = (parts["train"], parts["val"])
    best: tuple[float, nn.Module, float] | None = None
    for number, point in enumerate(points):
        torch.manual_seed(number)
        model = network(point, given.base, given.size, classes)
        accuracy = train(model, point["learning_rate"], both, given.size, BATCH, given.epochs)
        if best is None or accuracy > best[0]:
            best = (accuracy, model, point["learning_rate"])
    search = time.perf_counter() - start
    assert best is not None
    _, model, rate = best
    train(model, rate, both, given.size, FINAL_BATCH, 2 * given.epochs)
    logits, labels = outputs(model, parts["test"], given.size, FINAL_BATCH)
    whole = time.perf_counter() - start
    right = (logits.argmax(1) == labels).tolist()
    return {"seconds": whole, "search": search, "epochs": len(points) * given.epochs, "right": right}


def smallest_epoch(images: Images) -> Row:
    """Measure one epoch of the reference's smallest network: 128 pixels, 720 images and 180 to validate on."""
    chosen = random.Random(0).sample(list(zip(*images, strict=True)), 900)
    parts: Any = [tuple(map(list, zip(*some, strict=True))) for some in (chosen[:720], chosen[720:])]
    point = {"num_conv_blocks": 3, "filters_multiplier": 1, "kernel_sizes": "3-3-3", "use_batch_norm": False}
    model = network({**point, "conv_dropout": 0.1, "dense_units": "256", "dense_dropout": 0.3}, 32, 128, 5)
    return {"seconds": seconds(lambda: train(model, 1e-4, parts, 128, BATCH, 1))}


# ---- ours -------------------------------------------------------------------------------------------------------


def make_config(folder: Path, given: Any, pruner: str) -> StudyConfig:
    groups = None if (folder / "groups.csv").exists() else "none"
    wanted: dict[str, Any] = {"preset": "reference", "data": str(folder), "groups": groups, "image_size": given.size}
    wanted |= {"trials": given.configurations, "epochs": given.epochs, "min_epochs": 1, "pruner": pruner}
    # The reference goes on with the winner's weights; ours starts afresh, and trains as long in total.
    wanted |= {"batch_size": given.batch, "final_epochs": 3 * given.epochs, "final_batch_size": FINAL_BATCH}
    wanted |= {"augment": {"rotation": 0.0, "hflip": False, "crop": 1.0, "jitter": 0.0}, "baseline": {}}
    return resolve(None, {**wanted, "space": {**SPACE, "base_filters": given.base, "weight_decay": DECAY}})


def ours(points: list[dict[str, Any]], folder: Path, given: Any, pruner: str, place: Path) -> Row:
    """Run the study with these points enqueued, from the folder of images to the exported model."""
    url = f"sqlite:///{place}/optuna.db"
    config = make_config(folder, given, pruner)
    start = time.perf_counter()
    study = optuna.create_study(study_name="s", storage=open_storage(url, create=True), direction="maximize")
    for point in points:
        study.enqueue_trial(point)
    for _ in launch.run(StudyRequest(config.model_dump(mode="json")), "s", url, ["cpu"]):
        pass
    whole = time.perf_counter() - start
    trials = study.get_trials(deepcopy=False)
    assert [trial.params for trial in trials] == points
    search = max(trial.datetime_complete for trial in trials if trial.datetime_complete)
    began = min(trial.datetime_start for trial in trials if trial.datetime_start)
    dataset, parts = loaded(folder, config, place / "runs" / "cache")
    model = bundle.load(place / "runs" / "s" / "model")
    probabilities = model.predict(dataset.images[parts.test])
    return {
        "seconds": whole,
        "search": (search - began).total_seconds(),
        "epochs": sum(len(trial.intermediate_values) for trial in trials),
        "right": (probabilities.argmax(1) == dataset.labels[parts.test]).tolist(),
    }


def loaded(folder: Path, config: StudyConfig, cache: Path) -> tuple[ImageSet, Parts]:
    dataset = load(str(folder), config.image_size, cache, groups=config.groups)
    return dataset, make_parts(dataset.labels, dataset.groups, dataset.classes, dataset.paths, config.seed)


# ---- both -------------------------------------------------------------------------------------------------------


def subset(source: Path, target: Path, each: int) -> Path:
    """Make a folder of links to the first images of each class, ordered by group, with their groups."""
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


def matrix_rate(device: torch.device = CPU) -> float:
    """Measure the operations per second of a large matrix product in the type that training uses (best of 6)."""
    cuda = device.type == "cuda"
    side = 8192 if cuda else 2048
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16 if cuda else None) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: a @ b, device) for _ in range(6))


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Measure the seconds until the device has done the work."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    return seconds(lambda: (work(), wait()))


def operations(model: nn.Module, size: int) -> tuple[float, float]:
    """Count the multiplications and additions for one image, (forward, backward), with torch's own counter."""
    with FlopCounterMode(display=False) as ahead:
        loss = model(torch.randn(2, 3, size, size)).sum()
    with FlopCounterMode(display=False) as back:
        loss.backward()
    return ahead.get_total_flops() / 2, back.get_total_flops() / 2


def arithmetic(points: list[dict[str, Any]], given: Any, held: dict[str, Images], classes: int) -> Row:
    """Compute how long the search without pruning would take at the rate of a matrix product."""
    total, rate = 0.0, matrix_rate()
    for point in points:
        ahead, back = operations(network(point, given.base, given.size, classes), given.size)
        total += given.epochs * (len(held["train"][0]) * (ahead + back) + len(held["val"][0]) * ahead)
    return {"seconds": total / rate, "GFLOP/s": rate / 1e9}


def side(name: str, points: list[dict[str, Any]], folder: Path, held: dict[str, Images], given: Any) -> Row:
    with tempfile.TemporaryDirectory() as place:
        dataset, parts = loaded(folder, make_config(folder, given, "none"), Path(place) / "cache")
        if name == "reference":
            found = reference(points, held, given, len(dataset.classes))
        else:
            found = ours(points, folder, given, "none" if name == "ours" else "hyperband", Path(place))
        counts = ", ".join(f"{part} {len(images[0])}" for part, images in held.items())
        return {"images": counts, **found, "group": dataset.groups[parts.test].tolist()}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    if (given.folder is None) == (given.generate is None):
        raise SystemExit("give a folder of class folders, or --generate PIXELS")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    points = drawn(given.configurations, derive_seed(given.seed, "configurations"), SPACE)
    with tempfile.TemporaryDirectory() as place:
        source = given.folder or tissue.generate(
            Path(place) / "tissue", sources=given.each // 10, copies=10, size=given.generate
        )
        folder = subset(source, Path(place) / "images", given.each)
        dataset, parts = loaded(folder, make_config(folder, given, "none"), Path(place) / "cache")
        files, labels = [folder / name for name in dataset.paths], dataset.labels.tolist()
        held = {
            part: ([files[i] for i in index], [labels[i] for i in index])
            for part, index in {"train": parts.train, "val": parts.val, "test": parts.test}.items()
        }
        if len(files) >= 900:
            yield SMALLEST, partial(smallest_epoch, (files, labels))
        for name in ("reference", "ours", "ours, Hyperband"):
            yield name, partial(side, name, points, folder, held, given)
        yield FLOOR, partial(arithmetic, points, given, held, len(dataset.classes))


def show(rows: list[Row]) -> str:
    sides = {row["name"]: row for row in rows if "right" in row}
    theirs = sides["reference"]
    lines = []
    for name, row in sides.items():
        difference = between(*paired(row["right"], theirs["right"], row["group"])) if row is not theirs else ""
        line = {"": name, **{key: row[key] for key in ("seconds", "search", "epochs")}}
        line["ratio"] = theirs["seconds"] / row["seconds"]
        lines.append({**line, "held out %": 100 * float(np.mean(row["right"])), "difference (95 %)": difference})
    others = table([row for row in rows if "right" not in row])
    return f"Images: {theirs['images']}\n\n{table(lines)}\n\n{others}"


if __name__ == "__main__":
    generate = {"type": int, "metavar": "PIXELS", "help": "synthetic tissue instead of a folder"}
    options = {"folder": {"type": Path, "nargs": "?"}, "--generate": generate, "--each": (240, "images of each class")}
    options |= {"--size": (64, "pixels after resizing"), "--base": (4, "filters of the narrowest first block")}
    options |= {"--configurations": 8, "--epochs": 9, "--seed": 0}
    run(__doc__ or "", cells, {**options, "--batch": (BATCH, "of our search; the reference's is 16")}, show)
