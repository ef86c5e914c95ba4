#!/usr/bin/env python
"""What so many minutes give: five ways to a network on the same images, parts and machine, one after the other.

  published  its procedure (see bench_reference.py): every configuration to the end, no pruning, images decoded in
             every epoch; then the best goes on
  optuna     as Optuna's own PyTorch example does it: ImageFolder, DataLoader, torchvision, TPE, HyperbandPruner, SQLite
             over the published space; the winner is trained afresh on train and val
  ray        the same loop under Ray Tune with ASHA (needs: pip install -e '.[bench]'); the winner likewise
  recipe     no search: one good residual network, trained for all of the time
  ours       study run --hours

The first three get the image size of our plan, networks as wide and epochs as many as end in time (both are printed),
and the same held-out images are scored once, at the end. Rows are appended to a JSON file as they are made, and those
that it has are not made again. Differences are ours minus theirs, paired, with 95 % intervals over groups.

Usage: python scripts/bench_peers.py DIR --minutes 8 [--only ours,recipe] [--file peers.json]
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from bench_reference import Images, network, paired, reference
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from data.datasets import ImageSet, load
from data.splits import Parts, make_parts
from models.bundle import folder as bundle
from models.bundle.reference import IMAGENET
from models.scores.evaluation import predict_logits
from models.training.checkpoint import Checkpoints
from study.config.presets import PRESETS, STARTS
from study.config.resolve import ask
from study.config.schema import StudyConfig
from study.search.settle import settle
from study.training.start import start_training
from study.training.workspace import make_workspace

CONFIGURATIONS, SEARCH = 8, 0.6
"""Of the peers that search; and the share of the time that they search for."""
BASES = (32, 16, 8, 4, 2)
"""Filters of the narrowest first block: the published 32, or as many as the time allows."""
DECAY, BATCH = 1e-4, 64
CPU = torch.device("cpu")  # of every side


@dataclass(frozen=True)
class Bench:
    """What all sides get."""

    folder: Path
    seconds: float
    size: int  # pixels
    dataset: ImageSet
    parts: Parts
    space: dict[str, list[Any]]  # the published one

    def images(self, *names: str) -> Images:
        """Files and labels of some parts."""
        index = np.concatenate([getattr(self.parts, name) for name in names])
        return [self.folder / self.dataset.paths[i] for i in index], [int(self.dataset.labels[i]) for i in index]


Found = dict[str, Any]
"""right: one bool a held-out image; epochs trained; training: seconds in epochs; and what is worth knowing."""


class Files(Dataset[tuple[torch.Tensor, int]]):
    """As ImageFolder, for the files of a part."""

    def __init__(self, images: Images, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.files, self.labels = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[number]) as image:
            return self.transform(image.convert("RGB")), self.labels[number]


def loader(images: Images, size: int, *, train: bool, workers: int) -> DataLoader[Any]:
    """The published augmentation, which its own program loses; workers decode beside the training."""
    steps: list[Any] = [transforms.ToTensor(), transforms.Normalize(IMAGENET["mean"], IMAGENET["std"])]
    if train:
        steps.insert(0, transforms.ColorJitter(0.2, 0.2, 0.2))
        steps.insert(0, transforms.RandomHorizontalFlip())
        steps.insert(0, transforms.RandomRotation(20))
        steps.insert(0, transforms.RandomResizedCrop(size, scale=(0.8, 1.0)))
    else:
        steps.insert(0, transforms.Resize((size, size)))
    files = Files(images, transforms.Compose(steps))
    return DataLoader(files, BATCH, shuffle=train, num_workers=workers, drop_last=train)


def trained(
    model: nn.Module, rate: float, train: DataLoader[Any], val: DataLoader[Any] | None, epochs: int
) -> Iterator[float]:
    """The loop of Optuna's example: the accuracy on val after each epoch (0 without val)."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=DECAY)
    for _ in range(epochs):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        yield float(right_of(model, val).mean()) if val else 0.0


def right_of(model: nn.Module, held: DataLoader[Any]) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        return np.concatenate([(model(x).argmax(1) == y).numpy() for x, y in held])


