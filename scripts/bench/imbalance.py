#!/usr/bin/env python
"""Effect of class weights on a rare class: the same networks with the same initial weights, trained with and without.

One class, another one with each seed, keeps a tenth of its training images; the test part stays whole. Printed for
each seed: recall of the rare class, balanced accuracy and accuracy on the test part, without and with
`class_weights = balanced`; then the mean of the paired differences with its 95 % interval over the seeds (Student's t).

Usage: python scripts/bench/imbalance.py [DIR|digits|tissue] [--seeds 10] [--epochs 18] [--rare 0.1] [--json]
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batch import training_of
from harness import Cell, Row, between, run, table
from scipy import stats

from data.splits import Parts
from models.scores.evaluation import mean_recall, predict_logits
from models.training.recipe import derive_seed
from study.config.resolve import resolve
from study.search.opening import load_parts
from study.training.workspace import Workspace, make_workspace

SIZES = {"digits": 16, "tissue": 48}
POINT: dict[str, Any] = {"num_conv_blocks": 3, "base_filters": 8, "use_batch_norm": True, "head": "gap"}
RECIPE: dict[str, Any] = {"learning_rate": 0.01, "optimizer": "adamw", "schedule": "cosine", "weight_decay": 0.05}
MEASURES = ("rare_recall", "balanced_accuracy", "accuracy")
WEIGHTS = ("none", "balanced")


def prepared(source: str, runs: Path, epochs: int) -> Workspace:
    """Load the images of a dataset, divided once, with the settings of one fixed network."""
    space = {**POINT, **RECIPE, "dense_units": "none", "learning_rate": [RECIPE["learning_rate"]]}
    fields = {"preset": "quick", "data": source, "image_size": SIZES.get(source, 48), "space": space, "starts": []}
    config = resolve(None, {**fields, "epochs": epochs, "batch_size": "auto"})
    dataset, parts = load_parts(config, runs, None)
    return make_workspace(config, dataset, parts, torch.device("cpu"), runs / "bench")


def thinned(work: Workspace, rare: int, share: float, seed: int) -> Parts:
    """Return the parts with only a share of the rare class's training images."""
    mine = work.dataset.labels[work.parts.train] == rare
    own = work.parts.train[mine]
    kept = np.random.default_rng(seed).choice(own, max(1, round(share * len(own))), replace=False)
    return replace(work.parts, train=np.sort(np.concatenate([work.parts.train[~mine], kept])))


def scores(work: Workspace, weights: str, rare: int, seed: int) -> dict[str, float]:
    """Train a network with or without class weights, and score it on the test part."""
    work = replace(work, config=work.config.model_copy(update={"class_weights": weights}))
    point, epochs, batch = {"learning_rate": RECIPE["learning_rate"]}, work.config.epochs, work.config.batch_size
    training = training_of(work, point, epochs, batch, derive_seed(seed, "imbalance"))
    for _ in training.epochs:
        pass
    labels = work.dataset.labels[work.parts.test]
    named = predict_logits(training.model, work.eval_batches("test")).argmax(axis=1)
    return {
        "rare_recall": float((named[labels == rare] == rare).mean()),
        "balanced_accuracy": mean_recall(named, labels),
        "accuracy": float((named == labels).mean()),
    }


def difference(rows: list[Row], measure: str) -> tuple[float, float, float]:
    """Compute the mean difference over the seeds, with minus without weights, and the ends of its 95 % interval."""
    each = np.array([row["balanced"][measure] - row["none"][measure] for row in rows])
    half = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else np.nan
    return float(each.mean()), float(each.mean() - half), float(each.mean() + half)


def both(work: Workspace, seed: int, share: float) -> Row:
    """Score networks with and without weights, after one class was made rare."""
    rare = seed % len(work.dataset.classes)
    thin = replace(work, parts=thinned(work, rare, share, seed))
    return {"rare": work.dataset.classes[rare], **{weights: scores(thin, weights, rare, seed) for weights in WEIGHTS}}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    with tempfile.TemporaryDirectory() as place:
        work = prepared(given.data, Path(place), given.epochs)
        for seed in range(given.seeds):
            yield f"seed {seed}", partial(both, work, seed, given.rare)


def show(rows: list[Row]) -> str:
    found = [
        {
            "": measure,
            "without": float(np.mean([row["none"][measure] for row in rows])),
            "with weights (95 % over seeds)": between(*difference(rows, measure), digits=3),
        }
        for measure in MEASURES
    ]
    return table(found)


if __name__ == "__main__":
    rare = (0.1, "share of the rare class's training images")
    data = ("digits", "a folder, digits, or tissue")
    run(__doc__ or "", cells, {"data": data, "--seeds": 10, "--epochs": 18, "--rare": rare}, show)
