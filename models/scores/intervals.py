"""95 % intervals over groups, because images of one source are one piece of evidence, not many.

A score is treated as a share that was observed in a number of independent trials, the effective sample size, which
follows from its spread over the groups (Korn and Graubard 1998). The score gets the exact binomial interval of that
share (Clopper and Pearson 1934). So an interval never has width zero, and never ends at 1 if there was an error.

The few groups of a rare class may agree by chance, and would then count as certain in a mean over classes. So its
variance is at least what it would be if one more of its groups had been right, and one more wrong.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[float, float]

TAIL = 0.025
"""Probability outside an interval on either side."""
FREEDOM = 4
"""Least degrees of freedom; with fewer, the spread over groups is too uncertain to be used."""
ENOUGH = 4
"""Least number of groups of each class for the interval of a mean over classes (scripts/bench/coverage.py)."""
RARE = 0.5
"""Share of the mean number of groups of a class below which a class is rare; fixed by scripts/bench/coverage.py."""


def group_sums(values: Floats, groups: Ints) -> Floats:
    """Return the sums of values [N, M] within each group: [G, M], groups in sorted order."""
    _, inverse = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(inverse.max()) + 1, values.shape[1]))
    np.add.at(sums, inverse, values)
    return sums


def group_labels(labels: Ints, groups: Ints) -> Ints:
    """Return the most frequent class of each group: [G], groups in sorted order."""
    return np.asarray(group_sums(np.eye(int(labels.max()) + 1)[labels], groups).argmax(axis=1))


class Outcomes(NamedTuple):
    """What became of the images of each class, and what it means for a score; all [K]."""

    up: Floats  # share of the images that are right; in a difference, better
    down: Floats  # share of the images that are wrong; in a difference, worse
    effect: Floats  # how much the score changes if all images of the class go from down to up


def outcomes(up: NDArray[np.bool_], down: NDArray[np.bool_], labels: Ints, effect: NDArray[Any]) -> Outcomes:
    """Count outcomes [N] by class; `effect` [K]."""
    images = np.maximum(1, np.bincount(labels))
    return Outcomes(np.bincount(labels, up) / images, np.bincount(labels, down) / images, effect.astype(np.float64))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The spread of a score: how much it would vary over other groups of the same classes."""

    variance: float
    freedom: int  # degrees of freedom: groups minus classes
    kurtosis: float  # kurtosis of the contributions of the groups; large if a few groups make the whole spread
    least: float  # effective number of independent trials if all images of a group agree
    most: float  # effective number of independent trials if images of a group are independent of each other
    careful: tuple[float, float] | None  # variance of the score, and of one trial, if rare classes are in doubt

    def trials(self, variance: float) -> float:
        """Return the effective number of independent trials behind the score if one trial has this variance."""
        found = self._by_spread(variance)
        if self.careful is None:
            return found
        whole, one = self.careful
        return min(found, max(1.0, max(variance, one) / whole))

    def _by_spread(self, variance: float) -> float:
        """Return the number of trials that the spread gives.

        If few groups support it, the number is reduced by a ratio of quantiles of Student's t. Its degrees of freedom
        are half of those of a variance with this kurtosis, since rare bad groups are more often missed than seen. If
        there is no spread, or too few degrees of freedom to know it, the number is `least`: about one trial per group.
        """
        from scipy.special import stdtrit  # imported late: half a second, and needed once

        if self.freedom < FREEDOM or self.variance <= 1e-12 * variance:  # no more than rounding errors
            return self.least
        freedom = max(1.0, self.freedom / max(1.0, self.kurtosis - 1))
        few = stdtrit(max(1.0, self.most - 1), 1 - TAIL) / stdtrit(freedom, 1 - TAIL)
        return float(np.clip(variance / self.variance * few**2, self.least, self.most))


