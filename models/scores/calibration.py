"""Calibration of probabilities: temperature, calibration error, and the gain from leaving doubtful images out."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15
"""Number of bins of confidence for the calibration error."""
COVERAGES = 20
"""Number of points of a risk-coverage curve."""
WIDEST = 5.0
"""Largest temperature; the smallest one is 1 / WIDEST."""
PRIOR = 0.5
"""Standard deviation of the prior, a normal distribution about 0, of a temperature's logarithm."""
FOLDS = 10
"""Number of cross-validation folds over groups that decide whether a temperature helps."""
SURE = 0.95
"""Probability with which a temperature that does not help is rejected."""


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Return the probabilities [N, K] of logits [N, K], or their mean over the views of logits [V, N, K]."""
    found = torch.softmax(torch.from_numpy(logits) / temperature, dim=-1)
    return np.asarray((found.mean(dim=0) if found.ndim == 3 else found).numpy())


def fit_temperature(logits: Floats, labels: Ints, groups: Ints) -> float:
    """Fit the temperature: the divisor of all logits that minimises the negative log likelihood (Guo et al. 2017).

    Logits are [N, K], or [V, N, K] for several views whose probabilities are averaged; labels and groups are [N]. The
    temperature lies between 0.2 and 5, and the fewer groups there are, the nearer it is to 1.

    Returns 1 unless the temperature helps. It helps if, in ten-fold cross-validation over groups, it lowers the loss
    of the groups that it was not fitted on by more than chance would (one-sided Student's t test). It must still do so
    with one more group whose images are equally likely to be of any class, because raising the confidence costs most
    on data that has shown no error yet.
    """
    from scipy.special import stdtrit  # imported late: half a second, and needed once

    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    if count < 2:
        return 1.0
    before, gain = losses(logits, labels, 1.0), np.zeros(len(labels))
    fold = (np.random.default_rng(0).permutation(count) % FOLDS)[group]
    for one in np.unique(fold):
        mine = fold == one
        found = _fitted(logits[..., ~mine, :], labels[~mine], count - len(np.unique(group[mine])))
        gain[mine] = before[mine] - losses(logits[..., mine, :], labels[mine], found)
    error = np.sqrt(count / (count - 1) * (np.bincount(group, gain - gain.mean()) ** 2).sum())
    found = _fitted(logits, labels, count)
    unseen = max(0.0, _doubt(logits, found) - _doubt(logits, 1.0)) * len(labels) / count
    return found if gain.sum() - unseen > stdtrit(count - 1, SURE) * error else 1.0


def losses(logits: Floats, labels: Ints, temperature: float) -> Floats:
    """Return the negative log likelihood of each label [N] under logits [N, K] or [V, N, K], in nats."""
    found = torch.log_softmax(torch.from_numpy(logits) / temperature, dim=-1)
    if found.ndim == 3:
        found = torch.logsumexp(found, dim=0) - np.log(len(found))
    return np.asarray(-found[torch.arange(len(labels)), torch.from_numpy(labels)].numpy())


def _doubt(logits: Floats, temperature: float) -> float:
    """Return the mean negative log likelihood, in nats, if each image were equally likely to be of any class."""
    images, classes = logits.shape[-2:]
    return float(np.mean([losses(logits, np.full(images, label), temperature) for label in range(classes)]))


def _fitted(logits: Floats, labels: Ints, groups: int) -> float:
    """Fit the most probable temperature (MAP), given data from `groups` groups and the prior PRIOR."""
    from scipy.optimize import minimize_scalar  # imported late: a second, and needed once

    def loss(log_temperature: float) -> float:
        unlikely = (log_temperature / PRIOR) ** 2 / (2 * groups)
        return float(losses(logits, labels, np.exp(log_temperature)).mean() + unlikely)

    return float(np.exp(minimize_scalar(loss, bounds=(-np.log(WIDEST), np.log(WIDEST)), method="bounded").x))


def brier(probabilities: Floats, labels: Ints) -> float:
    """Return the Brier score: the mean over images of the squared distance of the probabilities [N, K] from the truth,
    summed over classes; 0 (best) to 2."""
    return float(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1).mean())


def calibration_error(probabilities: Floats, labels: Ints) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy in 15 equal bins of
    confidence, weighted by their images (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1)
    gap = confidence - (probabilities.argmax(axis=1) == labels)
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(bins, weights=gap)).sum() / len(labels))


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The images whose confidence lies in one bin of a reliability diagram."""

    images: float  # their number
    confidence: float  # their mean confidence
    accuracy: float


def reliability(probabilities: Floats, labels: Ints) -> list[Bin]:
    """Return the bins of confidence that have images, with their number, mean confidence and accuracy."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return [
        Bin(
            images=float((bins == number).sum()),
            confidence=float(confidence[bins == number].mean()),
            accuracy=float(right[bins == number].mean()),
        )
        for number in np.unique(bins)
    ]


def risk_coverage(probabilities: Floats, labels: Ints) -> list[tuple[float, float]]:
    """Return points (share of images kept, error among them) of the risk-coverage curve, on which the least confident
    images are left out first (Geifman and El-Yaniv 2017)."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    errors = np.cumsum(probabilities.argmax(axis=1)[order] != labels[order])
    kept = np.unique(np.ceil(np.arange(1, COVERAGES + 1) / COVERAGES * len(labels)).astype(np.int64))
    return [(float(count / len(labels)), float(errors[count - 1] / count)) for count in kept]
