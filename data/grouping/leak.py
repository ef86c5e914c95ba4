"""Does a split leak? A second opinion on `groups`, by a method that shares nothing with it but the colours.

No keypoints: the middle of a held-out image, turned, flipped and scaled in some hundred ways, is searched for
in its nearest training images by normalised cross-correlation; the best place is refined to an affine
transform (ECC, Evangelidis and Psarakis 2008) and the two images are correlated where they overlap.

Its own error, threshold fixed on colon, on LC25000 at 224 px: see `share_with_sibling`.
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

from data.grouping.candidates import nearest_of
from data.grouping.crew import processes_map
from data.grouping.settings import MIN_SIDE
from data.images import opened, to_rgb

SAMPLE = 1000
"""Held-out images looked at; more are sampled."""
CANDIDATES = 8
"""Training images each of them is compared with."""
SAME, SAME_SMALL = 0.6, 0.98
"""Correlation from which two images share a source: registered; as they are or flipped (images under
MIN_SIDE)."""
LOOK, SEARCH, PATCH = 96, 48, 24
"""MatLike: the side of a registered image, of a searched image, and of the patch searched for."""
PARTS = (0.33, 0.42, 0.53, 0.66, 0.8)
"""The patch shows so much of the held-out image's side: copies may be zoomed by 0.66 to 1.6."""
ANGLES = range(-50, 51, 10)
"""Two copies turned by up to 25 degrees differ by up to 50."""
FLIPS = [
    np.array([[a, 0, (PATCH - 1) * (a < 0)], [0, b, (PATCH - 1) * (b < 0)], [0, 0, 1]], np.float64)
    for a, b in product((1, -1), (1, -1))
]

Floats = NDArray[np.float32]


class Look(NamedTuple):
    """Grey image uint8 [LOOK, LOOK], colour and texture histogram, and whether it is large enough to
    register."""

    grey: NDArray[np.uint8]
    feature: Floats
    large: bool


def share_with_sibling(
    paths: Sequence[Path], held_out: NDArray[np.bool_], *, processes: int | None = None, sample: int = SAMPLE
) -> float:
    """Share (0..1) of held-out images that have an augmented copy of their own source among the others.

    Deterministic; looks at `sample` held-out images at most (standard error below 1.6 points at 1,000, far
    less near 0).
    """
    held, train = np.flatnonzero(held_out), np.flatnonzero(~held_out)
    if not len(held) or not len(train):
        return 0.0
    if len(held) > sample:
        held = np.sort(np.random.default_rng(0).choice(held, sample, replace=False))
    used = np.concatenate([held, train])
    with processes_map(processes, len(used)) as mapping:
        looks: list[Look] = list(mapping(_look, [str(paths[i]) for i in used], 16))
        feature = np.stack([look.feature for look in looks])
        near = nearest_of(feature[: len(held)], feature[len(held) :], CANDIDATES)
        jobs = [(looks[i], [looks[len(held) + j] for j in row]) for i, row in enumerate(near)]
        return float(np.mean(list(mapping(_has_sibling, jobs, 4))))


def _look(path: str) -> Look:
    with opened(Path(path)) as image:
        size = image.size
        image.draft("RGB", (2 * LOOK, 2 * LOOK))
        pixels: MatLike = np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    pixels = cv2.resize(pixels, (LOOK, LOOK), interpolation=cv2.INTER_AREA if len(pixels) >= LOOK else cv2.INTER_LINEAR)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    colour = cv2.calcHist([pixels], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
    texture = [np.histogram(_relief(grey, width), bins=16, range=(-40, 40))[0] for width in (1.5, 3, 6)]
    feature = np.sqrt(np.concatenate([colour, *texture]) / LOOK**2)
    return Look(grey.astype(np.uint8), feature.astype(np.float32), min(size) >= MIN_SIDE)


def _relief(grey: MatLike, width: float) -> Floats:
    """The image [H, W] without what is smoother than `width` pixels."""
    values = grey.astype(np.float32)
    return (values - cv2.GaussianBlur(values, (0, 0), width)).astype(np.float32)


def _has_sibling(job: tuple[Look, list[Look]]) -> bool:
    one, others = job
    if not one.large:
        return any(_alike(one.grey, flip) >= SAME_SMALL for other in others for flip in _flips(other.grey))
    patches, places = _patches(_relief(one.grey, LOOK / 8))
    return any(other.large and _registered(one.grey, other.grey, patches, places) >= SAME for other in others)


def _flips(grey: MatLike) -> Iterator[MatLike]:
    yield from (grey, grey[::-1], grey[:, ::-1], grey[::-1, ::-1])


def _alike(a: MatLike, b: MatLike) -> float:
    """Correlation; a grey level of noise keeps blank images from agreeing by chance."""
    x, y = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
    return float((x * y).sum() / np.sqrt(((x**2).sum() + x.size) * ((y**2).sum() + y.size)))


def _patches(relief: Floats) -> tuple[Floats, list[NDArray[np.float64]]]:
    """The middle of the image in every attitude: unit vectors [n, PATCH * PATCH], and where each patch's
    pixels lie in the image (3x3 matrices)."""
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
    """Correlation of the overlap at the best place found, 0 where there is none."""
    small = cv2.resize(other, (SEARCH, SEARCH), interpolation=cv2.INTER_AREA)
    windows = sliding_window_view(_relief(small, SEARCH / 6), (PATCH, PATCH)).reshape(-1, PATCH * PATCH)
    norm = np.sqrt(np.maximum((windows**2).sum(axis=1) - PATCH**2 * windows.mean(axis=1) ** 2, 0)) + 0.02
    which, where = np.unravel_index(int(((patches @ windows.T) / norm).argmax()), (len(patches), len(windows)))
    top, left = divmod(int(where), SEARCH - PATCH + 1)
    double = LOOK / SEARCH
    to_other = np.array([[double, 0, double * left + 0.5], [0, double, double * top + 0.5], [0, 0, 1]])
    start = (to_other @ np.linalg.inv(places[int(which)]))[:2].astype(np.float32)
    return _refined(_relief(one, LOOK / 8), _relief(other, LOOK / 8), start)


def _refined(one: Floats, other: Floats, start: Floats) -> float:
    rule = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 25, 1e-3)
    try:
        _, warp = cv2.findTransformECC(  # type: ignore[call-overload]
            one, other, start, cv2.MOTION_AFFINE, rule, None, 3
        )
    except cv2.error:  # it did not converge: nothing in common
        return 0.0
    long, short = np.linalg.svd(warp[:, :2], compute_uv=False)
    if long > 1.6 * short or not 0.3 < long * short < 6.25:
        return 0.0
    shape = (LOOK, LOOK)
    moved = cv2.warpAffine(other, warp, shape, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    inside = cv2.warpAffine(np.ones(shape, np.uint8), warp, shape, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    return _alike(one[inside], moved[inside]) if inside.mean() >= 0.15 else 0.0