def affordable(bench: Bench, epoch: Callable[[int], float], epochs_in_all: float) -> tuple[int, int, float]:
    """(filters of the first block, epochs of a configuration, seconds of one): the widest that get 3 epochs or more."""
    for base in BASES:
        taken = epoch(base)
        epochs = min(27, int(bench.seconds / (epochs_in_all * taken)))
        if epochs >= 3:
            return base, epochs, taken
    return BASES[-1], max(1, epochs), taken


def usual_point(bench: Bench) -> dict[str, Any]:
    """In the middle of the published space."""
    return {name: values[len(values) // 2] for name, values in bench.space.items()}


def tenth(images: Images) -> Images:
    """Every tenth image, to measure with."""
    return images[0][::10], images[1][::10]


def published(bench: Bench) -> Found:
    parts = {name: bench.images(name) for name in ("train", "val", "test")}
    small = {name: tenth(images) for name, images in parts.items()}

    def epoch(base: int) -> float:
        given = argparse.Namespace(base=base, size=bench.size, epochs=1)
        start = time.perf_counter()
        reference([usual_point(bench)], small, given, len(bench.dataset.classes))
        return 10 * (time.perf_counter() - start) / 3  # one epoch, and two of the best

    base, epochs, _ = affordable(bench, epoch, CONFIGURATIONS + 2)
    rng = random.Random(0)
    points = [{name: rng.choice(values) for name, values in bench.space.items()} for _ in range(CONFIGURATIONS)]
    given = argparse.Namespace(base=base, size=bench.size, epochs=epochs)
    found = reference(points, parts, given, len(bench.dataset.classes))
    whole = found["epochs"] + 2 * epochs
    return {"right": found["right"].numpy(), "epochs": whole, "training": None, "note": _note(base, epochs)}


def _note(base: int, epochs: int) -> str:
    return f"first block {base} filters and more, {epochs} epochs a configuration"


def optuna_example(bench: Bench) -> Found:
    start = time.perf_counter()
    workers = os.cpu_count() or 1
    train = loader(bench.images("train"), bench.size, train=True, workers=workers)
    val = loader(bench.images("val"), bench.size, train=False, workers=workers)
    base, epochs, _ = affordable(bench, lambda base: _one_epoch(bench, base, workers), CONFIGURATIONS / SEARCH)
    spent: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        point = {name: trial.suggest_categorical(name, values) for name, values in bench.space.items()}
        model = network(point, base, bench.size, len(bench.dataset.classes))
        last = time.perf_counter()
        for number, accuracy in enumerate(trained(model, point["learning_rate"], train, val, epochs), 1):
            spent.append(time.perf_counter() - last)
            last += spent[-1]
            trial.report(accuracy, number)
            if trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    with tempfile.TemporaryDirectory() as place:
        pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
        study = optuna.create_study(
            storage=f"sqlite:///{place}/optuna.db",
            sampler=optuna.samplers.TPESampler(seed=0),
            pruner=pruner,
            direction="maximize",
        )
        study.optimize(objective, timeout=SEARCH * bench.seconds - (time.perf_counter() - start))
        point = study.best_trial.params
    return _winner(bench, point, base, epochs, spent, start, workers)


def _one_epoch(bench: Bench, base: int, workers: int) -> float:
    model = network(usual_point(bench), base, bench.size, len(bench.dataset.classes))
    train = loader(tenth(bench.images("train")), bench.size, train=True, workers=workers)
    val = loader(tenth(bench.images("val")), bench.size, train=False, workers=workers)
    start = time.perf_counter()
    list(trained(model, 1e-3, train, val, 1))
    return 10 * (time.perf_counter() - start)


def _winner(
    bench: Bench, point: dict[str, Any], base: int, epochs: int, spent: list[float], start: float, workers: int
) -> Found:
    """Trained afresh on train and val until the time is over."""
    model = network(point, base, bench.size, len(bench.dataset.classes))
    both = loader(bench.images("train", "val"), bench.size, train=True, workers=workers)
    last = time.perf_counter()
    for _ in trained(model, point["learning_rate"], both, None, 10_000):
        spent.append(time.perf_counter() - last)
        last += spent[-1]
        if last - start + spent[-1] > bench.seconds:
            break
    held = loader(bench.images("test"), bench.size, train=False, workers=workers)
    note = _note(base, epochs)
    return {"right": right_of(model, held), "epochs": len(spent), "training": sum(spent), "note": note}


def ray_tune(bench: Bench) -> Found:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    start = time.perf_counter()
    base, epochs, _ = affordable(bench, lambda base: _one_epoch(bench, base, 0), CONFIGURATIONS / SEARCH)
    parts, classes, size = (bench.images("train"), bench.images("val")), len(bench.dataset.classes), bench.size

    def trainable(point: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        train = loader(parts[0], size, train=True, workers=0)
        val = loader(parts[1], size, train=False, workers=0)
        last = time.perf_counter()
        for accuracy in trained(network(point, base, size, classes), point["learning_rate"], train, val, epochs):
            tune.report({"accuracy": accuracy, "seconds": time.perf_counter() - last})
            last = time.perf_counter()

    ray.init(include_dashboard=False, log_to_driver=False, runtime_env={"working_dir": str(Path(__file__).parent)})
    try:
        with tempfile.TemporaryDirectory() as place:
            left = SEARCH * bench.seconds - (time.perf_counter() - start)
            results = tune.Tuner(
                tune.with_resources(trainable, {"cpu": 1}),
                param_space={name: tune.choice(values) for name, values in bench.space.items()},
                tune_config=tune.TuneConfig(
                    metric="accuracy",
                    mode="max",
                    scheduler=ASHAScheduler(max_t=epochs, grace_period=1, reduction_factor=3),
                    num_samples=-1,
                    max_concurrent_trials=os.cpu_count(),
                    time_budget_s=left,
                ),
                run_config=tune.RunConfig(storage_path=place, verbose=0),
            ).fit()
            frames = [one.metrics_dataframe for one in results]
            frames = [
                frame for frame in frames if frame is not None and "seconds" in frame
            ]  # cut off in its first epoch
            spent = [float(value) for frame in frames for value in frame["seconds"]]
            point = results.get_best_result().config
    finally:
        ray.shutdown()
    assert point is not None
    # Trials ran beside each other: their seconds do not add up to a share of the time.
    return {**_winner(bench, point, base, epochs, spent, start, os.cpu_count() or 1), "training": None}


def recipe(bench: Bench) -> Found:
    """The first of our own starts at a width of 24, without any search, by our own loop."""
    start = time.perf_counter()
    fields = {**PRESETS["auto"], "image_size": bench.size, "trials": 1, "starts": [], "rivals": [], "limit": {}}
    fields |= {"epochs": 9, "min_epochs": 1, "confirm": 1, "confirm_epochs": None, "final_epochs": 9, "final_seeds": 1}
    config = StudyConfig.model_validate(fields)
    point: dict[str, Any] = {**STARTS[0], "base_filters": 24}
    with tempfile.TemporaryDirectory() as place:
        work = make_workspace(config, bench.dataset, bench.parts, CPU, Path(place))

        def training(epochs: int) -> Any:
            none = Checkpoints(Path(place) / str(epochs), "none", math.inf)
            both = ("train", "val")
            return start_training(
                work, point, epochs=epochs, batch_size="auto", train_parts=both, seed=0, checkpoints=none
            )

        epoch = next(training(1).epochs).seconds
        whole = training(int((bench.seconds - (time.perf_counter() - start)) / epoch))
        spent = [epoch, *(result.seconds for result in whole.epochs)]
        logits = predict_logits(whole.model, work.eval_batches("test"), work.views)
    named = torch.softmax(torch.from_numpy(logits), -1).mean(0).argmax(1).numpy()
    right = named == bench.dataset.labels[bench.parts.test]
    return {"right": right, "epochs": len(spent), "training": sum(spent), "note": "residual, 4 blocks, 24 filters"}


def ours(bench: Bench) -> Found:
    with tempfile.TemporaryDirectory() as place:
        words = ["run", "--data", str(bench.folder.resolve()), "--hours", str(bench.seconds / 3600), "--name", "s"]
        here = str(Path(__file__).resolve().parents[1])
        subprocess.run(
            [sys.executable, "-m", "study", *words], cwd=place, check=True, env={**os.environ, "PYTHONPATH": here}
        )
        model = bundle.load(Path(place) / "runs" / "s" / "model")
        assert model.card
        assert model.card.study
        assert model.card.final
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{place}/optuna.db")
        spent = [trial.user_attrs.get("seconds", 0.0) for trial in study.trials]
        searched = sum(len(trial.intermediate_values) for trial in study.trials)
        dataset = load(str(bench.folder), model.image_size, Path(place) / "runs" / "cache")
        assert model.card.data
        assert model.card.data.parts_hash == bench.parts.hash
        right = model.predict(dataset.images[bench.parts.test]).argmax(1) == dataset.labels[bench.parts.test]
        final = model.card.final
        note = ", ".join(f"{key} {value}" for key, value in model.card.study.params.items())
    return {
        "right": right,
        "epochs": searched + final.epochs * final.trainings,
        "training": sum(spent) + final.seconds,
        "note": f"{len(study.trials)} trials; {final.epochs} final epochs; {note}",
    }


SIDES: dict[str, Callable[[Bench], Found]] = {
    "published": published,
    "optuna": optuna_example,
    "ray": ray_tune,
    "recipe": recipe,
    "ours": ours,
}


def prepared(folder: Path, minutes: float) -> Bench:
    """The images, our parts, and the image size that our plan chooses for these minutes."""
    asked = ask(None, {"data": str(folder.resolve()), "hours": minutes / 60})
    with tempfile.TemporaryDirectory() as place:
        config, _ = settle(asked, "s", f"sqlite:///{place}/optuna.db", CPU)
        dataset = load(str(folder), config.image_size, Path(place) / "cache")
        dataset.images.flags  # noqa: B018  (the memory map outlives its folder)
    parts = make_parts(dataset.labels, dataset.groups, dataset.classes, dataset.paths, config.seed)
    published_space = PRESETS["reference"]["space"]
    assert isinstance(published_space, dict)
    space = {name: values for name, values in published_space.items() if isinstance(values, list)}
    return Bench(folder.resolve(), 60 * minutes, config.image_size, dataset, parts, space)


def show(rows: list[Found], bench: Bench) -> None:
    groups = bench.dataset.groups[bench.parts.test]
    best = next((row for row in rows if row["side"] == "ours"), None)
    print(f"{len(groups)} held-out images of {len(np.unique(groups))} groups, n = 1")
    print(f"{'':10} {'held out':>9} {'ours minus it (95 %)':>26} {'seconds':>8} {'epochs':>7} {'outside epochs':>15}  ")
    for row in rows:
        right = torch.tensor(row["right"])
        line = f"{row['side']:10} {100 * right.double().mean().item():7.1f} %"
        between = ""
        if best and row is not best:
            between = "{:+.1f} ({:+.1f} to {:+.1f})".format(*paired(torch.tensor(best["right"]), right, groups))
        outside = "" if row["training"] is None else f"{100 * (1 - row['training'] / row['seconds']):.0f} %"
        print(f"{line} {between:>26} {row['seconds']:8.0f} {row['epochs']:7} {outside:>15}  {row['note']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0, help="of wall-clock, for each side")
    parser.add_argument("--only", default=",".join(SIDES), help="sides, separated by commas")
    parser.add_argument("--file", type=Path, default=Path("peers.json"), help="where the rows are kept")
    given = parser.parse_args()
    wanted = given.only.split(",")
    if unknown := [name for name in wanted if name not in SIDES]:
        parser.error(f"no side {unknown[0]!r} (there are: {', '.join(SIDES)})")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    bench = prepared(given.folder, given.minutes)
    rows: list[Found] = json.loads(given.file.read_text()) if given.file.exists() else []
    same = {"minutes": given.minutes, "size": bench.size, "parts": bench.parts.hash, "cores": os.cpu_count()}
    for name in wanted:
        if any(row["side"] == name and same.items() <= row.items() for row in rows):
            continue
        print(f"{name} ...", file=sys.stderr)
        start = time.perf_counter()
        found = SIDES[name](bench)
        seconds = time.perf_counter() - start
        row = {"side": name, **same, "seconds": seconds, "made": datetime.now(UTC).isoformat(timespec="seconds")}
        rows.append({**row, **found, "right": [bool(one) for one in found["right"]]})
        given.file.write_text(json.dumps(rows))
    show([row for row in rows if same.items() <= row.items()], bench)


if __name__ == "__main__":
    main()
