"""Evaluation of a saved model on labelled images that its study has never seen, such as those of another centre."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data import DataError, Progress, counted
from data.batches import images_at_once
from data.cache import INDEX, PIXELS, Index
from data.datasets import ImageSet, load
from data.formats.ranges import AS_16_BITS
from data.images import MOST_MEGAPIXELS, read_file
from data.layout.listing import listing
from models import ModelError
from models.bundle.folder import SEEN_DIGITS, seen_images
from models.bundle.predictor import Bundle
from models.scores.evaluation import Scores, predict_logits, score
from study import StudyError
from study.use.predict import unlike_training

BATCH = 64
THUMB = 16
"""Side of the thumbnails by which near copies are found, in pixels."""

Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class TrainingOverlap:
    """Count of the images that a model has seen in its study, to train, to choose or to calibrate it."""

    images: int  # all that were checked
    by_content: int  # seen as the same file
    by_pixels: int | None  # seen as nearly the same pixels (0 among its own images); None where that is not known
    unknown: str  # why that could not be checked


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of a model on a folder, and what a reader must know beside them."""

    scores: Scores | None  # None where all of the images were trained on
    seen: TrainingOverlap | None  # None where the model does not say what it has seen
    classes: list[str]  # all classes of the model
    absent_classes: list[str]  # those of them without an image that is scored
    groups_from: str
    content: str  # hash of the images
    skipped: list[str]
    warnings: list[str]


