"""Prediction of a saved model on image files, which are found, decoded as in training, and labelled."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Required, TypedDict

import numpy as np
from numpy.typing import NDArray

from data import DataError, counted
from data.batches import images_at_once
from data.formats.ranges import AS_16_BITS, Ranges
from data.images import MOST_MEGAPIXELS, decode, source_size
from data.layout.found import by_reason, own_folders, relative, walk
from models.bundle.card import Conformal
from models.bundle.explain import grad_cam, overlay
from models.bundle.predictor import Bundle, Predictor
from models.scores.conformal import PredictionSets, RefusedLevel, abstains, prediction_sets
from study import StudyError
from study.storage.names import CACHE
from study.use.ahead import done_ahead, gpu_lock

logger = logging.getLogger(__name__)

BATCH = 16  # what fits the processor's caches: 32 images of 128 pixels take twice the time each
AHEAD = 4
"""Batches for each processor that are in work, or done and not yet taken, at most."""

LONGEST_STEM = 200
"""Bytes of an image's name that are kept in the file name of its explanation."""

TOLERATED = 1.1
"""Factor by which images may be larger or smaller than the training's and still count as the same kind."""


class Row(TypedDict, total=False):
    """Result for one file: a label and the rest, or an error."""

    path: Required[str]
    label: str
    probabilities: dict[str, float]  # by class name
    set: list[str]  # the classes in its prediction set
    abstain: bool  # whether that set has none, or more than one
    explanation: str  # the file of the overlay
    error: str


Pixels = NDArray[np.uint8]


def find_images(places: Sequence[Path], listed: Callable[[], Iterable[str]]) -> list[Path]:
    """Find the files given, and every file in the folders given that may be an image, sorted.

    "-" stands for the names in `listed`, one a line. Raises DataError.
    """
    found: list[Path] = []
    for place in places:
        if str(place) == "-":
            lines = (line.removeprefix("\ufeff").rstrip("\r\n") for line in listed())
            names = [Path(line) for line in lines if line.strip()]
            # A name that is too long, or in a folder that may not be read, has its error in its row.
            found += [file for name in names for file in (_inside(name) if os.path.isdir(name) else [name])]
        elif place.is_dir():
            found += _inside(place)
        elif place.is_file():
            found.append(place)
        else:
            raise DataError(f"no such image or folder: {place}")
    if not found:
        raise DataError("no images were named on standard input (one file a line)")
    return found


def _inside(folder: Path) -> list[Path]:
    """Find the images below a folder, as for training; a log line counts what is left out. Raises DataError."""
    try:
        found = walk(folder, own_folders(CACHE, folder))
    except OSError as error:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error
    if not found.files:
        raise DataError(f"no images in {folder} (files ending in .png, .jpg, .tif and the like)")
    if found.left_out:
        left_out = ", ".join(by_reason(relative(folder, found.left_out)))
        logger.warning(f"{counted(len(found.left_out), 'file')} in {folder} left out: {left_out}")
    return found.files


def unlike_training(bundle: Bundle, files: Sequence[Path]) -> str | None:
    """Return a warning when the files have another size than those of the training: another magnification, probably."""
    data = bundle.card.data if bundle.card else None
    here = source_size(files)
    if data is None or not data.source_size or not here:
        return None
    trained = data.source_size
    low, high = data.source_span or (trained, trained)
    if all(least / TOLERATED <= one <= most * TOLERATED for one, least, most in zip(here, low, high, strict=True)):
        return None
    return (
        f"these images are {here[0]} x {here[1]} pixels, those of the training were {trained[0]} x {trained[1]} "
        "(medians): if the magnification differs too, the scores in the card do not hold"
    )


def threshold_of(conformal: Conformal | None, level: float | None) -> float | None:
    """Return the threshold of prediction sets at an error level; without a level, that of 0.1 where there is one.

    A class is in the set when 1 - its probability is at most the threshold. Raises StudyError when the card does not
    have the level that was asked for.
    """
    known = conformal or Conformal()
    wanted = 0.1 if level is None else level
    found = known.at(wanted)
    if isinstance(found, PredictionSets):
        return found.threshold
    if level is None:
        return None
    if why := refused_sets(conformal, wanted):
        raise StudyError(why)
    there = ", ".join(
        f"{float(one):g}" for one, sets in sorted(known.levels.items()) if isinstance(sets, PredictionSets)
    )
    raise StudyError(f"no prediction sets at level {level:g} in this model's card (there are: {there or 'none'})")


