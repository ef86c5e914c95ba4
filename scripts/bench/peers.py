#!/usr/bin/env python
"""Compare ways to a network in the same time: on the same images, parts and machine, one after the other.

  published  the published procedure (see reference.py): every configuration to the end, no pruning, images decoded in
             every epoch; then the best goes on
  optuna     as Optuna's own PyTorch example does it: ImageFolder, DataLoader, torchvision, TPE, HyperbandPruner, SQLite
             over the published space; the winner is trained afresh on train and val
  ray        the same loop under Ray Tune with ASHA (needs: pip install -e '.[bench]'); the winner likewise
  recipe     no search: one good residual network, trained for all of the time
  finetuned  no search: all layers of a pretrained network, trained for all of the time (see pretrained.py)
  frozen     no training: a regression on a pretrained network's features
  scratch    study run --hours, without pretrained networks
  ours       study run --hours

The first four get the image size of our plan without pretrained networks; the first three also networks as wide and
epochs as many as fit into the time (both are printed). The same held-out images are scored once, at the end. If our
plan weighs the classes, all but the first three do so too. Differences are ours minus theirs, paired, with 95 %
intervals over groups; n = 1. All sides run on the processor, also where there is a GPU.

Usage: python scripts/bench/peers.py DIR --minutes 8 [--groups FILE] [--only ours,recipe] [--keep peers.jsonl]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from batch import training_of
from harness import Cell, Row, among, between, paired, run, seconds, table
from PIL import Image
from pretrained import finetuned, frozen
from reference import CPU, DECAY, Images, drawn, network, reference
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from data.datasets import ImageSet, load
from data.splits import Parts, make_parts
from models.bundle import folder as bundle
from models.bundle.reference import IMAGENET
from models.scores.evaluation import predict_logits
from models.scores.intervals import balanced_difference_interval
from study.config.presets import PRESETS, STARTS
from study.config.resolve import ask
from study.config.schema import StudyConfig
from study.search.settle import settle
from study.training.workspace import make_workspace

CONFIGURATIONS, SEARCH = 8, 0.6
"""Number of configurations of the peers that search, and the share of the time for which they search."""
BASES = (32, 16, 8, 4, 2)
"""Numbers of filters of the narrowest first block: the published 32, or fewer if the time is short."""
BATCH = 64


@dataclass(frozen=True)
class Bench:
    """Bench that all sides get: images, parts, time and settings."""

    folder: Path
    seconds: float
    size: int  # pixels
    dataset: ImageSet
    parts: Parts
    config: StudyConfig  # the configuration that our plan chose
    space: dict[str, list[Any]]  # the published space

    def images(self, *names: str) -> Images:
        """Return the files and labels of some parts."""
        index = np.concatenate([getattr(self.parts, name) for name in names])
        return [self.folder / self.dataset.paths[i] for i in index], [int(self.dataset.labels[i]) for i in index]


@dataclass(frozen=True)
class Files(Dataset[tuple[torch.Tensor, int]]):
    """Dataset like ImageFolder, for the files of a part."""

    images: Images
    transform: Callable[[Image.Image], torch.Tensor]

    def __len__(self) -> int:
        return len(self.images[0])

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.images[0][number]) as image:
            return self.transform(image.convert("RGB")), self.images[1][number]


def loader(images: Images, size: int, *, train: bool, workers: int) -> DataLoader[Any]:
    """Make a loader with the published augmentation (which its own program loses); `workers` decode during training."""
    steps: list[Any] = [transforms.Resize((size, size))]
    if train:
        steps = [transforms.RandomResizedCrop(size, scale=(0.8, 1.0)), transforms.RandomRotation(20)]
        steps += [transforms.RandomHorizontalFlip(), transforms.ColorJitter(0.2, 0.2, 0.2)]
    steps += [transforms.ToTensor(), transforms.Normalize(IMAGENET["mean"], IMAGENET["std"])]
    files = Files(images, transforms.Compose(steps))
    return DataLoader(files, BATCH, shuffle=train, num_workers=workers, drop_last=train and len(files) >= BATCH)


def trained(
    model: nn.Module, rate: float, train: DataLoader[Any], val: DataLoader[Any] | None, epochs: int
) -> Iterator[float]:
    """Train in the loop of Optuna's example; yield the accuracy on val after each epoch (0 without val)."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=DECAY)
    for _ in range(epochs):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        yield float(right_of(model, val).mean()) if val else 0.0


