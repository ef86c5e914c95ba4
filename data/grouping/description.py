"""Descriptions of images: the features that are compared, and how the descriptions of many images are kept on disk."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from PIL import ImageOps

from data.cache import publish
from data.grouping.settings import FAINT, KEYPOINTS, LAID, MIN_INLIERS, MIN_SIDE, SIDE, UNIT
from data.images import opened, to_8_bits, to_rgb

BLOCK = 512
"""Number of images whose descriptions are kept together; if the process is killed, at most so many are lost."""

Codes = NDArray[np.int8]
Floats = NDArray[np.float32]
Grey = NDArray[np.uint8]


class Description(NamedTuple):
    """The description of one image: hash of its decoded pixels; thumbnail, uint8 [16, 16, 3]; colour histogram [512] of
    unit length; grey image [H, W] of LAID squared pixels; keypoints [n, 4] (x, y, log of size, angle in radians) and
    descriptors [n, 128] at SIDE. n is 0 if the image cannot be registered."""

    digest: bytes
    thumb: NDArray[np.uint8]
    colour: Floats
    grey: Grey
    points: Floats
    codes: Codes


class Sketch(NamedTuple):
    """The part of a description that registration needs: keypoints [n, 4], descriptors [n, 128] of unit length, and
    grey image [H, W]."""

    points: Floats
    codes: Floats
    grey: Grey


LARGE = 64_000_000
"""Number of pixels above which a JPEG is decoded at a smaller size, never below four times SIDE."""


def describe(path: str) -> Description:
    """Decode and describe one image file. Raises OSError, which names the file, if it is no image."""
    try:
        with opened(Path(path)) as image:
            if image.width * image.height > LARGE:  # a JPEG of this size would take gigabytes
                image.draft("RGB", (4 * SIDE, 4 * SIDE))
            pixels: MatLike = np.asarray(to_rgb(ImageOps.exif_transpose(to_8_bits(image, Path(path)))))
    except Exception as error:
        raise OSError(f"{path}: cannot be read as an image ({error})") from error
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(
        np.ascontiguousarray(pixels).data, digest_size=16, person=f"{height}x{width}".encode()[:16]
    ).digest()
    thumb = cv2.resize(pixels, (16, 16), interpolation=cv2.INTER_AREA)
    scaled = _scaled(pixels, SIDE)
    grey = cv2.cvtColor(_scaled(pixels, LAID), cv2.COLOR_RGB2GRAY)
    points, codes = _keypoints(scaled) if min(height, width) >= MIN_SIDE else _no_keypoints()
    return Description(digest, thumb.astype(np.uint8), _colour(scaled), grey.astype(np.uint8), points, codes)


def _scaled(pixels: MatLike, side: int) -> MatLike:
    """Resize an image [H, W, 3], keeping its aspect ratio, to the area of a square of this side."""
    height, width = pixels.shape[:2]
    scale = side / (height * width) ** 0.5
    target = (max(8, round(width * scale)), max(8, round(height * scale)))
    return cv2.resize(pixels, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _no_keypoints() -> tuple[Floats, Codes]:
    return np.zeros((0, 4), np.float32), np.zeros((0, 128), np.int8)


def _colour(pixels: MatLike) -> Floats:
    """Return the square root of the LAB histogram of the central disc, which rotation and flips do not change."""
    height, width = pixels.shape[:2]
    disc = np.zeros((height, width), np.uint8)
    cv2.circle(disc, (width // 2, height // 2), min(height, width) // 2, (255,), -1)
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    # Tissue is pink and violet, so the bins are fine and cover only colours near the neutral axis; others are not
    # counted.
    histogram = cv2.calcHist([lab], [0, 1, 2], disc, [8, 8, 8], [0, 256, 100, 200, 80, 180]).ravel()
    unit: Floats = np.sqrt(histogram / max(float(histogram.sum()), 1.0)).astype(np.float32)
    return unit


def _keypoints(pixels: MatLike) -> tuple[Floats, Codes]:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    detector = cv2.SIFT_create(nfeatures=KEYPOINTS, contrastThreshold=FAINT)  # type: ignore[attr-defined]
    found, raw = detector.detectAndCompute(grey, None)
    if raw is None or len(found) < MIN_INLIERS:
        return _no_keypoints()
    points = np.array([(k.pt[0], k.pt[1], np.log(k.size), np.deg2rad(k.angle)) for k in found], np.float32)
    root = np.sqrt(raw / (raw.sum(axis=1, keepdims=True) + 1e-6))
    # In the descriptor of a mirrored patch the 4x4 grid is flipped and the 8 directions are reversed. What is kept are
    # the sum and the difference of the two halves that change places, so that mirroring only changes signs in the
    # second half.
    grid = root.reshape(-1, 4, 4, 8)
    mirrored = grid[:, ::-1, :, (-np.arange(8)) % 8]
    halves = np.concatenate([(grid + mirrored)[:, :2], (grid - mirrored)[:, :2]], axis=1) / 2**0.5
    return points, np.clip(np.rint(halves.reshape(-1, 128) * UNIT), -127, 127).astype(np.int8)


class Shelf:
    """The descriptions of many images, in blocks on disk that every process maps into its memory.

    A block appears only when it is complete, so interrupted work continues after the last block.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blocks: dict[int, dict[str, NDArray[Any]]] = {}

    def fill(self, paths: Sequence[str], described: Callable[[Sequence[str]], Iterator[Description]]) -> Iterator[int]:
        """Describe all files that are not on the shelf yet; yield how many are done."""
        for start in range(0, len(paths), BLOCK):
            some = paths[start : start + BLOCK]
            if not self._whole(start // BLOCK, len(some)):
                shutil.rmtree(self._place(start // BLOCK), ignore_errors=True)
                images = []
                for one in described(some):
                    images.append(one)
                    yield start + len(images)
                publish(self._place(start // BLOCK), partial(_write, images=images))
            yield start + len(some)

    def all(self, field: str, count: int) -> NDArray[Any]:
        """Return one field (digest, thumb or colour) of all `count` images: [N, ...]."""
        return np.concatenate([self._block(number)[field] for number in range(-(-count // BLOCK))])

    def codes(self, i: int) -> Codes:
        """Return the descriptors [n, 128] of an image, in units of 1 / UNIT."""
        block, rows = self._rows(i)
        return np.asarray(block["codes"][rows])

    def __getitem__(self, i: int) -> Sketch:
        block, rows = self._rows(i)
        height, width = block["shape"][i % BLOCK]
        begin = block["begin"][i % BLOCK]
        grey = np.asarray(block["grey"][begin : begin + height * width]).reshape(height, width)
        return Sketch(np.asarray(block["points"][rows]), np.asarray(block["codes"][rows], np.float32) / UNIT, grey)

    def _rows(self, i: int) -> tuple[dict[str, NDArray[Any]], slice]:
        block = self._block(i // BLOCK)
        start = block["start"]
        return block, slice(int(start[i % BLOCK]), int(start[i % BLOCK + 1]))

    def _place(self, number: int) -> Path:
        return self.folder / f"block-{number:05d}"

    def _block(self, number: int) -> dict[str, NDArray[Any]]:
        if number not in self._blocks:
            place = self._place(number)
            self._blocks[number] = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in FIELDS}
        return self._blocks[number]

    def _whole(self, number: int, count: int) -> bool:
        try:
            return len(self._block(number)["digest"]) == count
        except (OSError, ValueError):  # absent or altered: the images are described again
            return False


FIELDS = ("digest", "thumb", "colour", "shape", "begin", "grey", "start", "points", "codes")
"""Names of the files of a block, one array each. `start` and `begin` are the positions of an image's keypoints and of
its grey pixels."""


def _write(folder: Path, images: Sequence[Description]) -> None:
    nothing = _no_keypoints()
    sizes = [one.grey.size for one in images]
    arrays: tuple[NDArray[Any], ...] = (
        np.array([one.digest for one in images], "V16"),
        np.stack([one.thumb for one in images]),
        np.stack([one.colour for one in images]),
        np.array([one.grey.shape for one in images], np.int64),
        np.cumsum([0, *sizes])[:-1],
        np.concatenate([one.grey.ravel() for one in images]),
        np.cumsum([0, *(len(one.codes) for one in images)]),
        np.concatenate([nothing[0], *(one.points for one in images)]),
        np.concatenate([nothing[1], *(one.codes for one in images)]),
    )
    for name, array in zip(FIELDS, arrays, strict=True):
        np.save(folder / f"{name}.npy", array)


@lru_cache(maxsize=1)
def shelf(folder: str) -> Shelf:
    """Return the shelf in a folder, which is opened once in each process."""
    return Shelf(Path(folder))
