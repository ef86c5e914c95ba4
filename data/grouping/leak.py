"""Does a split leak? A second opinion on the groups, by a method that shares no feature or threshold with theirs.

No keypoints: the middle of a held-out image, turned, flipped and scaled in some hundred ways, is searched for in
training images that look like it, by normalised cross-correlation; the best place is refined to an affine transform
(ECC, Evangelidis and Psarakis 2008), and the fine relief of the two is correlated where they overlap. Training images
drawn at random show what chance reaches in this folder: where that is too much, this opinion says that it cannot tell.

Its own error, thresholds fixed on the colon classes of LC25000 at 224 px: see BENCHMARKS.md.
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
from data.images import in_8_bits, opened, to_rgb

SAMPLE = 1000
"""Held-out images looked at; more are sampled."""
CANDIDATES = 5
"""Training images each of them is compared with: so many by colour and texture, and by layout, which no exposure
changes."""
DRAWN, DRAWN_WITH = 100, 8
"""Held-out images that are compared with training images drawn at random, and how many of these."""
SAME, SAME_SMALL, BLIND, USUAL = 0.5, 0.995, 0.2, 0.85
"""Correlation from which two images share a source: registered; as they are or flipped (small images). Where this
quantile of random pairs reaches BLIND, it cannot be told (of hands it reaches 0.3, of tissue 0.1; a tenth of the pairs
may be copies)."""
SMALL = 64
"""An image with a shorter side below this (pixels) is not registered."""
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


COARSE, FINE = LOOK / 8, LOOK / 38
"""What is smoother than this (pixels at LOOK) is taken away: before images are registered, and before they are
compared."""


class Look(NamedTuple):
    """Grey image uint8 [LOOK, LOOK], colour and texture histogram, layout, and whether it is large enough to
    register."""

    grey: NDArray[np.uint8]
    feature: Floats
    layout: Floats
    large: bool


class Opinion(NamedTuple):
    """Share (0..1) of held-out images with a copy among the others, None where it cannot be told; and the correlation
    that USUAL of random pairs stay below."""

    share: float | None
    chance: float


def share_with_sibling(
    paths: Sequence[Path], held_out: NDArray[np.bool_], *, processes: int | None = None, sample: int = SAMPLE
) -> Opinion:
    """How many held-out images have an augmented copy of their own source among the others.

    Deterministic; looks at `sample` held-out images at most (standard error below 1.6 points at 1,000, far
    less near 0).
    """
    held, train = np.flatnonzero(held_out), np.flatnonzero(~held_out)
    if not len(held) or not len(train):
        return Opinion(0.0, 0.0)
    rng = np.random.default_rng(0)
    if len(held) > sample:
        held = np.sort(rng.choice(held, sample, replace=False))
    used = np.concatenate([held, train])
    with processes_map(processes, len(used)) as mapping:
        looks: list[Look] = list(mapping(_look, [str(paths[i]) for i in used], 16))
        some, others = looks[: len(held)], looks[len(held) :]
        drawn = [
            (look, [others[j]])
            for look in [look for look in some if look.large][:DRAWN]
            for j in rng.integers(0, len(others), DRAWN_WITH)
        ]
        reached = list(mapping(_likest, drawn, 4))
        chance = float(np.quantile(reached, USUAL)) if reached else 0.0
        if chance > BLIND:
            return Opinion(None, chance)
        near = [_nearest(np.stack([getattr(look, field) for look in looks]), len(held)) for field in FIELDS]
        jobs = [(look, [others[j] for j in {*a, *b}]) for look, a, b in zip(some, *near, strict=True)]
        return Opinion(float(np.mean([like >= SAME for like in mapping(_likest, jobs, 4)])), chance)


FIELDS = ("feature", "layout")
"""Fields of a Look that say which training images are near."""


def _nearest(values: Floats, count: int) -> list[list[int]]:
    """The nearest (Euclidean) of the rows behind the first `count`, for each of these: their numbers from there."""
    index = NearestNeighbors(n_neighbors=min(CANDIDATES, len(values) - count), algorithm="brute").fit(values[count:])
    found: list[list[int]] = index.kneighbors(values[:count], return_distance=False).tolist()
    return found


def _look(path: str) -> Look:
    with opened(Path(path)) as image:
        size = image.size
        image.draft("RGB", (2 * LOOK, 2 * LOOK))
        pixels: MatLike = np.asarray(to_rgb(ImageOps.exif_transpose(in_8_bits(image, Path(path)))))
    pixels = cv2.resize(pixels, (LOOK, LOOK), interpolation=cv2.INTER_AREA if len(pixels) >= LOOK else cv2.INTER_LINEAR)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    colour = cv2.calcHist([pixels], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
    texture = [np.histogram(_relief(grey, width), bins=16, range=(-40, 40))[0] for width in (1.5, 3, 6)]
    feature = np.sqrt(np.concatenate([colour, *texture]) / LOOK**2)
    layout = cv2.resize(_relief(grey, COARSE), (16, 16), interpolation=cv2.INTER_AREA).ravel()
    layout = layout / (np.linalg.norm(layout) + 1)
    return Look(grey.astype(np.uint8), feature.astype(np.float32), layout.astype(np.float32), min(size) >= SMALL)


def _relief(grey: MatLike, width: float) -> Floats:
    """The image [H, W] without what is smoother than `width` pixels."""
    values = grey.astype(np.float32)
    return (values - cv2.GaussianBlur(values, (0, 0), width)).astype(np.float32)


def _likest(job: tuple[Look, list[Look]]) -> float:
    """The highest correlation of an image with some others; 1 for a small one that is the same or flipped."""
    one, others = job
    if not one.large:
        alike = (_alike(one.grey, flip) for other in others for flip in _flips(other.grey))
        return float(any(value >= SAME_SMALL for value in alike))
    patches, places = _patches(_relief(one.grey, COARSE))
    return max((_registered(one.grey, other.grey, patches, places) for other in others if other.large), default=0.0)


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
    return _refined(one, other, start)


def _refined(one: MatLike, other: MatLike, start: Floats) -> float:
    rule = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 25, 1e-3)
    try:
        _, warp = cv2.findTransformECC(  # type: ignore[call-overload]
            _relief(one, COARSE), _relief(other, COARSE), start, cv2.MOTION_AFFINE, rule, None, 3
        )
    except cv2.error:  # it did not converge: nothing in common
        return 0.0
    long, short = np.linalg.svd(warp[:, :2], compute_uv=False)
    if long > 1.6 * short or not 0.3 < long * short < 6.25:
        return 0.0
    shape = (LOOK, LOOK)
    moved = cv2.warpAffine(other.astype(np.float32), warp, shape, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    inside = cv2.warpAffine(np.ones(shape, np.uint8), warp, shape, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    return _alike(_relief(one, FINE)[inside], _relief(moved, FINE)[inside]) if inside.mean() >= 0.15 else 0.0
