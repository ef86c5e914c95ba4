"""Sides of `peers.py` that use a pretrained network in the usual ways; no benchmark of its own."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from harness import Row, seconds
from reference import CPU
from torch import nn

from models.architecture import Backbone, BackboneConfig
from models.backbones import find_weights, load_features, preferred_local_network
from models.cnn import CNN, build_cnn
from study.result.pretrained import fit
from study.training.workspace import make_workspace

if TYPE_CHECKING:
    from peers import Bench
    from torch.utils.data import DataLoader

SIZES = (224, 160, 128, 96, 64)
LEAST_EPOCHS = 5
"""Least number of epochs: the largest size is taken at which that many end in time."""
RATE, DECAY, WARM = 1e-3, 0.01, 0.1
"""Learning rate and weight decay of AdamW over all layers, and the share of the time in which the rate rises.

After that it falls as a cosine.
"""
KEPT = 0.04
"""Share of the time that is kept for scoring."""


def frozen(bench: Bench) -> Row:
    """Fit a regression on the features of an unchanged pretrained network, at up to 224 px; val sets its strength."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        work = make_workspace(bench.config, bench.dataset, bench.parts, CPU, Path(place))
        found = fit(work, bench.parts.train, bench.parts.val, bench.seconds, math.inf)
        right = found.labels(bench.parts.test) == bench.dataset.labels[bench.parts.test]
    note = f"{found.name}, logistic regression"
    return {"right": right, "epochs": 0, "training": time.perf_counter() - start, "note": note}


def finetuned(bench: Bench) -> Row:
    """Train all layers of a pretrained network on train and val for all of the time, without any search."""
    from peers import loader, right_of, tenth

    start = time.perf_counter()
    name = preferred_local_network()
    if name is None:
        raise SystemExit("no pretrained network is at hand")
    both, workers = bench.images("train", "val"), 2
    for size in SIZES:
        some = loader(tenth(both), size, train=True, workers=workers)
        epoch = 10 * seconds(partial(next, _trained(_network(name, size, bench), some, bench, math.inf)))
        left = (1 - KEPT) * bench.seconds - (time.perf_counter() - start)
        if left / epoch >= LEAST_EPOCHS:
            break
    model = _network(name, size, bench)
    began = time.perf_counter()
    epochs = sum(1 for _ in _trained(model, loader(both, size, train=True, workers=workers), bench, left))
    spent = time.perf_counter() - began
    right = right_of(model, loader(bench.images("test"), size, train=False, workers=workers))
    return {"right": right, "epochs": epochs, "training": spent, "note": f"{name} at {size} px, all layers, AdamW"}


def _network(name: Backbone, size: int, bench: Bench) -> CNN:
    classes = len(bench.dataset.classes)
    config = BackboneConfig(num_classes=classes, image_size=size, backbone=name, trained=1.0, dropout=0.2)
    model = build_cnn(config)
    load_features(model.features, name, find_weights(name).load())
    return model


def _trained(model: CNN, images: DataLoader[Any], bench: Bench, allowed: float) -> Iterator[None]:
    """Train until `allowed` seconds are over; yield after each epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    loss_of = nn.CrossEntropyLoss(weight=_weights(bench))
    began = time.perf_counter()
    model.train()
    while time.perf_counter() - began < allowed:  # whatever an epoch holds, be it no whole batch
        for x, y in images:
            done = (time.perf_counter() - began) / allowed
            if done >= 1:
                return
            share = done / WARM if done < WARM else 0.5 * (1 + math.cos(math.pi * (done - WARM) / (1 - WARM)))
            optimizer.param_groups[0]["lr"] = RATE * share
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            optimizer.step()
        yield


def _weights(bench: Bench) -> torch.Tensor | None:
    """Return weights of the classes, if the study weighs them too; else None."""
    if bench.config.class_weights != "balanced":
        return None
    counts = np.bincount(bench.dataset.labels[np.concatenate([bench.parts.train, bench.parts.val])])
    return torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32)
