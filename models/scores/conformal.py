"""Prediction sets: sets of classes that contain the true one with a promised probability, also for new sources.

They are made by hierarchical conformal prediction (Lee, Barber and Willett 2023): images of one group are not
exchangeable with those of another, but groups are. So each calibration group weighs the same, and the new group is
counted as one more group with the worst possible score. The promise holds on average over new sources, not for each
class. It is exact if the scores were fixed before the calibration part was seen; here the logits are divided by a
temperature that was fitted on that part, so the promise holds only approximately.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import ModelError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVELS = (0.1, 0.05)
"""Error levels: shares of images whose prediction set may miss the true class."""


@dataclass(frozen=True, kw_only=True)
class PredictionSets:
    """The rule for prediction sets at one error level, and how they do on the held-out part, each group weighted the
    same."""

    threshold: float  # a class is in the set if 1 - its probability is at most this
    calibration_groups: int
    coverage: float  # share of sets that contain the true class
    mean_size: float  # mean number of classes in a set
    abstained: float  # share of sets that do not contain exactly one class


@dataclass(frozen=True, kw_only=True)
class RefusedLevel:
    """An error level that the calibration part is too small to promise."""

    refused: str  # the reason


def threshold(probabilities: Floats, labels: Ints, groups: Ints, level: float) -> float:
    """Return the largest nonconformity (1 - probability, Sadinle et al. 2019) with which a class is in the set.

    `probabilities` [N, K], `labels` [N] and `groups` [N] are those of the calibration part. Raises ModelError for a
    level outside 0..1, or below 1 / (G + 1), which G groups cannot promise.
    """
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if not 0 < level < 1:
        raise ModelError(f"level {level:g}: a share between 0 and 1 is needed (for example 0.1)")
    if level * (len(sizes) + 1) < 1 - 1e-9:
        raise ModelError(
            f"level {level:g} needs at least {int(np.ceil(1 / level - 1 - 1e-9))} calibration groups, not "
            f"{len(sizes)}: the smallest level is {1 / (len(sizes) + 1):.3g}"
        )
    scores = 1 - probabilities[np.arange(len(labels)), labels]
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(1 / sizes[inverse][order]) / (len(sizes) + 1)
    return float(scores[order][min(int(np.searchsorted(reached, 1 - level - 1e-9)), len(scores) - 1)])


def prediction_sets(probabilities: Floats, threshold: float) -> NDArray[np.bool_]:
    """Return which classes are in the set of each image, [N, K]. A set is empty if no class is likely enough."""
    return np.asarray(1 - probabilities <= threshold)


def abstains(sets: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of the sets [N, K] contain no class or several, so that it is better to give no answer: [N]."""
    return np.asarray(sets.sum(axis=1) != 1)


def describe(
    cal: tuple[Floats, Ints, Ints], test: tuple[Floats, Ints, Ints], levels: Sequence[float] = LEVELS
) -> dict[str, PredictionSets | RefusedLevel]:
    """Return, for each error level (as text), the threshold from `cal` and how its sets do on `test`, or why there is
    none.

    `cal` and `test` are (probabilities [N, K], labels [N], groups [N]). Shares on `test` weigh each group the same, as
    the promise does.
    """
    found: dict[str, PredictionSets | RefusedLevel] = {}
    for level in levels:
        try:
            limit = threshold(*cal, level)
        except ModelError as error:
            found[f"{level:g}"] = RefusedLevel(refused=str(error))
            continue
        probabilities, labels, groups = test
        _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        sets = prediction_sets(probabilities, limit)
        hits = sets[np.arange(len(labels)), labels]
        coverage, size, doubtful = (
            float((np.bincount(inverse, each) / sizes).mean()) for each in (hits, sets.sum(axis=1), abstains(sets))
        )
        found[f"{level:g}"] = PredictionSets(
            threshold=limit,
            calibration_groups=len(np.unique(cal[2])),
            coverage=coverage,
            mean_size=size,
            abstained=doubtful,
        )
    return found