def evaluate(
    bundle: Bundle,
    folder: Path,
    cache: Path,
    *,
    home: Path | None = None,
    groups: str | None = None,
    labels_from: str = "first",
    without: Sequence[str] = (),
    only: str | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a model on a folder of class folders, which may lack classes of the model.

    Images that it was trained on are left out, where the model's own folder, `home`, says which they were.

    Raises StudyError for a class that the model does not know, and DataError for what is wrong with the folder.
    """
    _check_classes(bundle, folder, cache, labels_from, without, only)

    def read(groups: str | None) -> ImageSet:
        return load(
            str(folder),
            bundle.image_size,
            cache,
            groups=groups,
            labels_from=labels_from,
            without=without,
            only=only,
            skip_bad=skip_bad,
            max_megapixels=bundle.megapixels(MOST_MEGAPIXELS),
            ranges=bundle.ranges or AS_16_BITS,
            progress=progress,
        )

    dataset, lines = read(groups), []
    theirs = bundle.card.study.config.get("groups") if bundle.card and bundle.card.study else None
    if groups is None and isinstance(theirs, str) and _is_own(bundle, dataset):
        try:
            dataset = read(theirs)
        except DataError as error:
            lines = [f"the study's own sources ({theirs}) cannot be read: {error}; the interval may be too narrow"]
    number = {name: index for index, name in enumerate(bundle.classes)}
    labels = np.array([number[name] for name in dataset.classes], np.int64)[dataset.labels]
    seen, new = _seen(bundle, home, dataset)
    there = {bundle.classes[label] for label in labels[new]}
    absent = [name for name in bundle.classes if name not in there] if len(new) else []
    return Evaluation(
        scores=_scores(bundle, dataset, labels, new) if len(new) else None,
        seen=seen,
        classes=list(bundle.classes),
        absent_classes=absent,
        groups_from=dataset.groups_from,
        content=dataset.fingerprint,
        skipped=dataset.left_out,
        warnings=[*_warnings(bundle, dataset, absent, seen, len(new)), *lines],
    )


def _is_own(bundle: Bundle, dataset: ImageSet) -> bool:
    """Return whether these are the images of the model's own study."""
    data = bundle.card.data if bundle.card else None
    return data is not None and data.content == dataset.fingerprint


def _check_classes(
    bundle: Bundle, folder: Path, cache: Path, labels_from: str, without: Sequence[str], only: str | None
) -> None:
    if not folder.exists():
        raise DataError(f"no such folder: {folder} (give a folder of class folders, or a CSV list)")
    there = listing(folder, cache, labels_from, without=without, only=only).classes
    unknown = [name for name in there if name not in bundle.classes]
    if unknown:
        leave = f", or leave them out: {' '.join(f'--without {quote(one)}' for one in unknown)}"
        raise StudyError(
            f"{folder} has classes that the model does not know: {', '.join(unknown)} "
            f"(it knows: {', '.join(bundle.classes)}; rename the folders"
            f"{leave if len(there) - len(unknown) > 1 else ''})"
        )


def _seen(bundle: Bundle, home: Path | None, dataset: ImageSet) -> tuple[TrainingOverlap | None, Ints]:
    """Count the images that the model has seen, by content and by pixels where those are kept; index the others [n]."""
    known = None if home is None else seen_images(home)
    if known is None or home is None:
        return None, np.arange(len(dataset.labels))
    same = np.array([content[:SEEN_DIGITS] in known for content in dataset.contents])
    cache, near = home.absolute().parent.parent / "cache", np.zeros(len(same), bool)
    unknown = ""
    if _is_own(bundle, dataset):
        pass  # the study divided them by source; its test part is the rest
    elif bundle.image_size < THUMB:
        unknown = f"images of {bundle.image_size} pixels are too small to tell near copies from others"
    elif (pixels := _pixels_of(cache, bundle.image_size, known)) is None:
        unknown = f"their pixels are not in {cache} (evaluate the model where its study was made)"
    else:
        from data.grouping.candidates import near_duplicates  # imported late: it takes a second

        thumbs = np.concatenate([_thumbs(dataset.images), _thumbs(pixels)])
        pairs = np.array(list(near_duplicates(thumbs)), np.int64).reshape(-1, 2)
        across = np.sort(pairs, axis=1)[(pairs >= len(same)).sum(axis=1) == 1]
        near[across[:, 0]] = True
        near &= ~same
    count = None if unknown else int(near.sum())
    return (
        TrainingOverlap(images=len(same), by_content=int(same.sum()), by_pixels=count, unknown=unknown),
        np.flatnonzero(~(same | near)),
    )


def _pixels_of(cache: Path, size: int, known: frozenset[str]) -> list[Pixels] | None:
    """Return a study's images [S, S, 3] as they were decoded, found by the files' hashes; None unless all are kept."""
    for file in sorted(cache.glob(f"images-*/{INDEX}")):
        with suppress(OSError, ValueError):
            index = Index.model_validate_json(read_file(file))
            mine = [i for i, content in enumerate(index.contents) if content[:SEEN_DIGITS] in known]
            if index.image_size == size and {index.contents[i][:SEEN_DIGITS] for i in mine} == known:
                shape = (len(index.contents), size, size, 3)
                images = np.memmap(file.with_name(PIXELS), np.uint8, "r", shape=shape)
                return [images[i] for i in mine]
    return None


def _thumbs(images: Iterable[Pixels]) -> Pixels:
    """Make thumbnails [N, 16, 16, 3], each pixel the mean of what it covers."""
    import cv2  # imported late: no other command needs it

    small = [cv2.resize(image, (THUMB, THUMB), interpolation=cv2.INTER_AREA) for image in images]
    return np.array(small, np.uint8).reshape(-1, THUMB, THUMB, 3)


def _scores(bundle: Bundle, dataset: ImageSet, labels: Ints, some: Ints) -> Scores:
    """Score some images [n] as the study scores its own test part; macro F1 is over the classes that are there."""
    predictor = bundle.predictor
    device = predictor.mean.device
    labels, groups = labels[some], dataset.groups[some]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        at_once = images_at_once(BATCH, bundle.image_size)
        for i in range(0, len(some), at_once):
            images = torch.from_numpy(dataset.images[some[i : i + at_once]]).to(device)
            yield predictor.normalised(images), torch.from_numpy(labels[i : i + at_once])

    positive = bundle.card.test.positive if bundle.card and bundle.card.test else None
    above = positive.at_specificity if positive else None
    there = {bundle.classes[label] for label in labels}
    told = positive is not None and bool(there & set(positive.classes)) and bool(there - set(positive.classes))
    logits = predict_logits(predictor.model, batches(), predictor.views)
    if not np.isfinite(logits).all():
        raise ModelError("the network's answers are no numbers (its weights or normalisation are too large)")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")  # those the folder lacks
        temperature = float(predictor.temperature)
        if positive is None or not told:  # without both kinds of images there is nothing to tell apart
            return score(logits, labels, groups, bundle.classes, temperature)
        cutoff = above.cutoff if above else None
        return score(logits, labels, groups, bundle.classes, temperature, positive.classes, cutoff)


def _warnings(
    bundle: Bundle, dataset: ImageSet, absent: list[str], seen: TrainingOverlap | None, left: int
) -> list[str]:
    lines = [] if seen is None else _of_seen(seen, left)
    own = _is_own(bundle, dataset)
    if seen is None:
        lines.append(
            "whether the model was trained on some of these images cannot be checked: its files do not say on which it "
            "was (a model folder of this version does: study retrain NAME)"
        )
    if own and seen is None:
        lines.append("these are the images of the model's own study: most of them were trained on, so this is no score")
    elif own and left:
        lines.append("these are the images of the model's own study: what is left is its own test part")
    if absent:
        lines.append(f"no images of {', '.join(absent)}: averages are over the other classes")
    if unlike := unlike_training(bundle, [dataset.root / path for path in dataset.paths]):
        lines.append(unlike)
    return lines


def _of_seen(seen: TrainingOverlap, left: int) -> list[str]:
    """Warn that some of the images were trained on, where they were; `left`: number of those that were not."""
    out = seen.images - left
    if not out:
        return []
    near = f" ({seen.by_pixels} of them as nearly the same pixels in another file)" if seen.by_pixels else ""
    one, them = ("is", "it") if out == 1 else ("are", "them")
    if left:
        return [f"{out} of {counted(seen.images, 'image')} {one} left out: the model was trained on {them}{near}"]
    return [f"{out} of {counted(seen.images, 'image')}: the model was trained on {them}{near}, so there is no score"]
