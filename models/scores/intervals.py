"""95 % intervals that resample groups: images of one source are one piece of evidence, not many."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[float, float]

RESAMPLES = 2000
"""Bootstrap draws for an interval."""
AUROC_RESAMPLES = 500
"""Fewer where every draw has to walk through all images."""
DRAWN_AT_ONCE = 1 << 20
"""Numbers of a bootstrap that are in memory: 8 bytes each."""


def group_sums(values: Floats, groups: Ints) -> Floats:
    """Sums of values [N, M] within each group: [G, M], groups in sorted order."""
    _, inverse = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(inverse.max()) + 1, values.shape[1]))
    np.add.at(sums, inverse, values)
    return sums


def group_labels(labels: Ints, groups: Ints) -> Ints:
    """The most frequent class of each group: [G], groups in sorted order."""
    return np.asarray(group_sums(np.eye(int(labels.max()) + 1)[labels], groups).argmax(axis=1))


def draw(strata: Ints, seed: int, resamples: int) -> Ints:
    """How often each group is drawn, with replacement within its stratum: [resamples, G]."""
    drawn = np.zeros((resamples, len(strata)), np.int64)
    for rows, mine, times in _draws(strata, seed, resamples):
        drawn[rows, mine] = times
    return drawn


def resampled_sums(values: Floats, labels: Ints, groups: Ints, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Sums of values [N, M] over groups drawn with replacement within classes: [resamples, M]."""
    sums = group_sums(values, groups)
    total = np.zeros((resamples, values.shape[1]))
    for rows, mine, times in _draws(group_labels(labels, groups), seed, resamples):
        total[rows] += times @ sums[mine]
    return total


def _draws(strata: Ints, seed: int, resamples: int) -> Iterator[tuple[slice, Ints, Ints]]:
    """Which draws, which groups, and how often each of them is drawn [draws, groups]; so many numbers at a time that
    they fit."""
    rng = np.random.default_rng(seed)
    for stratum in np.unique(strata):
        mine = np.flatnonzero(strata == stratum)
        step = max(1, DRAWN_AT_ONCE // len(mine))
        for start in range(0, resamples, step):
            count = min(step, resamples - start)
            times = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=count)
            yield slice(start, start + count), mine, times


def percentiles(draws: Floats) -> Interval:
    """The middle 95 % of bootstrap draws; undefined ones (NaN) are left out."""
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def accuracy_interval(
    correct: NDArray[np.bool_], labels: Ints, groups: Ints, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """95 % interval of the accuracy: percentile bootstrap over groups within classes.

    Images of one group are copies or neighbours of each other, so the group is the unit that is drawn. Without an
    error (or without a hit) every draw is the same: then Wilson's interval with the number of groups as n.
    """
    if correct.all() or not correct.any():
        return wilson(float(correct.all()), len(np.unique(groups)))
    values = np.stack([correct, np.ones(len(correct))], axis=1).astype(np.float64)
    hits, size = resampled_sums(values, labels, groups, seed, resamples).T
    return percentiles(hits / size)


def difference_interval(
    one: NDArray[np.bool_], other: NDArray[np.bool_], labels: Ints, groups: Ints, seed: int
) -> Interval:
    """95 % interval of accuracy(one) - accuracy(other) on the same images: both are scored on the same drawn groups.

    Where the two are right and wrong on the same images every draw is 0: then as far as Wilson's upper end of a
    share of disagreements that was seen 0 times in so many groups, either way.
    """
    if (one == other).all():
        end = wilson(0.0, len(np.unique(groups)))[1]
        return -end, end
    values = np.stack([one.astype(np.float64) - other, np.ones(len(one))], axis=1)
    gained, size = resampled_sums(values, labels, groups, seed).T
    return percentiles(gained / size)


def class_intervals(predicted: Ints, labels: Ints, groups: Ints, classes: int, seed: int) -> dict[str, Interval]:
    """95 % intervals of balanced accuracy and macro-F1, by the same bootstrap.

    Without an error both are Wilson's with the groups that a mean over classes is worth: K^2 / sum(1 / groups of k).
    """
    if (predicted == labels).all():
        owned = np.bincount(group_labels(labels, groups), minlength=int(labels.max()) + 1)
        owned = np.maximum(1, owned[np.unique(labels)])
        interval = wilson(1.0, float(len(owned) ** 2 / (1 / owned).sum()))
        return {"balanced_accuracy": interval, "macro_f1": interval}
    true, named = np.eye(classes)[labels], np.eye(classes)[predicted]
    sums = resampled_sums(np.hstack([true * named, true, named]), labels, groups, seed)
    hits, support, calls = np.split(sums, 3, axis=1)
    with np.errstate(invalid="ignore"):
        recall = hits / support  # NaN where a class does not occur
    f1 = 2 * hits / np.maximum(1, support + calls)
    return {"balanced_accuracy": percentiles(np.nanmean(recall, axis=1)), "macro_f1": percentiles(f1.mean(axis=1))}


def auroc_interval(scores: Floats, truth: NDArray[np.bool_], labels: Ints, groups: Ints, seed: int) -> Interval:
    """95 % interval of the mean area under the ROC curves of scores [N, C] against truth [N, C], ties counted half.

    `labels` [N] are the strata. Every column needs both outcomes.
    """
    _, inverse = np.unique(groups, return_inverse=True)
    drawn = draw(group_labels(labels, groups), seed, AUROC_RESAMPLES)
    means = [
        np.mean([_weighted_auroc(column, hit, weights) for column, hit in zip(scores.T, truth.T, strict=True)], axis=0)
        for weights in (chunk[:, inverse] for chunk in np.array_split(drawn, AUROC_RESAMPLES // 25))
    ]
    return percentiles(np.concatenate(means))


def _weighted_auroc(scores: Floats, truth: NDArray[np.bool_], weights: Ints) -> Floats:
    """One area for each row of weights [R, N]; NaN where an outcome was not drawn."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    hits = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1)
    misses = np.add.reduceat(weights[:, order] * ~truth[order], starts, axis=1)
    below = np.cumsum(misses, axis=1) - misses
    with np.errstate(invalid="ignore"):
        return np.asarray((hits * (below + misses / 2)).sum(axis=1) / (hits.sum(axis=1) * misses.sum(axis=1)))


def wilson(share: float, n: float, z: float = 1.959964) -> Interval:
    """Wilson's 95 % score interval of a share seen in n independent trials."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)
