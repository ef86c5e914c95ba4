"""Leak detector: a second opinion on whether a split leaks, by a method that shares no feature or threshold with the
one that finds the groups.

It uses no keypoints. The middle of a held-out image, turned, flipped and scaled in some hundred ways, is searched for
in training images that look similar, by normalised cross-correlation. The best place is refined to an affine transform
(ECC, Evangelidis and Psarakis 2008), and the fine relief of the two images is correlated where they overlap. Training
images drawn at random show what chance reaches in this folder; if that is too much, the detector says that it cannot
tell.

The thresholds were fixed on the colon classes of LC25000 at 224 px. For the detector's own error see BENCHMARKS.md.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import ImageOps
from sklearn.neighbors import NearestNeighbors

from data.grouping.crew import processes_map
from data.images import opened, to_8_bits, to_rgb

SAMPLE = 1000
"""Largest number of held-out images that are examined; if there are more, a random sample is taken."""
CANDIDATES = 5
"""Number of training images, for each of two criteria, that a held-out image is compared with: the nearest by colour
and texture, and the nearest by layout, which does not depend on exposure."""
DRAWN, DRAWN_WITH = 100, 8
"""Largest number of held-out images that are compared with random training images, and number of those for each."""
SAME, SAME_SMALL, BLIND, USUAL = 0.5, 0.995, 0.2, 0.85
"""SAME: correlation, after registration, from which two images share a source. SAME_SMALL: the same for small images,
compared as they are or flipped. If the quantile USUAL of random pairs exceeds the correlation BLIND, copies cannot be
told from other images (for hands it reaches 0.3, for tissue 0.1; a tenth of the random pairs may be copies)."""
SMALL = 64
"""Images whose shorter side is below this, in pixels, are not registered."""
LOOK, SEARCH, PATCH = 96, 48, 24
"""Sides, in pixels, of a registered image, of an image that is searched, and of the patch that is searched for."""
PARTS = (0.33, 0.42, 0.53, 0.66, 0.8)
"""Shares of the held-out image's side that a patch shows; with these, copies may be zoomed by 0.66 to 1.6."""
ANGLES = range(-90, 90, 10)
"""Angles of a patch in degrees; with the flips these are all directions, since people add quarter turns to images."""
FLIPS = [
    np.array([[a, 0, (PATCH - 1) * (a < 0)], [0, b, (PATCH - 1) * (b < 0)], [0, 0, 1]], np.float64)
    for a, b in product((1, -1), (1, -1))
]
"""The four flips of a patch as 3x3 matrices on its pixel coordinates."""

Floats = NDArray[np.float32]


COARSE, FINE = LOOK / 8, LOOK / 38
"""Widths of Gaussian blurs (pixels at LOOK) that are subtracted from images: before they are registered, and before
they are compared."""


class Features(NamedTuple):
    """An image as the detector sees it: grey image, uint8 [LOOK, LOOK]; histogram of colour and texture; layout; and
    whether it is large enough to be registered."""

    grey: NDArray[np.uint8]
    feature: Floats
    layout: Floats
    large: bool


class LeakEstimate(NamedTuple):
    """The result of the detector: the share (0..1) of held-out images with a copy among the others, None if it cannot
    be told; and the correlation that the share USUAL of random pairs stay below."""

    share: float | None
    chance: float


def share_with_sibling(
    paths: Sequence[Path], held_out: NDArray[np.bool_], *, processes: int | None = None, sample: int = SAMPLE
) -> LeakEstimate:
    """Estimate the share of held-out images that have an augmented copy of their own source among the others.

    The result is deterministic. At most `sample` held-out images are examined; at 1,000 the standard error is below 1.6
    percentage points, and far less near 0.
    """
    held, train = np.flatnonzero(held_out), np.flatnonzero(~held_out)
    if not len(held) or not len(train):
        return LeakEstimate(0.0, 0.0)
    rng = np.random.default_rng(0)
    if len(held) > sample:
        held = np.sort(rng.choice(held, sample, replace=False))
    used = np.concatenate([held, train])
    with processes_map(processes, len(used)) as mapping:
        looks: list[Features] = list(mapping(_look, [str(paths[i]) for i in used], 16))
        some, others = looks[: len(held)], looks[len(held) :]
        drawn = [
            (look, [others[j]])
            for look in [look for look in some if look.large][:DRAWN]
            for j in rng.integers(0, len(others), DRAWN_WITH)
        ]
        reached = list(mapping(_likest, drawn, 4))
        chance = float(np.quantile(reached, USUAL)) if reached else 0.0
        if chance > BLIND:
            return LeakEstimate(None, chance)
        near = [_nearest(np.stack([getattr(look, field) for look in looks]), len(held)) for field in FIELDS]
        jobs = [(look, [others[j] for j in {*a, *b}]) for look, a, b in zip(some, *near, strict=True)]
        return LeakEstimate(float(np.mean([like >= SAME for like in mapping(_likest, jobs, 4)])), chance)


FIELDS = ("feature", "layout")
"""Fields of Features by which the nearest training images are found."""


def _nearest(values: Floats, count: int) -> list[list[int]]:
    """Find for each of the first `count` rows the nearest (Euclidean) among the other rows, numbered from 0 after
    `count`."""
    index = NearestNeighbors(n_neighbors=min(CANDIDATES, len(values) - count), algorithm="brute").fit(values[count:])
    found: list[list[int]] = index.kneighbors(values[:count], return_distance=False).tolist()
    return found