def spread(adds: Floats, weights: Floats, labels: Ints, groups: Ints, seen: Outcomes | None = None) -> Spread:
    """Compute the spread of a score over groups.

    `adds` [N] is the deviation of the score from its mean that each image contributes, `weights` [N] the weight of each
    image. Groups are compared with the mean of their class; a group that is alone in its class, with the overall mean.
    `seen`: for the doubt about rare classes; None: there is none.
    """
    sums, worth = group_sums(np.stack([adds, weights], axis=1), groups).T
    strata = group_labels(labels, groups)
    count = np.bincount(strata)[strata]
    centre = np.where(count > 1, np.bincount(strata, sums)[strata] / count, 0)
    parts = count / np.maximum(1, count - 1) * (sums - centre) ** 2
    variance = float(parts.sum())
    return Spread(
        variance=variance,
        freedom=len(sums) - len(np.unique(strata)),
        kurtosis=len(parts) * float(((parts / variance) ** 2).sum()) if variance else 0.0,
        least=float(1 / (worth**2).sum()),
        most=float(1 / (weights**2).sum()),
        careful=None if seen is None else _careful(parts, strata, seen),
    )


def _careful(parts: Floats, strata: Ints, seen: Outcomes) -> tuple[float, float] | None:
    """Return Spread.careful from each group's part of the variance [G] and its class [G] (Agresti and Coull 1998)."""
    size = len(seen.up)
    variance, count = np.bincount(strata, parts, minlength=size), np.bincount(strata, minlength=size)
    rare = (count > 0) & (count < RARE * count[count > 0].mean())
    if not rare.any():
        return None
    up, down = (np.where(rare, (side * count + 1) / (count + 2), side) for side in (seen.up, seen.down))
    least = (seen.effect / 2) ** 2 * _variance(up, down) / (count + 2)
    whole = float(np.where(rare, np.maximum(variance, least), variance).sum())
    scale = seen.effect.sum()
    all_up, all_down = ((seen.effect * side).sum() / scale for side in (up, down))
    return whole, float((scale / 2) ** 2 * _variance(all_up, all_down))


def _variance(up: Any, down: Any) -> Any:
    """Return the variance of a value that is 1 with the probability `up`, -1 with `down`, else 0."""
    return np.minimum(1.0, up + down) - (up - down) ** 2


def fewest_groups(labels: Ints, groups: Ints) -> tuple[int, int]:
    """Return the class of which the fewest groups have images, and the number of these groups."""
    counts = {int(label): len(np.unique(groups[labels == label])) for label in np.unique(labels)}
    label = min(counts, key=lambda one: counts[one])
    return label, counts[label]


def evenly(labels: Ints, by_class: bool = False) -> Floats:
    """Return weights [N] that sum to 1: the same for all images, or, with `by_class`, for all classes that occur."""
    counts = np.bincount(labels)
    return 1 / counts[labels] / np.count_nonzero(counts) if by_class else np.full(len(labels), 1 / len(labels))


def binomial_interval(share: float, trials: float) -> Interval:
    """Return the exact 95 % interval of a share observed in `trials` independent trials (Clopper and Pearson 1934).

    The number of trials need not be whole.
    """
    from scipy.special import betaincinv  # imported late: half a second, and needed once

    hits = share * trials
    low = betaincinv(hits, trials - hits + 1, TAIL) if share > 0 else 0.0
    high = betaincinv(hits + 1, trials - hits, 1 - TAIL) if share < 1 else 1.0
    return float(low), float(high)


def accuracy_interval(correct: NDArray[np.bool_], labels: Ints, groups: Ints) -> Interval:
    """Return the 95 % interval of the accuracy.

    Without an error (or without a hit) nothing is known of how images of one group agree; then each group counts as one
    trial.
    """
    share = float(correct.mean())
    weights = evenly(labels)
    seen = outcomes(correct, ~correct, labels, np.bincount(labels, weights))
    found = spread(weights * (correct - share), weights, labels, groups, seen)
    return binomial_interval(share, found.trials(share * (1 - share)))


def balanced_interval(correct: NDArray[np.bool_], labels: Ints, groups: Ints) -> Interval | None:
    """Return the 95 % interval of the balanced accuracy; None if a class has too few groups."""
    weights = evenly(labels, by_class=True)
    seen = outcomes(correct, ~correct, labels, np.bincount(labels, weights))
    value = 1.0 if correct.all() else float(seen.up[np.unique(labels)].mean())
    return _mean_interval(value, weights * (correct - seen.up[labels]), labels, groups, seen)