def right_of(model: nn.Module, held: DataLoader[Any]) -> np.ndarray:
    """Return for each image whether its predicted class is right."""
    model.eval()
    with torch.no_grad():
        return np.concatenate([(model(x).argmax(1) == y).numpy() for x, y in held])


def affordable(bench: Bench, epoch: Callable[[int], float], epochs_in_all: float) -> tuple[int, int]:
    """Return (filters of the first block, epochs of a configuration): the widest networks that get 3 epochs or more."""
    for base in BASES:
        epochs = min(27, int(bench.seconds / (epochs_in_all * epoch(base))))
        if epochs >= 3:
            return base, epochs
    return BASES[-1], max(1, epochs)


def usual_point(bench: Bench) -> dict[str, Any]:
    """Return the point in the middle of the published space."""
    return {name: values[len(values) // 2] for name, values in bench.space.items()}


def tenth(images: Images) -> Images:
    """Return every tenth image, to measure with."""
    return images[0][::10], images[1][::10]


def published(bench: Bench) -> Row:
    parts = {name: bench.images(name) for name in ("train", "val", "test")}
    small = {name: tenth(images) for name, images in parts.items()}

    def ended(points: list[dict[str, Any]], images: dict[str, Images], base: int, epochs: int) -> Row:
        given = argparse.Namespace(base=base, size=bench.size, epochs=epochs)
        return reference(points, images, given, len(bench.dataset.classes))

    def epoch(base: int) -> float:  # three epochs: one of the search, two of the best
        return 10 * seconds(lambda: ended([usual_point(bench)], small, base, 1)) / 3

    base, epochs = affordable(bench, epoch, CONFIGURATIONS + 2)
    found = ended(drawn(CONFIGURATIONS, 0, bench.space), parts, base, epochs)
    whole = found["epochs"] + 2 * epochs
    return {"right": found["right"], "epochs": whole, "training": None, "note": _note(base, epochs)}


def _note(base: int, epochs: int) -> str:
    return f"first block {base} filters and more, {epochs} epochs a configuration"


def optuna_example(bench: Bench) -> Row:
    start = time.perf_counter()
    workers = os.cpu_count() or 1
    train = loader(bench.images("train"), bench.size, train=True, workers=workers)
    val = loader(bench.images("val"), bench.size, train=False, workers=workers)
    base, epochs = affordable(bench, lambda base: _one_epoch(bench, base, workers), CONFIGURATIONS / SEARCH)
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
        url, sampler = f"sqlite:///{place}/optuna.db", optuna.samplers.TPESampler(seed=0)
        pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
        study = optuna.create_study(storage=url, sampler=sampler, pruner=pruner, direction="maximize")
        study.optimize(objective, timeout=SEARCH * bench.seconds - (time.perf_counter() - start))
        point = study.best_trial.params
    return _winner(bench, point, base, epochs, spent, start, workers)


def _one_epoch(bench: Bench, base: int, workers: int) -> float:
    model = network(usual_point(bench), base, bench.size, len(bench.dataset.classes))
    train = loader(tenth(bench.images("train")), bench.size, train=True, workers=workers)
    val = loader(tenth(bench.images("val")), bench.size, train=False, workers=workers)
    return 10 * seconds(lambda: list(trained(model, 1e-3, train, val, 1)))


def _winner(
    bench: Bench, point: dict[str, Any], base: int, epochs: int, spent: list[float], start: float, workers: int
) -> Row:
    """Train the winner afresh on train and val until the time is over."""
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


def ray_tune(bench: Bench) -> Row:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    start = time.perf_counter()
    base, epochs = affordable(bench, lambda base: _one_epoch(bench, base, 0), CONFIGURATIONS / SEARCH)
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
            frames = [one.metrics_dataframe for one in results]  # None if cut off in the first epoch
            whole = [frame for frame in frames if frame is not None and "seconds" in frame]
            spent = [float(value) for frame in whole for value in frame["seconds"]]
            point = results.get_best_result().config
    finally:
        ray.shutdown()
    assert point is not None
    # Trials ran at the same time, so their seconds do not add up to a share of the time.
    return {**_winner(bench, point, base, epochs, spent, start, os.cpu_count() or 1), "training": None}


def recipe(bench: Bench) -> Row:
    """Train the first of our own starts, at a width of 24, in our own loop without any search."""
    start = time.perf_counter()
    fields = {**PRESETS["auto"], "image_size": bench.size, "trials": 1, "starts": [], "rivals": [], "limit": {}}
    fields |= {"epochs": 9, "min_epochs": 1, "confirm": 1, "confirm_epochs": None, "final_epochs": 9, "final_seeds": 1}
    fields |= {"metric": bench.config.metric, "class_weights": bench.config.class_weights}
    config = StudyConfig.model_validate(fields)
    point: dict[str, Any] = {**STARTS[0], "base_filters": 24}
    with tempfile.TemporaryDirectory() as place:
        work = make_workspace(config, bench.dataset, bench.parts, CPU, Path(place))
        training = partial(training_of, work, point, batch="auto", seed=0, parts=("train", "val"))
        epoch = next(training(epochs=1).epochs).seconds
        whole = training(epochs=int((bench.seconds - (time.perf_counter() - start)) / epoch))
        spent = [epoch, *(result.seconds for result in whole.epochs)]
        logits = predict_logits(whole.model, work.eval_batches("test"), work.views)
    named = torch.softmax(torch.from_numpy(logits), -1).mean(0).argmax(1).numpy()
    right = named == bench.dataset.labels[bench.parts.test]
    return {"right": right, "epochs": len(spent), "training": sum(spent), "note": "residual, 4 blocks, 24 filters"}


def ours(bench: Bench, *settings: str) -> Row:
    """Run `study run --hours`; `settings`: settings of the study, as --set takes them."""
    with tempfile.TemporaryDirectory() as place:
        words = ["run", "--data", str(bench.folder.resolve()), "--hours", str(bench.seconds / 3600), "--name", "s"]
        words += ["--device", "cpu"]  # as the others
        settings += () if bench.config.groups is None else (f"groups={bench.config.groups}",)
        words += [word for one in settings for word in ("--set", one)]
        here = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "PYTHONPATH": here}
        command = [sys.executable, "-m", "study", *words]
        subprocess.run(command, cwd=place, check=True, env=environment, stdout=sys.stderr)
        model = bundle.load(Path(place) / "runs" / "s" / "model")
        assert model.card and model.card.study and model.card.final and model.card.data  # noqa: PT018
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{place}/optuna.db")
        spent = [trial.user_attrs.get("seconds", 0.0) for trial in study.trials]
        searched = sum(len(trial.intermediate_values) for trial in study.trials)
        cache = Path(place) / "runs" / "cache"
        dataset = load(str(bench.folder), model.image_size, cache, groups=bench.config.groups)
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


SIDES: dict[str, Callable[[Bench], Row]] = {
    "published": published,
    "optuna": optuna_example,
    "ray": ray_tune,
    "recipe": recipe,
    "finetuned": finetuned,
    "frozen": frozen,
    "scratch": lambda bench: ours(bench, "space.backbone=none"),
    "ours": ours,
}


def prepared(folder: Path, minutes: float, groups: Path | None) -> Bench:
    """Prepare the images, our parts, and the image size that our plan without pretrained networks chooses."""
    given = {} if groups is None else {"groups": str(groups.resolve())}
    asked = ask(None, {"data": str(folder.resolve()), "hours": minutes / 60, "space.backbone": "none", **given})
    with tempfile.TemporaryDirectory() as place:
        config, _ = settle(asked, "s", f"sqlite:///{place}/optuna.db", CPU)
        dataset = load(str(folder), config.image_size, Path(place) / "cache", groups=config.groups)
        dataset.images.flags  # noqa: B018  (the memory map outlives its folder)
    parts = make_parts(dataset.labels, dataset.groups, dataset.classes, dataset.paths, config.seed)
    published_space = PRESETS["reference"]["space"]
    assert isinstance(published_space, dict)
    space = {name: values for name, values in published_space.items() if isinstance(values, list)}
    return Bench(folder.resolve(), 60 * minutes, config.image_size, dataset, parts, config, space)


def measured(side: str, bench: Bench) -> Row:
    """Run one side: which held-out images are right, epochs trained, seconds of them (`training`), and a note."""
    start = time.perf_counter()
    found = SIDES[side](bench)
    taken = time.perf_counter() - start
    right, groups = [bool(one) for one in found["right"]], bench.dataset.groups[bench.parts.test]
    labels = bench.dataset.labels[bench.parts.test]
    return {"side": side, "seconds": taken, **found, "right": right, "group": groups.tolist(), "label": labels.tolist()}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    bench = prepared(given.folder, given.minutes, given.groups)
    same = f"{bench.size} px, parts {bench.parts.hash[:8]}, {os.cpu_count()} cores"  # in common to all rows
    for side in given.only:
        yield f"{side}, {same}", partial(measured, side, bench)


def balanced(row: Row) -> float:
    """Compute the balanced accuracy: the mean over classes of the share of right images."""
    labels = np.array(row["label"])
    return float(np.mean([np.array(row["right"])[labels == one].mean() for one in np.unique(labels)]))


def balanced_difference(ours: Row, theirs: Row) -> str:
    """Format the difference of balanced accuracies in points, with its interval if no class has too few groups."""
    labels, groups = np.array(ours["label"]), np.array(ours["group"])
    ends = balanced_difference_interval(np.array(ours["right"]), np.array(theirs["right"]), labels, groups)
    difference = 100 * (balanced(ours) - balanced(theirs))
    return f"{difference:+.1f}" if ends is None else between(difference, *(100 * one for one in ends))


def show(rows: list[Row]) -> str:
    ours = next((row for row in rows if row["side"] == "ours"), None)
    lines = []
    for row in rows:
        line: Row = {"": row["side"], "held out %": 100 * float(np.mean(row["right"])), "ours minus it (95 %)": ""}
        line |= {"balanced %": 100 * balanced(row), "ours minus it, balanced (95 %)": ""}
        if ours and row is not ours:
            line["ours minus it (95 %)"] = between(*paired(ours["right"], row["right"], row["group"]))
            line["ours minus it, balanced (95 %)"] = balanced_difference(ours, row)
        line |= {"seconds": row["seconds"], "epochs": row["epochs"], "outside epochs %": ""}
        if row["training"] is not None:
            line["outside epochs %"] = 100 * (1 - row["training"] / row["seconds"])
        lines.append({**line, "what it did": row["note"]})
    groups = rows[0]["group"]
    return f"{len(groups)} held-out images of {len(set(groups))} groups\n\n{table(lines)}"


if __name__ == "__main__":
    options = {"folder": Path, "--minutes": (8.0, "of wall-clock, for each side"), "--only": among(SIDES)}
    options["--groups"] = {"type": Path, "metavar": "FILE", "help": "a list of the images' sources"}
    run(__doc__ or "", cells, options, show)