def _look(path: str) -> Features:
    with opened(Path(path)) as image:
        size = image.size
        image.draft("RGB", (2 * LOOK, 2 * LOOK))
        pixels: MatLike = np.asarray(to_rgb(ImageOps.exif_transpose(to_8_bits(image, Path(path)))))
    pixels = cv2.resize(pixels, (LOOK, LOOK), interpolation=cv2.INTER_AREA if len(pixels) >= LOOK else cv2.INTER_LINEAR)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    colour = cv2.calcHist([pixels], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
    texture = [np.histogram(_relief(grey, width), bins=16, range=(-40, 40))[0] for width in (1.5, 3, 6)]
    feature = np.sqrt(np.concatenate([colour, *texture]) / LOOK**2)
    layout = cv2.resize(_relief(grey, COARSE), (16, 16), interpolation=cv2.INTER_AREA).ravel()
    layout = layout / (np.linalg.norm(layout) + 1)
    return Features(grey.astype(np.uint8), feature.astype(np.float32), layout.astype(np.float32), min(size) >= SMALL)


def _relief(grey: MatLike, width: float) -> Floats:
    """Subtract a Gaussian blur of `width` pixels from an image [H, W]."""
    values = grey.astype(np.float32)
    return (values - cv2.GaussianBlur(values, (0, 0), width)).astype(np.float32)


def _likest(job: tuple[Features, list[Features]]) -> float:
    """Return the highest correlation of an image with some others; a small image has 1 if another one is the same or
    flipped, else 0."""
    one, others = job
    if not one.large:
        alike = (_alike(one.grey, flip) for other in others for flip in _flips(other.grey))
        return float(any(value >= SAME_SMALL for value in alike))
    patches, places = _patches(_relief(one.grey, COARSE))
    return max((_registered(one.grey, other.grey, patches, places) for other in others if other.large), default=0.0)


def _flips(grey: MatLike) -> Iterator[MatLike]:
    yield from (grey, grey[::-1], grey[:, ::-1], grey[::-1, ::-1])


def _alike(a: MatLike, b: MatLike) -> float:
    """Return the correlation of two images, as if they had noise of one grey level, so that blank ones do not agree by
    chance."""
    x, y = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
    return float((x * y).sum() / np.sqrt(((x**2).sum() + x.size) * ((y**2).sum() + y.size)))


def _patches(relief: Floats) -> tuple[Floats, list[NDArray[np.float64]]]:
    """Cut patches from the middle of an image in every size, rotation and flip.

    Returns unit vectors [n, PATCH * PATCH], and 3x3 matrices from the pixel coordinates of each patch to the image's.
    """
    patches, places = [], []
    for part, angle in product(PARTS, ANGLES):
        step, middle = part * LOOK / PATCH, (PATCH - 1) / 2
        source = relief if step < 1.3 else cv2.GaussianBlur(relief, (0, 0), 0.45 * step)
        c, s = step * np.cos(np.deg2rad(angle)), step * np.sin(np.deg2rad(angle))
        centre = (LOOK - 1) / 2
        place = np.array([[c, -s, centre - middle * (c - s)], [s, c, centre - middle * (c + s)], [0, 0, 1]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        patch = cv2.warpAffine(source, place[:2], (PATCH, PATCH), flags=flags, borderMode=cv2.BORDER_REFLECT)
        for flip in FLIPS:
            patches.append(patch[:: int(flip[1, 1]), :: int(flip[0, 0])].ravel())
            places.append(place @ flip)
    flat = np.stack(patches)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return (flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 0.02)).astype(np.float32), places


def _registered(one: MatLike, other: MatLike, patches: Floats, places: list[NDArray[np.float64]]) -> float:
    """Find the best place of the patches of one image in the other, and return the correlation of the overlap there; 0
    if there is none."""
    small = cv2.resize(other, (SEARCH, SEARCH), interpolation=cv2.INTER_AREA)
    windows = sliding_window_view(_relief(small, SEARCH / 6), (PATCH, PATCH)).reshape(-1, PATCH * PATCH)
    norm = np.sqrt(np.maximum((windows**2).sum(axis=1) - PATCH**2 * windows.mean(axis=1) ** 2, 0)) + 0.02
    which, where = np.unravel_index(int(((patches @ windows.T) / norm).argmax()), (len(patches), len(windows)))
    top, left = divmod(int(where), SEARCH - PATCH + 1)
    double = LOOK / SEARCH
    to_other = np.array([[double, 0, double * left + 0.5], [0, double, double * top + 0.5], [0, 0, 1]])
    start = (to_other @ np.linalg.inv(places[int(which)]))[:2].astype(np.float32)
    return _refined(one, other, start)


def _refined(one: MatLike, other: MatLike, start: Floats) -> float:
    rule = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 25, 1e-3)
    try:
        _, warp = cv2.findTransformECC(  # type: ignore[call-overload]
            _relief(one, COARSE), _relief(other, COARSE), start, cv2.MOTION_AFFINE, rule, None, 3
        )
    except cv2.error:  # it did not converge, so the images have nothing in common
        return 0.0
    long, short = np.linalg.svd(warp[:, :2], compute_uv=False)
    if long > 1.6 * short or not 0.3 < long * short < 6.25:
        return 0.0
    shape = (LOOK, LOOK)
    moved = cv2.warpAffine(other.astype(np.float32), warp, shape, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    inside = cv2.warpAffine(np.ones(shape, np.uint8), warp, shape, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    return _alike(_relief(one, FINE)[inside], _relief(moved, FINE)[inside]) if inside.mean() >= 0.15 else 0.0
