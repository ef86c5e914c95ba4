#!/usr/bin/env python
"""Coverage of nominal 95 % intervals: how often they contain the true score of simulated models.

The sources of the images differ: the share of images that a model classifies correctly varies from group to group
(beta-binomial, by a correlation of the images of one group). A wrong image gets any of the other classes. In some
settings the first class is rare, and a smaller share of its images is right. Printed for each score: of the intervals
that were given, the share that contain the true value, with its binomial standard error, in percent; their mean width
in points; and how many were given, if not all. `difference` compares with a second model that is worse by 3 points.

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
RARE = (
    *product((4,), (100,), (10,), (1,), (0.0,), (0.98,), ("equal",), (0.7, 0.9)),
    *product((8, 15, 30), (100,), (10,), (1,), (0.0,), (0.98,), ("equal",), (0.8,)),
    *product((4, 10), (100,), (2,), (1, 20), (0.3,), (0.95,), ("unequal",), (0.8,)),
    *product((5,), (20,), (3, 10), (5,), (0.3,), (0.95,), ("unequal",), (0.6, 0.9)),
)
"""Settings with a rare class: its number of groups, and then as in Setting."""
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
    rare_right: float = 0.0  # true accuracy on the first class, if it is rare
    rare: int = 0  # number of groups of the first class; 0: as many as of the others

    def recalls(self) -> Floats:
        """Return the true accuracy on each class."""
        return np.array([self.rare_right if self.rare else self.right, *(self.classes - 1) * [self.right]])

    def classes_of_groups(self) -> Ints:
        """Return the class of each group."""
        return np.repeat(np.arange(self.classes), [self.rare or self.groups, *(self.classes - 1) * [self.groups]])


def settings(count: int) -> list[Setting]:
    """Draw `count` of all settings, the same ones each time, equally many with each number of groups."""
    rng = random.Random(0)
    rest = [Setting(0, *one) for one in product(CLASSES, IMAGES, CORRELATIONS, ACCURACIES, SIZES)]
    drawn = [[one._replace(groups=groups) for one in rng.sample(rest, count)] for groups in GROUPS]
    rare = [Setting(*one[1:], rare=one[0]) for one in RARE]
    return sorted([one for some in zip(*drawn, strict=True) for one in some][:count]) + rare


def right(rng: np.random.Generator, correlation: float, accuracy: Floats, groups: Ints) -> Floats:
    """Draw which images a model classifies correctly: [N], 0 or 1; `accuracy` [G] is that of each group's class."""
    if correlation == 0:
        share = accuracy
    elif correlation == 1:
        share = (rng.random(len(accuracy)) < accuracy).astype(np.float64)
    else:
        odds = (1 - correlation) / correlation
        share = rng.beta(accuracy * odds, (1 - accuracy) * odds)
    return (rng.random(len(groups)) < share[groups]).astype(np.float64)


def scored(rng: np.random.Generator, hits: Floats, labels: Ints, classes: int) -> tuple[Ints, Floats]:
    """Draw the predicted class [N] and the probabilities [N, K], mostly higher where the predicted class is right."""
    predicted = np.where(hits > 0, labels, (labels + rng.integers(1, classes, len(labels))) % classes)
    values = rng.random(len(labels))
    sure = 0.5 + 0.5 * np.where(hits > 0, values**0.25, values)
    scores = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, axis=1)
    scores[np.arange(len(labels)), predicted] = sure
    return predicted, scores


MANY = 400_000
"""Number of images from which true values are computed."""


def truths(one: Setting) -> dict[str, float]:
    """Return the true scores: macro F1 and the area under the ROC curve from MANY images, the others exactly."""
    rng, kinds, recalls = np.random.default_rng(1), one.classes_of_groups(), one.recalls()
    labels = np.repeat(kinds, MANY // len(kinds))
    hits = right(rng, 0.0, recalls, labels)
    predicted, scores = scored(rng, hits, labels, one.classes)
    each = [intervals._placements(scores[:, name], labels == name)[0] for name in range(one.classes)]
    named, there = np.bincount(predicted, minlength=one.classes), np.bincount(labels)
    return {
        "accuracy": float(recalls[kinds].mean()),
        "balanced": float(recalls.mean()),
        "macro F1": float((2 * np.bincount(labels, hits) / (named + there)).mean()),
        "AUROC": float(np.mean(each)),
        "difference": (1 - COPIED) * LOST,
        "balanced difference": (1 - COPIED) * LOST,
        "one class": float(recalls[0]),
    }


def simulated(rng: np.random.Generator, one: Setting) -> dict[str, Interval | None]:
    """Simulate one test part: the interval of each score (None if none is given)."""
    kinds = one.classes_of_groups()
    sizes = rng.integers(1, 2 * one.images, len(kinds)) if one.sizes == "unequal" else np.full(len(kinds), one.images)
    groups = np.repeat(np.arange(len(kinds)), sizes)
    labels, accuracy = kinds[groups], one.recalls()[kinds]
    hits = right(rng, one.correlation, accuracy, groups)
    other = np.where(rng.random(len(labels)) < COPIED, hits, right(rng, one.correlation, accuracy - LOST, groups))
    predicted, scores = scored(rng, hits, labels, one.classes)
    truth = labels[:, None] == np.arange(one.classes)
    good, where, first = hits > 0, (labels, groups), labels == 0
    return {
        "accuracy": intervals.accuracy_interval(good, *where),
        "balanced": intervals.balanced_interval(good, *where),
        "macro F1": intervals.f1_interval(predicted, *where),
        "AUROC": intervals.auroc_interval(scores, truth, *where),
        "difference": intervals.difference_interval(good, other > 0, *where),
        "balanced difference": intervals.balanced_difference_interval(good, other > 0, *where),
        "one class": intervals.accuracy_interval(good[first], labels[first], groups[first]),
    }


def coverage(one: Setting, replications: int) -> Row:
    """Measure how often each interval contains the true value, and how wide it is."""
    rng = np.random.default_rng(0)
    found = [simulated(rng, one) for _ in range(replications)]
    row: Row = {**one._asdict()}
    for name, true in truths(one).items():
        given = [ends for each in found if (ends := each[name])]
        if not given:
            row[name] = "none"
            continue
        held = float(np.mean([low <= true <= high for low, high in given]))
        width = float(np.mean([high - low for low, high in given]))
        error = np.sqrt(max(held * (1 - held), 1 / len(given)) / len(given))
        assert all(high > low for low, high in given), "an interval of width zero"
        fewer = f", {100 * len(given) / replications:.0f} % given" if len(given) < replications else ""
        row[name] = f"{100 * held:.1f} ± {100 * error:.1f} ({100 * width:.0f}{fewer})"
    return row


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    for one in settings(given.cells):
        yield " ".join(map(str, one)), partial(coverage, one, given.replications)


if __name__ == "__main__":
    run(__doc__ or "", cells, {"--cells": 40, "--replications": 1000})
