"""Mistakes of a network on one part of the images: the most confident ones, and the confusion matrix."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.training.workspace import Workspace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Mistake:
    """Image that a network classified wrongly."""

    path: str
    true: str
    predicted: str
    probability: float  # of the predicted class
    image: NDArray[np.uint8]  # [S, S, 3]


def worst_mistakes(work: Workspace, part: str, probabilities: Floats, most: int) -> list[Mistake]:
    """Return `most` wrongly classified images of a part at most, given probabilities [N, K]; most confident first."""
    index, dataset = getattr(work.parts, part), work.dataset
    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != dataset.labels[index])
    return [
        Mistake(
            path=dataset.paths[index[place]],
            true=dataset.classes[dataset.labels[index[place]]],
            predicted=dataset.classes[predicted[place]],
            probability=float(sure[place]),
            image=np.asarray(dataset.images[index[place]]),
        )
        for place in wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    ]


def confusion_of(work: Workspace, part: str, probabilities: Floats) -> Ints:
    """Return the confusion matrix [K, K] of a part: counts of images by true class (rows) and predicted one."""
    classes = len(work.dataset.classes)
    cells = work.dataset.labels[getattr(work.parts, part)] * classes + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
