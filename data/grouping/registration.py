"""Registration of two images: one is laid over the other, and their agreement is measured where both should agree."""

import math
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from data.grouping.description import Floats, Grey, Sketch, shelf
from data.grouping.settings import (
    CELLS,
    FEW_CELLS,
    FINE,
    FITS,
    LAID,
    MAX_GROWTH,
    MAX_SKEW,
    MIN_INLIERS,
    MOST_CELLS,
    NEAR,
    NEARER,
    NOISE,
    PLAIN,
    RATIO,
    RELIEF,
    SAME,
    SIDE,
    STIFF,
    STRUCTURE,
)

Complexes = NDArray[np.complex64]
Matrix = NDArray[np.float64]


class Agreement(NamedTuple):
    """The number of matches that agree on one affine transform, and that transform [2, 3], which maps positions at SIDE
    in one image to positions in the other."""

    inliers: int
    transform: Matrix


def likenesses(job: tuple[str, NDArray[np.int64]]) -> Floats:
    """Compute the likeness of some pairs of images; `job` is (folder of the shelf of images, pairs [n, 2])."""
    images = shelf(job[0])
    return np.array([likeness(images[a], images[b]) for a, b in job[1].tolist()], np.float32)


def likeness(one: Sketch, other: Sketch) -> float:
    """Return the likeness of two images, 0 to 1: how well one is a copy of the other.

    It is the product of two factors. The first is the square root of the share of keypoints that agree on one
    transform, among those that both images should show; the square root is taken because resampling loses many
    keypoints. The second is the correlation of fine detail when one image is laid over the other by that transform.

    Neither factor depends on exposure. Unrelated objects of one kind have the same outlines, and so some matches; only
    copies have the same fine detail too. The likeness is 0 if fewer than MIN_INLIERS keypoints agree.
    """
    found = agreement(one, other)
    if found is None or found.inliers < MIN_INLIERS:
        return 0.0
    back = cv2.invertAffineTransform(found.transform)
    shown = min(
        _inside(one.points, found.transform, other.grey.shape),
        _inside(other.points, back, one.grey.shape),
    )
    share = min(1.0, found.inliers / max(shown, 1))
    return math.sqrt(share) * max(0.0, fine_detail(one.grey, other.grey, found.transform))


def _inside(points: Floats, transform: MatLike, shape: tuple[int, ...]) -> int:
    """Count the keypoints that the transform maps to places inside the other image, whose grey image has this shape."""
    places = points[:, :2] @ transform[:, :2].T + transform[:, 2]
    limit = np.array([shape[1], shape[0]]) * (SIDE / LAID)
    return int(((places >= 0) & (places < limit)).all(axis=1).sum())


