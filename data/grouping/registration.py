"""One image described, two images laid over each other: the part of `groups` that looks at pixels."""

import ctypes
import hashlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from PIL import ImageOps
from threadpoolctl import threadpool_limits

from data import processes
from data.grouping.settings import (
    FITS,
    KEYPOINTS,
    MAX_SKEW,
    MIN_INLIERS,
    MIN_SIDE,
    NEAR,
    NEARER,
    RATIO,
    SIDE,
    STIFF,
    UNIT,
)
from data.images import opened, to_rgb

Codes = NDArray[np.int8]
Floats = NDArray[np.float32]
Complexes = NDArray[np.complex64]


class Described(NamedTuple):
    """One image: hash of its decoded pixels; thumbnail uint8 [16, 16, 3]; colour histogram [512] of unit
    length; keypoints [n, 4] (x, y, log of size, angle in radians); descriptors [n, 128]. n = 0 where it
    cannot be registered."""

    digest: bytes
    thumb: NDArray[np.uint8]
    colour: Floats
    points: Floats
    codes: Codes


def describe(path: str) -> Described:
    """Decode and describe one file. Raises OSError, naming it, if it is no image."""
    try:
        with opened(Path(path)) as image:
            pixels: MatLike = np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except Exception as error:
        raise OSError(f"{path}: cannot be read as an image ({error})") from error
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, person=f"{height}x{width}".encode()[:16]).digest()
    thumb = cv2.resize(pixels, (16, 16), interpolation=cv2.INTER_AREA)
    scale = SIDE / (height * width) ** 0.5
    target = (max(8, round(width * scale)), max(8, round(height * scale)))
    scaled = cv2.resize(pixels, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    points, codes = _keypoints(scaled) if min(height, width) >= MIN_SIDE else _no_keypoints()
    return Described(digest, thumb.astype(np.uint8), _colour(scaled), points, codes)


def _no_keypoints() -> tuple[Floats, Codes]:
    return np.zeros((0, 4), np.float32), np.zeros((0, 128), np.int8)


def _colour(pixels: MatLike) -> Floats:
    """Square root of the LAB histogram of the central disc: rotation and flips leave it as it is."""
    height, width = pixels.shape[:2]
    disc = np.zeros((height, width), np.uint8)
    cv2.circle(disc, (width // 2, height // 2), min(height, width) // 2, (255,), -1)
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    # Tissue is pink and violet: finer bins around the neutral axis; what lies outside is left out of the
    # histogram.
    histogram = cv2.calcHist([lab], [0, 1, 2], disc, [8, 8, 8], [0, 256, 100, 200, 80, 180]).ravel()
    unit: Floats = np.sqrt(histogram / max(float(histogram.sum()), 1.0)).astype(np.float32)
    return unit


def _keypoints(pixels: MatLike) -> tuple[Floats, Codes]:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    detector = cv2.SIFT_create(nfeatures=KEYPOINTS)  # type: ignore[attr-defined]
    found, raw = detector.detectAndCompute(grey, None)
    if raw is None or len(found) < MIN_INLIERS:
        return _no_keypoints()
    points = np.array([(k.pt[0], k.pt[1], np.log(k.size), np.deg2rad(k.angle)) for k in found], np.float32)
    root = np.sqrt(raw / (raw.sum(axis=1, keepdims=True) + 1e-6))
    # The descriptor of a mirrored patch has its 4x4 grid turned over and its 8 directions reversed. Kept are
    # sum and difference of the two halves that change places, so that mirroring is a change of sign in the
    # second half.
    grid = root.reshape(-1, 4, 4, 8)
    mirrored = grid[:, ::-1, :, (-np.arange(8)) % 8]
    halves = np.concatenate([(grid + mirrored)[:, :2], (grid - mirrored)[:, :2]], axis=1) / 2**0.5
    return points, np.clip(np.rint(halves.reshape(-1, 128) * UNIT), -127, 127).astype(np.int8)


class Shelf:
    """Keypoints and descriptors of many images in files, mapped into memory by every process that needs
    them."""

    def __init__(self, folder: Path) -> None:
        self.points, self.codes = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("points", "codes"))
        self.start = np.load(folder / "start.npy")

    def __getitem__(self, i: int) -> tuple[Floats, Floats]:
        rows = slice(self.start[i], self.start[i + 1])
        return np.asarray(self.points[rows]), np.asarray(self.codes[rows], np.float32) / UNIT

    @staticmethod
    def save(folder: Path, images: Sequence[Described]) -> None:
        """Write what `Shelf(folder)` reads."""
        nothing = _no_keypoints()
        np.save(folder / "start.npy", np.cumsum([0, *(len(image.codes) for image in images)]))
        np.save(folder / "points.npy", np.concatenate([nothing[0], *(image.points for image in images)]))
        np.save(folder / "codes.npy", np.concatenate([nothing[1], *(image.codes for image in images)]))


@lru_cache(maxsize=1)
def _shelf(folder: str) -> Shelf:
    return Shelf(Path(folder))


def count_inliers(job: tuple[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """`inliers` of pairs [n, 2] of images on the shelf in a folder."""
    shelf = _shelf(job[0])
    return np.array([inliers(shelf[a], shelf[b]) for a, b in job[1].tolist()], np.int64)


def inliers(one: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> int:
    """How many keypoints of one image lie where the best similarity transform, mirrored or not, puts them in
    the other."""
    (p, a), (q, b) = one, other
    even, odd = a[:, :64] @ b[:, :64].T, a[:, 64:] @ b[:, 64:].T
    mirror = np.array([-1, 1, 1, -1], np.float32)
    upright = _agreeing(p, q, *_matches(even + odd))
    turned = q * mirror + np.array([0, 0, 0, np.pi], np.float32)  # x -> -x, angle -> pi - angle
    return max(upright, _agreeing(p, turned, *_matches(even - odd)))


def _matches(similarity: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns that are each other's best and clearly better than the row's second best."""
    rows = np.arange(len(similarity))
    best = similarity.argmax(axis=1)
    top = similarity[rows, best]
    mutual = similarity.argmax(axis=0)[best] == rows
    similarity[rows, best] = -1.0
    # Unit vectors: squared distance = 2 - 2 * similarity.
    keep = mutual & (1 - top < RATIO**2 * (1 - similarity.max(axis=1)))
    return rows[keep], best[keep]


def _agreeing(p: Floats, q: Floats, i: NDArray[np.int64], j: NDArray[np.int64]) -> int:
    """The largest number of matches under one transform of the plane (points are complex numbers).

    Every match alone names a transform, by the sizes and angles of its keypoints; the three with most support
    are fitted again to those that support them (least squares), until these stay the same.
    """
    if len(i) < MIN_INLIERS:
        return 0
    zp, zq = p[i, 0] + 1j * p[i, 1], q[j, 0] + 1j * q[j, 1]
    growth, angle = q[j, 2] - p[i, 2], q[j, 3] - p[i, 3]
    turn = np.exp(growth + 1j * angle)
    error = np.abs(turn[:, None] * (zp[None] - zp[:, None]) + zq[:, None] - zq[None])
    near = error < NEAR * np.maximum(1, np.exp(growth))[:, None]
    near &= np.abs(growth[:, None] - growth) < 0.45
    near &= np.abs(np.angle(turn[:, None] / turn)) < 0.5
    support = near.sum(axis=1)
    best = 0
    for seed in np.argsort(-support, kind="stable")[:3]:
        if support[seed] >= 3:
            best = max(best, _fitted(zp, zq, near[seed]))
    return best


def _fitted(zp: Complexes, zq: Complexes, chosen: NDArray[np.bool_]) -> int:
    """Matches that agree with z -> turn * z + skew * conj(z) + shift, fitted to the chosen ones and then to
    those that agree: an affine transform in complex numbers, a similarity where skew is 0 (to which few
    matches are held)."""
    for _ in range(FITS):
        start, goal = zp[chosen].mean(), zq[chosen].mean()
        arms = np.stack([zp - start, np.conj(zp - start)], axis=1)
        some = arms[chosen]
        normal = np.conj(some.T) @ some + np.diag([1.0, STIFF])
        turn, skew = np.linalg.solve(normal, np.conj(some.T) @ (zq[chosen] - goal))
        if abs(skew) > MAX_SKEW * abs(turn):
            return 0
        again = np.abs(arms @ np.array([turn, skew]) + goal - zq) < NEARER * max(1.0, abs(turn))
        if again.sum() < 3:
            return 0
        if (again == chosen).all():
            break
        chosen = again
    # One place with several orientations counts once.
    return min(len(np.unique(np.round(z[chosen] / 3))) for z in (zp, zq))


PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal that a process gets when its parent dies."""

Map = Callable[[Callable[[Any], Any], Sequence[Any], int], Iterator[Any]]
"""map(function, items, chunk), in order."""


ALONE_SECONDS = 1.0
"""Of work before other processes are started, which takes longer than that."""


@contextmanager
def processes_map(processes: int | None, count: int) -> Iterator[Map]:
    """A map over so many processes, one thread in each.

    None: over one for each core, but in this one until `ALONE_SECONDS` of work are done: little work ends sooner so.
    """
    workers = min(processes or os.cpu_count() or 1, count // 32)
    alone = math.inf if workers <= 1 else 0.0 if processes else ALONE_SECONDS
    threads = cv2.getNumThreads()
    with ExitStack() as stack:
        pool: list[ProcessPoolExecutor] = []

        def mapping(function: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterator[Any]:
            nonlocal alone
            for number, item in enumerate(items):
                if alone <= 0:
                    pool.extend([] if pool else [stack.enter_context(_pool(workers))])
                    yield from pool[0].map(function, items[number:], chunksize=chunk)
                    return
                began = time.monotonic()
                found = function(item)
                alone -= time.monotonic() - began
                yield found

        try:
            cv2.setNumThreads(1)
            stack.enter_context(threadpool_limits(1))
            yield mapping
        finally:
            cv2.setNumThreads(threads)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    # Not forked: the threads of torch and BLAS do not survive it.
    started = processes.pool(workers, _start_worker)
    try:
        yield started
    finally:
        started.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """One thread; the keyboard's interrupt is the parent's business; nobody outlives a parent that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = parent_process()
    if parent is not None and not parent.is_alive():  # it died before we could ask to follow it
        os._exit(1)
    cv2.setNumThreads(1)
    threadpool_limits(1)
