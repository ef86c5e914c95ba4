"""Scores of a trained network, with their uncertainty.

SciPy and scikit-learn take seconds to import and are needed once, at the end: they are imported where they are used.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 2000
"""Bootstrap draws for an interval."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a network is worth on one part. Fractions, not percent."""

    images: int
    groups: int
    accuracy: float
    accuracy_interval: tuple[float, float]  # 95 %, over groups
    balanced_accuracy: float
    macro_f1: float
    nll: float  # negative log likelihood, nats per image, after temperature
    majority: float  # accuracy of always naming the most frequent class
    report: dict[str, Any]  # per class: precision, recall, f1-score, support
    confusion: list[list[int]]  # rows: true class; columns: predicted


def predict_logits(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Floats:
    """Logits [N, K] in full precision (no autocast), in the order of the batches."""
    model.eval()
    with torch.inference_mode():
        parts = [model(images).double().cpu() for images, _ in batches]
    return torch.cat(parts).numpy()


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities [N, K]."""
    return np.asarray(torch.softmax(torch.from_numpy(logits) / temperature, dim=1).numpy())


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """The one divisor of the logits that minimises the negative log likelihood (Guo et al. 2017).

    Kept between 0.05 and 20: a part without an error would drive it to 0.
    """
    from scipy.optimize import minimize_scalar

    tensor, target = torch.from_numpy(logits), torch.from_numpy(labels)

    def loss(log_temperature: float) -> float:
        return float(nn.functional.cross_entropy(tensor / np.exp(log_temperature), target))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def score(logits: Floats, labels: Ints, groups: Ints, classes: Sequence[str], temperature: float, seed: int) -> Scores:
    """All scores of logits [N, K] against labels [N]; intervals resample groups [N]."""
    from sklearn import metrics

    predicted = logits.argmax(axis=1)
    every = list(range(len(classes)))
    return Scores(
        images=len(labels),
        groups=len(np.unique(groups)),
        accuracy=float((predicted == labels).mean()),
        accuracy_interval=accuracy_interval(predicted == labels, labels, groups, seed),
        balanced_accuracy=float(metrics.balanced_accuracy_score(labels, predicted)),
        macro_f1=float(metrics.f1_score(labels, predicted, labels=every, average="macro", zero_division=0)),
        nll=float(metrics.log_loss(labels, softmax(logits, temperature), labels=every)),
        majority=float(np.bincount(labels).max() / len(labels)),
        report=metrics.classification_report(
            labels, predicted, labels=every, target_names=list(classes), output_dict=True, zero_division=0
        ),
        confusion=metrics.confusion_matrix(labels, predicted, labels=every).tolist(),
    )


def accuracy_interval(correct: NDArray[np.bool_], labels: Ints, groups: Ints, seed: int) -> tuple[float, float]:
    """95 % interval of the accuracy: percentile bootstrap over groups within classes.

    Images of one group are copies or neighbours of each other, so the group is the unit that is drawn. Without an
    error (or without a hit) every draw is the same: then Wilson's interval with the number of groups as n.
    """
    _, inverse = np.unique(groups, return_inverse=True)
    size = np.bincount(inverse).astype(np.float64)
    hits = np.bincount(inverse, weights=correct)
    if hits.sum() in (0.0, size.sum()):
        return wilson(float(hits.sum() / size.sum()), len(size))
    table = np.zeros((len(size), int(labels.max()) + 1))
    np.add.at(table, (inverse, labels), 1)
    stratum = table.argmax(axis=1)
    rng = np.random.default_rng(seed)
    hit_sums, size_sums = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for label in np.unique(stratum):
        mine = np.flatnonzero(stratum == label)
        draws = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=RESAMPLES)
        hit_sums += draws @ hits[mine]
        size_sums += draws @ size[mine]
    low, high = np.quantile(hit_sums / size_sums, [0.025, 0.975])
    return float(low), float(high)


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share seen in n independent trials."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)