def balanced_difference_interval(
    one: NDArray[np.bool_], other: NDArray[np.bool_], labels: Ints, groups: Ints
) -> Interval | None:
    """Return the 95 % interval of the difference of two balanced accuracies; None if a class has too few groups."""
    if fewest_groups(labels, groups)[1] < ENOUGH:
        return None
    return difference_interval(one, other, labels, groups, by_class=True)


def difference_interval(
    one: NDArray[np.bool_], other: NDArray[np.bool_], labels: Ints, groups: Ints, *, by_class: bool = False
) -> Interval:
    """Return the 95 % interval of accuracy(one) - accuracy(other) on the same images, or, with `by_class`, of the
    difference of their balanced accuracies.

    It compares the shares of images that only one of the two classifies rightly, with one trial added to each side
    (Bonett and Price 2012).
    """
    gained, weights = one.astype(np.float64) - other, evenly(labels, by_class)
    centre = gained.mean()
    if by_class:
        centre = (np.bincount(labels, gained) / np.maximum(1, np.bincount(labels)))[labels]
    variance = float((weights * (gained - (weights * gained).sum()) ** 2).sum())
    seen = outcomes(gained > 0, gained < 0, labels, 2 * np.bincount(labels, weights))
    trials = spread(weights * (gained - centre), weights, labels, groups, seen).trials(variance)
    up, down = ((trials * float(weights[gained == side].sum()) + 1) / (trials + 2) for side in (1, -1))
    half = 1.959964 * np.sqrt((up + down - (up - down) ** 2) / (trials + 2))
    return max(-1.0, float(up - down - half)), min(1.0, float(up - down + half))


def f1_interval(predicted: Ints, labels: Ints, groups: Ints) -> Interval | None:
    """Return the 95 % interval of macro F1 over the classes that occur; None if one of them has too few groups."""
    there = np.unique(labels)
    true, named = labels[:, None] == there, predicted[:, None] == there
    total = (true.astype(np.float64) + named).sum(axis=0)
    f1 = 2 * (true & named).sum(axis=0) / total
    adds = (2.0 * (true & named) - f1 * (true.astype(np.float64) + named)) / total
    correct = predicted == labels
    value = 1.0 if correct.all() else float(f1.mean())
    effect = np.zeros(int(labels.max()) + 1)
    effect[there] = true.sum(axis=0) * (2 - f1) / total / len(there)
    return _mean_interval(value, adds.mean(axis=1), labels, groups, outcomes(correct, ~correct, labels, effect))


def auroc_interval(scores: Floats, truth: NDArray[np.bool_], labels: Ints, groups: Ints) -> Interval | None:
    """Return the 95 % interval of the mean area under the ROC curves of scores [N, C] against truth [N, C].

    It is computed from the share of images of the other outcome that each image is ranked rightly against (DeLong 1988,
    Obuchowski 1997); ties count half. Every column needs both outcomes. None if a class has too few groups.
    """
    areas, adds = zip(*(_placements(*column) for column in zip(scores.T, truth.T, strict=True)), strict=True)
    return _mean_interval(float(np.mean(areas)), np.mean(adds, axis=0), labels, groups)


def _placements(scores: Floats, truth: NDArray[np.bool_]) -> tuple[float, Floats]:
    """Return the area under the curve of one column [N], and the deviation from it that each image contributes: [N]."""
    hits, misses = np.sort(scores[truth]), np.sort(scores[~truth])
    ranks = [np.searchsorted(misses, scores[truth], side) for side in ("left", "right")]
    others = [np.searchsorted(hits, scores[~truth], side) for side in ("left", "right")]
    above = (ranks[0] + ranks[1]) / 2 / len(misses)
    below = 1 - (others[0] + others[1]) / 2 / len(hits)
    area, adds = float(above.mean()), np.zeros(len(scores))
    adds[truth], adds[~truth] = (above - area) / len(hits), (below - area) / len(misses)
    return area, adds


def _mean_interval(
    value: float, adds: Floats, labels: Ints, groups: Ints, seen: Outcomes | None = None
) -> Interval | None:
    """Return the 95 % interval of a mean over classes, from `adds` [N] and what was seen (see spread); None if a class
    has too few groups."""
    if fewest_groups(labels, groups)[1] < ENOUGH:
        return None
    found = spread(adds, evenly(labels, by_class=True), labels, groups, seen)
    return binomial_interval(value, found.trials(value * (1 - value)))
