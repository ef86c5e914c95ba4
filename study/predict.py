"""A saved model on image files: found, decoded as in training, labelled."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data import DataError
from data.images import decode
from models.bundle import Bundle

BATCH = 64


def find_images(places: Sequence[Path]) -> list[Path]:
    """The files given, and every file with an image's ending in the folders given, sorted. Raises DataError."""
    endings = Image.registered_extensions()
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = [Path(parent, n) for parent, _, names in os.walk(place) for n in names if not n.startswith(".")]
            images = sorted(path for path in inside if path.suffix.lower() in endings)
            if not images:
                raise DataError(f"no images in {place} (files ending in .png, .jpg, .tif and the like)")
            found += images
        elif place.is_file():
            found.append(place)
        else:
            raise DataError(f"no such image or folder: {place}")
    return found


def predict_files(
    bundle: Bundle, files: Sequence[Path], *, skip_bad: bool, warn: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Rows with path, label and probabilities by class name, in order; decoding runs ahead in threads.

    Raises DataError for a file that is no image, unless skip_bad: then warn() gets a line and the file has no row.
    """

    def read(path: Path) -> NDArray[np.uint8] | DataError:
        try:
            return decode(path, bundle.image_size)
        except DataError as error:
            return error

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), BATCH):
            chunk = files[start : start + BATCH]
            good: list[tuple[Path, NDArray[np.uint8]]] = []
            for path, image in zip(chunk, pool.map(read, chunk), strict=True):
                if isinstance(image, DataError):
                    if not skip_bad:
                        raise DataError(f"{path}: {image} (leave such files out with --skip-bad)")
                    warn(f"left out {path}: {image}")
                else:
                    good.append((path, image))
            if good:
                yield from _rows(bundle, good)


def _rows(bundle: Bundle, images: list[tuple[Path, NDArray[np.uint8]]]) -> Iterator[dict[str, Any]]:
    probabilities = bundle.predict(np.stack([image for _, image in images]))
    for (path, _), row in zip(images, probabilities, strict=True):
        yield {
            "path": str(path),
            "label": bundle.classes[int(row.argmax())],
            "probabilities": dict(zip(bundle.classes, row.tolist(), strict=True)),
        }
