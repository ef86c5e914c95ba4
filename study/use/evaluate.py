"""A saved model on labelled images that its study has never seen: those of another centre, say."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data import DataError, Progress
from data.datasets import ImageSet, load
from data.images import MOST_MEGAPIXELS
from data.layout import listing
from models.bundle.predictor import Bundle
from models.scores.evaluation import Scores, predict_logits, score
from study import StudyError
from study.use.predict import unlike_training

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of a model on a folder, and what a reader must know beside them."""

    scores: Scores
    classes: list[str]  # of the model
    absent_classes: list[str]  # of these, in the folder
    groups_from: str
    content: str  # hash of the images
    skipped: list[str]
    warnings: list[str]


def evaluate(
    bundle: Bundle,
    folder: Path,
    cache: Path,
    *,
    groups: str | None = None,
    labels_from: str = "first",
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a model on a folder of class folders, which may lack classes of the model.

    Raises StudyError when it has one that the model does not know, and DataError for what is wrong with the folder.
    """
    _check_classes(bundle, folder, cache, labels_from)
    most = bundle.megapixels(MOST_MEGAPIXELS)
    dataset = load(
        str(folder),
        bundle.image_size,
        cache,
        groups=groups,
        labels_from=labels_from,
        skip_bad=skip_bad,
        max_megapixels=most,
        progress=progress,
    )
    number = {name: index for index, name in enumerate(bundle.classes)}
    labels = np.array([number[name] for name in dataset.classes], np.int64)[dataset.labels]
    absent = [name for name in bundle.classes if name not in dataset.classes]
    return Evaluation(
        scores=_scores(bundle, dataset, labels),
        classes=list(bundle.classes),
        absent_classes=absent,
        groups_from=dataset.groups_from,
        content=dataset.fingerprint,
        skipped=dataset.left_out,
        warnings=_warnings(bundle, dataset, absent),
    )


def _check_classes(bundle: Bundle, folder: Path, cache: Path, labels_from: str) -> None:
    if not folder.exists():
        raise DataError(f"no such folder: {folder} (give a folder of class folders, or a CSV list)")
    unknown = [name for name in listing(folder, cache, labels_from).classes if name not in bundle.classes]
    if unknown:
        raise StudyError(
            f"{folder} has classes that the model does not know: {', '.join(unknown)} "
            f"(it knows: {', '.join(bundle.classes)}; rename the folders, or move them elsewhere)"
        )


def _scores(bundle: Bundle, dataset: ImageSet, labels: NDArray[np.int64]) -> Scores:
    """As the study scores its own test part; macro F1 over the classes that are there."""
    predictor = bundle.predictor
    device = predictor.mean.device

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(0, len(labels), BATCH):
            images = torch.from_numpy(dataset.images[i : i + BATCH]).to(device)
            yield predictor.normalised(images), torch.from_numpy(labels[i : i + BATCH])

    logits = predict_logits(predictor.model, batches(), predictor.views)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")  # those the folder lacks
        scores = score(logits, labels, dataset.groups, bundle.classes, float(predictor.temperature), 0)
    there = [bundle.classes[label] for label in np.unique(labels)]
    return replace(scores, macro_f1=float(np.mean([scores.of_class(name)["f1-score"] for name in there])))


def _warnings(bundle: Bundle, dataset: ImageSet, absent: list[str]) -> list[str]:
    lines = []
    if bundle.card and bundle.card.data and bundle.card.data.content == dataset.fingerprint:
        lines.append("these are the images of the model's own study: most of them were trained on, so this is no score")
    if absent:
        lines.append(f"no images of {', '.join(absent)}: averages are over the other classes")
    if unlike := unlike_training(bundle, [dataset.root / path for path in dataset.paths]):
        lines.append(unlike)
    return lines