def refused_sets(conformal: Conformal | None, level: float = 0.1) -> str | None:
    """Return why a model has no prediction sets at an error level that was wanted; None where nothing was refused."""
    found = (conformal or Conformal()).at(level)
    return f"no prediction sets at level {level:g}: {found.refused}" if isinstance(found, RefusedLevel) else None


def predict_files(
    bundle: Bundle, files: Sequence[Path], *, threshold: float | None = None, explain: Path | None = None
) -> Iterator[Row]:
    """Yield a row for each file, in order, with an error where it is no image; threads decode and predict ahead.

    threshold: that of prediction sets. explain: folder for images that show where the network looked.
    """
    if explain:
        _make(explain)
    # Grad-CAM hooks into the network, which threads go on to use for the files ahead: it gets a network of its own.
    explained = deepcopy(bundle.predictor) if explain else None
    at_once = images_at_once(BATCH, bundle.image_size)
    for start, batch in enumerate(_batches(bundle, files, at_once, keep=explain is not None)):
        probabilities = iter(batch.probabilities)
        rows = [
            Row(path=str(path), error=str(image))
            if isinstance(image, DataError)
            else make_row(str(path), bundle.classes, next(probabilities), threshold)
            for path, image in zip(batch.files, batch.images, strict=True)
        ]
        if explain and explained and len(batch.probabilities):
            good = np.stack([image for image in batch.images if not isinstance(image, DataError)])
            _explain(
                explained, bundle.classes, [row for row in rows if "error" not in row], good, explain, start * at_once
            )
        yield from rows


@dataclass(frozen=True)
class PredictedBatch:
    """Batch of files, decoded and predicted."""

    files: list[Path]
    images: list[Pixels | DataError]  # one for each file
    probabilities: NDArray[np.float64]  # one row for each that could be read


NOTHING = np.empty((0, 0, 3), np.uint8)


def _batches(bundle: Bundle, files: Sequence[Path], at_once: int, *, keep: bool) -> Iterator[PredictedBatch]:
    """Yield the files in order, a batch after another, from threads that decode and predict, each for itself.

    Unless `keep`, the images themselves are NOTHING by then, since many batches may wait to be taken.
    So every processor is busy whether decoding or the network takes longer. On a GPU the networks take turns.
    """
    most = bundle.megapixels(MOST_MEGAPIXELS)
    network = gpu_lock(bundle.predictor.mean.device)

    def predicted(batch: list[Path]) -> PredictedBatch:
        images = [_read(path, bundle.image_size, most, bundle.ranges or AS_16_BITS) for path in batch]
        good = [image for image in images if not isinstance(image, DataError)]
        with network:
            found = bundle.predict(np.stack(good)) if good else np.zeros((0, len(bundle.classes)))
        left = images if keep else [image if isinstance(image, DataError) else NOTHING for image in images]
        return PredictedBatch(batch, left, found)

    starts = range(0, len(files), at_once)
    yield from done_ahead(predicted, (list(files[start : start + at_once]) for start in starts), AHEAD)


def _read(path: Path, size: int, most: float, ranges: Ranges) -> Pixels | DataError:
    try:
        return decode(path, size, most, ranges)
    except DataError as error:
        return error


def make_row(path: str, classes: Sequence[str], probabilities: NDArray[np.float64], threshold: float | None) -> Row:
    """Return the row of an image; threshold: that of its prediction set, see threshold_of."""
    by_class = dict(zip(classes, probabilities.tolist(), strict=True))
    row = Row(path=path, label=classes[int(probabilities.argmax())], probabilities=by_class)
    if threshold is not None:
        sets = prediction_sets(probabilities[None], threshold)
        row["set"] = [name for name, inside in zip(classes, sets[0], strict=True) if inside]
        row["abstain"] = bool(abstains(sets)[0])
    return row


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"cannot make the folder {folder}: {error.strerror} (name another with --explain)") from error


def _explain(
    predictor: Predictor, classes: Sequence[str], rows: list[Row], images: Pixels, folder: Path, start: int
) -> None:
    """Save a picture of what spoke for the label of each row, and put its file name into the row."""
    labels = np.array([classes.index(row["label"]) for row in rows])
    heats = grad_cam(predictor, images, labels)
    for number, (row, image, heat) in enumerate(zip(rows, images, heats, strict=True), start):
        stem = Path(row["path"]).stem.encode(errors="replace")[:LONGEST_STEM].decode(errors="ignore")
        file = folder / f"{number:05d}-{stem}.png"
        overlay(image, heat).save(file)
        row["explanation"] = str(file)