def fine_detail(one: Grey, other: Grey, transform: Matrix) -> float:
    """Return the correlation of fine detail (smaller than FINE) that four fifths of all cells of a grid reach when the
    other image is laid over the one.

    Each cell may be shifted by a pixel, as no transform fits everywhere, and only cells with structure count. So a
    stamp, a scale bar, a frame or a background that is the same in all images has little influence, as long as
    something else fills a fifth of the image. The result is 0 if too few cells can be compared.
    """
    if np.linalg.det(transform[:, :2]) ** 2 > 1:  # lay the coarser image over the finer one, or detail is lost
        one, other, transform = other, one, np.asarray(cv2.invertAffineTransform(transform), np.float64)
    small = transform.copy()
    small[:, 2] *= LAID / SIDE
    height, width = one.shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(other, small, (width, height), flags=flags)
    covered = cv2.warpAffine(
        np.full(other.shape, 255, np.uint8), small, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
    inside = (cv2.erode(covered, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_REPLICATE) > 0).astype(np.float32)
    x, y = _detail(one) * inside, _detail(moved) * inside
    ys = np.stack([np.roll(y, step, (0, 1)) for step in product((-1, 0, 1), (-1, 0, 1))])
    weight = _in_cells(inside) + np.float32(1e-6)
    mean_x, mean_y = _in_cells(x) / weight, _in_cells(ys) / weight
    var_x = np.maximum(_in_cells(x * x) / weight - mean_x**2, 0)
    var_y = np.maximum(_in_cells(ys * ys) / weight - mean_y**2, 0)
    usable = (weight > 0.6) & (np.maximum(var_x, var_y[4]) > STRUCTURE**2)
    if usable.sum() < FEW_CELLS:
        return 0.0
    product_xy = _in_cells(x * ys) / weight - mean_x * mean_y
    cells = (product_xy / np.sqrt((var_x + NOISE**2) * (var_y + NOISE**2))).max(axis=0)
    return float(np.quantile(cells[usable], MOST_CELLS))


def same_detail(one: Grey, other: Grey) -> bool:
    """Return whether near duplicates, one perhaps flipped, have the same detail too, or one of them has none.

    A thumbnail cannot show small things in a large image: cells, bacteria, scratches.
    """
    if one.shape != other.shape:
        other = np.asarray(cv2.resize(other, one.shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    x, y = _relief(one), _relief(other)
    if min(x.std(), y.std()) < PLAIN:
        return True
    flipped = (y[::down, ::right] for down, right in product((1, -1), (1, -1)))
    return max(float((x * turned).mean()) for turned in flipped) >= SAME * float(x.std() * y.std())


def _relief(grey: MatLike) -> Floats:
    fine, coarse = (cv2.GaussianBlur(grey.astype(np.float32), (0, 0), size) for size in RELIEF)
    return np.asarray(fine - coarse - (fine - coarse).mean(), np.float32)


def _in_cells(values: Floats) -> Floats:
    """Average values [..., H, W] over a grid of cells, CELLS along a side of a square image: [..., rows, columns]."""
    height, width = values.shape[-2:]
    return np.asarray(_cells_of(height) @ values @ _cells_of(width).T, np.float32)


@lru_cache(maxsize=256)
def _cells_of(length: int) -> Floats:
    """Return the weight of each pixel in each cell along one side of an image: [cells, length]."""
    count = max(2, round(CELLS * length / LAID))
    member = np.arange(length) * count // length == np.arange(count)[:, None]
    shares: Floats = (member / member.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _detail(grey: MatLike) -> Floats:
    values = grey.astype(np.float32)
    return (values - cv2.GaussianBlur(values, (0, 0), FINE)).astype(np.float32)


def agreement(one: Sketch, other: Sketch) -> Agreement | None:
    """Find the transform, upright or mirrored, on which most matches of keypoints agree; None if none is found."""
    p, q, a, b = one.points, other.points, one.codes, other.codes
    if min(len(p), len(q)) < MIN_INLIERS:
        return None
    even, odd = a[:, :64] @ b[:, :64].T, a[:, 64:] @ b[:, 64:].T
    upright = _agreeing(p, q, *_matches(even + odd))
    mirror = np.array([-1, 1, 1, -1], np.float32)
    turned = q * mirror + np.array([0, 0, 0, np.pi], np.float32)  # x -> -x, angle -> pi - angle
    mirrored = _agreeing(p, turned, *_matches(even - odd))
    if mirrored is not None and (upright is None or mirrored.inliers > upright.inliers):
        return Agreement(mirrored.inliers, mirrored.transform * np.array([[-1.0], [1.0]]))
    return upright


def _matches(similarity: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and columns that are each other's best match, and clearly better than the row's second best.

    Changes `similarity`.
    """
    rows = np.arange(len(similarity))
    best = similarity.argmax(axis=1)
    top = similarity[rows, best]
    mutual = similarity.argmax(axis=0)[best] == rows
    similarity[rows, best] = -1.0
    # Unit vectors: squared distance = 2 - 2 * similarity.
    keep = mutual & (1 - top < RATIO**2 * (1 - similarity.max(axis=1)))
    return rows[keep], best[keep]


def _agreeing(p: Floats, q: Floats, i: NDArray[np.int64], j: NDArray[np.int64]) -> Agreement | None:
    """Find the transform of the plane on which most matches agree (points are complex numbers).

    Each match alone determines a transform, by the sizes and angles of its two keypoints. The three transforms with the
    most support are fitted by least squares to the matches that support them, until these stay the same.
    """
    if len(i) < MIN_INLIERS:
        return None
    zp, zq = p[i, 0] + 1j * p[i, 1], q[j, 0] + 1j * q[j, 1]
    growth, angle = q[j, 2] - p[i, 2], q[j, 3] - p[i, 3]
    turn = np.exp(growth + 1j * angle)
    error = np.abs(turn[:, None] * (zp[None] - zp[:, None]) + zq[:, None] - zq[None])
    near = error < NEAR * np.maximum(1, np.exp(growth))[:, None]
    near &= np.abs(growth[:, None] - growth) < 0.45
    near &= np.abs(np.angle(turn[:, None] / turn)) < 0.5
    support = near.sum(axis=1)
    best: Agreement | None = None
    for seed in np.argsort(-support, kind="stable")[:3]:
        if support[seed] >= 3:
            found = _fitted(zp, zq, near[seed])
            if found is not None and (best is None or found.inliers > best.inliers):
                best = found
    return best


def _fitted(zp: Complexes, zq: Complexes, chosen: NDArray[np.bool_]) -> Agreement | None:
    """Fit z -> turn * z + skew * conj(z) + shift to the chosen matches, then again to the matches that agree with it.

    This is an affine transform in complex numbers. With a skew of 0 it is a similarity, and a ridge keeps the skew near
    0 if there are few matches. Returns None for an absurd transform, because such ones join unrelated images.
    """
    for _ in range(FITS):
        start, goal = zp[chosen].mean(), zq[chosen].mean()
        arms = np.stack([zp - start, np.conj(zp - start)], axis=1)
        some = arms[chosen]
        normal = np.conj(some.T) @ some + np.diag([1.0, STIFF])
        turn, skew = np.linalg.solve(normal, np.conj(some.T) @ (zq[chosen] - goal))
        if abs(skew) > MAX_SKEW * abs(turn) or not 1 / MAX_GROWTH < abs(turn) < MAX_GROWTH:
            return None
        again = np.abs(arms @ np.array([turn, skew]) + goal - zq) < NEARER * max(1.0, abs(turn))
        if again.sum() < 3:
            return None
        if (again == chosen).all():
            break
        chosen = again
    # A place with keypoints of several orientations counts once.
    count = min(len(np.unique(np.round(z[chosen] / 3))) for z in (zp, zq))
    shift = goal - turn * start - skew * np.conj(start)
    return Agreement(
        count,
        np.array(
            [
                [turn.real + skew.real, skew.imag - turn.imag, shift.real],
                [turn.imag + skew.imag, turn.real - skew.real, shift.imag],
            ]
        ),
    )
