"""Which images share a source? Found from pixels alone, so that a split can keep the copies together.

Augmented copies (rotated, flipped, zoomed, re-encoded) show the same structures, so two images are siblings
when one can be laid over the other. Four steps:

1. describe   SIFT keypoints of the grey image at a common size (Lowe 2004; RootSIFT, Arandjelovic and
Zisserman 2012)
              in a basis where mirroring only flips signs; colour histogram of the central disc; a thumbnail
2. candidates the nearest images by colour, and by votes of quantised descriptors (Hamming embedding, Jegou et
al.
              2008): some 20 pairs an image, whatever the number of images
3. register   mutual matches that pass the ratio test vote for one transform, mirrored or not
4. components pairs with at least MIN_INLIERS matches in agreement, and near duplicates, are connected

It cannot find patients: two tiles of one slide that do not overlap have nothing to register.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from data.grouping.candidates import near_duplicates, ranked_pairs
from data.grouping.registration import (
    Described,
    Map,
    Shelf,
    count_inliers,
    describe,
    processes_map,
)
from data.grouping.settings import BRIDGES, CROSSING, LONELY, MIN_INLIERS, MIN_SIDE

BATCH = 256
"""Pairs that a process registers at a time."""


@dataclass(frozen=True)
class Groups:
    """Who belongs together, and how that was found.

    `group` [N] is 0-based and numbered by first member; `duplicates` are sets of images whose decoded pixels
    are the same; `tried` and `joined` count the pairs that were registered and that agreed.
    """

    group: NDArray[np.int64]
    method: str
    duplicates: tuple[tuple[int, ...], ...]
    tried: int
    joined: int


def find_groups(
    paths: Sequence[Path],
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Groups:
    """Partition images by common source: the same for any order of the paths and any number of processes.

    `progress(done, total)` is called from this process. Raises OSError, naming the path, for a file that is
    no image.
    """
    tell = progress or (lambda done, total: None)
    with processes_map(processes, len(paths)) as mapping:
        return _found(paths, mapping, tell)


def _found(paths: Sequence[Path], mapping: Map, tell: Callable[[int, int], None]) -> Groups:
    described: list[Described] = []
    for one in mapping(describe, [str(path) for path in paths], 16):
        described.append(one)
        tell(len(described), 2 * len(paths))
    # Exact duplicates are handled once, and in the order of their content: file names and their order decide
    # nothing.
    _, first, content = np.unique(
        np.array([one.digest for one in described], dtype="V16"), return_index=True, return_inverse=True
    )
    images = [described[i] for i in first]
    described.clear()
    sets = _Sets(len(images))
    with threadpool_limits(1):  # sums must not depend on the number of threads
        if images:
            for pair in near_duplicates(np.stack([image.thumb for image in images])):
                sets.join(*pair)
        batches = ranked_pairs(images)
    total = sum(len(batch) for batch in batches) or 1
    tried, joined = _register(
        images,
        batches,
        sets,
        mapping,
        lambda done: tell(len(paths) + len(paths) * done // total, 2 * len(paths)),
    )
    tell(2 * len(paths), 2 * len(paths))
    small = int(np.isin(content, [i for i, image in enumerate(images) if not len(image.codes)]).sum())
    return Groups(
        group=_numbered(sets.labels()[content]),
        method=_sentence(len(paths), small, tried, joined),
        duplicates=tuple(
            sorted(tuple(np.flatnonzero(content == i).tolist()) for i in np.flatnonzero(np.bincount(content) > 1))
        ),
        tried=tried,
        joined=joined,
    )


def _sentence(count: int, small: int, tried: int, joined: int) -> str:
    registered = (
        f"registration ({MIN_INLIERS} or more SIFT matches under one affine transform, mirrored or not)"
        f" joined {joined:,} of {tried:,} candidate pairs; exact and near duplicates joined too"
    )
    alone = (
        f"only exact and near duplicates for {small:,} of {count:,} images,"
        f" smaller than {MIN_SIDE} px or without structure"
    )
    return alone if small == count else f"{registered}; {alone}" if small else registered


class _Sets:
    """Disjoint sets of 0..n-1 (union-find); the smallest member stands for its set."""

    def __init__(self, n: int) -> None:
        self.parent = list(range(n))

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = i = self.parent[self.parent[i]]
        return i

    def join(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        self.parent[max(a, b)] = min(a, b)

    def labels(self) -> NDArray[np.int64]:
        return np.array([self.find(i) for i in range(len(self.parent))], np.int64)


def _numbered(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    _, first, back = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[back].astype(np.int64)


def _last_chances(batch: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pairs [n, 2] of the last batch, long and poor, are worth registering, given the groups so far.

    All of an image that is still (almost) alone; and, lest many copies fall into groups that hold all of each
    other's nearest neighbours, BRIDGES pairs of any two groups with CROSSING candidates between them.
    """
    ends = np.sort(label[batch], axis=1)
    _, between, crossing = np.unique(ends[:, 0] * len(label) + ends[:, 1], return_inverse=True, return_counts=True)
    order = np.argsort(between, kind="stable")
    position = np.empty(len(batch), np.int64)
    position[order] = np.arange(len(batch)) - np.repeat(np.cumsum(crossing) - crossing, crossing)
    count = crossing[between]
    spread = np.maximum(count // BRIDGES, 1)  # evenly through the list: not all of them of one image
    bridge = (count >= CROSSING) & (position % spread == 0) & (position < BRIDGES * spread)
    lonely = np.bincount(label)[ends].min(axis=1) <= LONELY if len(batch) else bridge
    chosen: NDArray[np.bool_] = bridge | lonely
    return chosen


def _register(
    images: Sequence[Described],
    batches: Sequence[NDArray[np.int64]],
    sets: _Sets,
    mapping: Map,
    tell: Callable[[int], None],
) -> tuple[int, int]:
    """Join the candidate pairs that register; returns how many were tried and joined.

    Pairs already connected through others are skipped: that saves work and cannot change the components.
    """
    done = tried = joined = 0
    with tempfile.TemporaryDirectory(prefix="groups-") as folder:
        Shelf.save(Path(folder), images)  # the processes map one copy into memory
        for number, batch in enumerate(batches, 1):
            label = sets.labels()
            worth = label[batch[:, 0]] != label[batch[:, 1]]
            if number == len(batches):
                worth &= _last_chances(batch, label)
            pairs = batch[worth]
            jobs = [(folder, pairs[i : i + BATCH]) for i in range(0, len(pairs), BATCH)]
            done += len(batch) - len(pairs)
            for (_, job), counts in zip(jobs, mapping(count_inliers, jobs, 1), strict=True):
                agree = counts >= MIN_INLIERS
                for a, b in job[agree].tolist():
                    sets.join(a, b)
                done, tried, joined = done + len(job), tried + len(job), joined + int(agree.sum())
                tell(done)
    return tried, joined
