#!/usr/bin/env python
"""Coverage of nominal 95 % intervals: how often they contain the true score of simulated models.

The sources of the images differ: the share of images that a model classifies correctly varies from group to group
(beta-binomial, by a correlation of the images of one group). A wrong image gets any of the other classes. Printed for
each score: of the intervals that were given, the share that contain the true value, with its binomial standard error,
in percent; their mean width in points; and how many were given, if not all. `difference` compares with a second model
that is worse by 3 points.

Usage: python scripts/bench/coverage.py [--cells 40] [--replications 1000] [--json] [--keep FILE]
"""

import argparse
import random
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from harness import Cell, Row, run

from models.scores import intervals
from models.scores.intervals import Floats, Interval, Ints

GROUPS, CLASSES, IMAGES = (1, 2, 3, 4, 5, 10), (2, 3, 10, 30), (1, 5, 20, 50)
CORRELATIONS, ACCURACIES = (0.0, 0.3, 1.0), (0.6, 0.8, 0.9, 0.95, 0.995)
SIZES = ("equal", "unequal")
COPIED, LOST = 0.7, 0.1
"""Share of the first model's answers that the second model copies, and how much worse it is on the others."""


class Setting(NamedTuple):
    """Setting of a simulation."""

    groups: int  # number of groups of each class
    classes: int
    images: int  # number of images of a group, on average
    correlation: float  # correlation between two images of a group being right
    right: float  # true accuracy
    sizes: str  # whether the groups are equal in size


def settings(count: int) -> list[Setting]:
    """Draw `count` of all settings, the same ones each time, equally many with each number of groups."""
    rng = random.Random(0)
    rest = [Setting(0, *one) for one in product(CLASSES, IMAGES, CORRELATIONS, ACCURACIES, SIZES)]
    drawn = [[one._replace(groups=groups) for one in rng.sample(rest, count)] for groups in GROUPS]
    return sorted([one for some in zip(*drawn, strict=True) for one in some][:count])


def right(rng: np.random.Generator, one: Setting, accuracy: float, groups: Ints) -> Floats:
    """Draw which images a model classifies correctly: [N], 0 or 1."""
    count, rho = int(groups.max()) + 1, one.correlation
    if rho == 0:
        share = np.full(count, accuracy)
    elif rho == 1:
        share = (rng.random(count) < accuracy).astype(np.float64)
    else:
        share = rng.beta(accuracy * (1 - rho) / rho, (1 - accuracy) * (1 - rho) / rho, count)
    return (rng.random(len(groups)) < share[groups]).astype(np.float64)


def confidences(values: Floats, hits: Floats | bool) -> Floats:
    """Turn values in 0..1 into probabilities of the predicted class, mostly higher where that class is right."""
    return np.asarray(0.5 + 0.5 * np.where(hits, values**0.25, values))


def true_area(one: Setting) -> float:
    """Compute the true area under the ROC curve of any class against the rest, on a grid of confidences."""
    grid = (np.arange(4000) + 0.5) / 4000
    others = one.classes - 1
    sure, unsure = confidences(grid, True), confidences(grid, False)
    rest, rest_unsure = (1 - sure) / others, (1 - unsure) / others
    wrong = 1 - one.right
    positive = [(one.right, sure), (wrong, rest_unsure)]
    negative = [(one.right, rest), (wrong / others, unsure), (wrong * (1 - 1 / others), rest_unsure)]
    return sum(
        share * part * float(np.searchsorted(low, high).mean() + np.searchsorted(low, high, "right").mean()) / 8000
        for (share, high), (part, low) in product(positive, [(part, np.sort(low)) for part, low in negative])
    )


def true_f1(one: Setting, sizes: Ints) -> float:
    """Compute the true macro F1 from the expected confusion; `sizes` [K]: number of images of each class."""
    hits = one.right * sizes
    calls = hits + (1 - one.right) * (sizes.sum() - sizes) / (one.classes - 1)
    return float((2 * hits / (sizes + calls)).mean())


def simulated(rng: np.random.Generator, one: Setting, area: float) -> dict[str, tuple[float, Interval | None]]:
    """Simulate one test part: for each score the true value, and the interval (None if none is given)."""
    count = one.groups * one.classes
    sizes = rng.integers(1, 2 * one.images, count) if one.sizes == "unequal" else np.full(count, one.images)
    groups = np.repeat(np.arange(count), sizes)
    labels = groups % one.classes
    hits = right(rng, one, one.right, groups)
    other = np.where(rng.random(len(labels)) < COPIED, hits, right(rng, one, one.right - LOST, groups))
    wrong = (labels + rng.integers(1, one.classes, len(labels))) % one.classes
    predicted = np.where(hits > 0, labels, wrong)
    sure = confidences(rng.random(len(labels)), hits)
    scores = np.repeat(((1 - sure) / (one.classes - 1))[:, None], one.classes, axis=1)
    scores[np.arange(len(labels)), predicted] = sure
    truth = labels[:, None] == np.arange(one.classes)
    good, where = hits > 0, (labels, groups)
    return {
        "accuracy": (one.right, intervals.accuracy_interval(good, *where)),
        "balanced": (one.right, intervals.balanced_interval(good, *where)),
        "macro F1": (true_f1(one, np.bincount(labels)), intervals.f1_interval(predicted, *where)),
        "AUROC": (area, intervals.auroc_interval(scores, truth, *where)),
        "difference": ((1 - COPIED) * LOST, intervals.difference_interval(good, other > 0, *where)),
        "balanced difference": (
            (1 - COPIED) * LOST,
            intervals.balanced_difference_interval(good, other > 0, *where),
        ),
        "one class": (
            one.right,
            intervals.accuracy_interval(good[labels == 0], labels[labels == 0], groups[labels == 0]),
        ),
    }


def coverage(one: Setting, replications: int) -> Row:
    """Measure how often each interval contains the true value, and how wide it is."""
    rng, area = np.random.default_rng(0), true_area(one)
    found = [simulated(rng, one, area) for _ in range(replications)]
    row: Row = {**one._asdict()}
    for name in found[0]:
        given = [(true, ends) for true, ends in (each[name] for each in found) if ends]
        if not given:
            row[name] = "none"
            continue
        held = float(np.mean([low <= true <= high for true, (low, high) in given]))
        width = float(np.mean([high - low for _, (low, high) in given]))
        error = np.sqrt(max(held * (1 - held), 1 / len(given)) / len(given))
        assert all(high > low for _, (low, high) in given), "an interval of width zero"
        fewer = f", {100 * len(given) / replications:.0f} % given" if len(given) < replications else ""
        row[name] = f"{100 * held:.1f} ± {100 * error:.1f} ({100 * width:.0f}{fewer})"
    return row


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    for one in settings(given.cells):
        yield " ".join(map(str, one)), partial(coverage, one, given.replications)


if __name__ == "__main__":
    run(__doc__ or "", cells, {"--cells": 40, "--replications": 1000})
