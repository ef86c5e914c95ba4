"""Sets of classes that hold the true one with a promised probability, for an image of a source never seen.

Hierarchical conformal prediction (Lee, Barber and Willett 2023): images of one group are not exchangeable with those
of another, groups are. So each calibration group weighs the same, and one more group, the new one, is counted as the
worst. The promise is for the average over new sources, not for each class. It is exact for scores that were fixed
before the calibration part was seen; the probabilities here are divided by a temperature fitted on it, so it is near,
not exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import ModelError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVELS = (0.1, 0.05)
"""Shares of images whose set may miss the true class."""


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Prediction sets at one level: which classes are in, and what they do on the held-out part, each group alike."""

    threshold: float  # a class is in the set when 1 - its probability is at most this
    calibration_groups: int
    coverage: float  # share of sets that hold the true class
    mean_size: float  # classes in a set
    abstained: float  # share of sets that do not name exactly one


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A level that the calibration part cannot promise."""

    refused: str  # why


def threshold(probabilities: Floats, labels: Ints, groups: Ints, level: float) -> float:
    """The nonconformity (1 - probability, Sadinle et al. 2019) up to which a class is in the set.

    probabilities [N, K], labels and groups [N] of the calibration part. Raises ModelError for a level outside 0..1 or
    below 1 / (G + 1), which G groups cannot promise.
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
    """Which classes are in the set of each image: [N, K]. Empty where no class is likely enough."""
    return np.asarray(1 - probabilities <= threshold)


def abstains(sets: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a set [N, K] names no class or several: no answer is better than one of them."""
    return np.asarray(sets.sum(axis=1) != 1)


def describe(
    cal: tuple[Floats, Ints, Ints], test: tuple[Floats, Ints, Ints], levels: Sequence[float] = LEVELS
) -> dict[str, Sets | Refused]:
    """For each level (as text) the threshold from cal, and what its sets do on test; or why there is none.

    cal and test: (probabilities [N, K], labels [N], groups [N]). Shares on test weigh each group the same, as the
    promise does.
    """
    found: dict[str, Sets | Refused] = {}
    for level in levels:
        try:
            limit = threshold(*cal, level)
        except ModelError as error:
            found[f"{level:g}"] = Refused(refused=str(error))
            continue
        probabilities, labels, groups = test
        _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        sets, weights = prediction_sets(probabilities, limit), 1 / sizes[inverse] / len(sizes)
        found[f"{level:g}"] = Sets(
            threshold=limit,
            calibration_groups=len(np.unique(cal[2])),
            coverage=float(weights @ sets[np.arange(len(labels)), labels]),
            mean_size=float(weights @ sets.sum(axis=1)),
            abstained=float(weights @ abstains(sets)),
        )
    return found
