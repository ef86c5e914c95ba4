"""Are the probabilities honest? Temperature, calibration error, and what is gained by leaving doubtful images out."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15
"""Of confidence, for the calibration error."""
COVERAGES = 20
"""Points of a risk-coverage curve."""


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities [N, K] of logits [N, K], or their mean over the views of logits [V, N, K]."""
    found = torch.softmax(torch.from_numpy(logits) / temperature, dim=-1)
    return np.asarray((found.mean(dim=0) if found.ndim == 3 else found).numpy())


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """The one divisor of the logits that minimises the negative log likelihood (Guo et al. 2017).

    Logits are [N, K], or [V, N, K] of several views whose probabilities are averaged. Kept between 0.05 and 20: a part
    without an error would drive it to 0.
    """
    from scipy.optimize import minimize_scalar  # imported late: a second, and needed once

    tensor, target = torch.from_numpy(logits), torch.from_numpy(labels)

    def loss(log_temperature: float) -> float:
        scaled = tensor / np.exp(log_temperature)
        if scaled.ndim == 2:
            return float(nn.functional.cross_entropy(scaled, target))
        mean = torch.logsumexp(torch.log_softmax(scaled, dim=-1), dim=0) - np.log(len(scaled))
        return float(nn.functional.nll_loss(mean, target))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def brier(probabilities: Floats, labels: Ints) -> float:
    """Mean squared distance of the probabilities [N, K] from the truth, summed over classes: 0 (best) to 2."""
    return float(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1).mean())


def calibration_error(probabilities: Floats, labels: Ints) -> float:
    """Expected calibration error: confidence against accuracy in 15 equal bins of confidence (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1)
    gap = confidence - (probabilities.argmax(axis=1) == labels)
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(bins, weights=gap)).sum() / len(labels))


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Images whose confidence lies in one bin."""

    images: float
    confidence: float  # mean
    accuracy: float


def reliability(probabilities: Floats, labels: Ints) -> list[Bin]:
    """For each bin of confidence that has images: their number, mean confidence and accuracy."""
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
    """(share of images kept, error among them) when the least confident are left out (Geifman and El-Yaniv 2017)."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    errors = np.cumsum(probabilities.argmax(axis=1)[order] != labels[order])
    kept = np.unique(np.ceil(np.arange(1, COVERAGES + 1) / COVERAGES * len(labels)).astype(np.int64))
    return [(float(count / len(labels)), float(errors[count - 1] / count)) for count in kept]
