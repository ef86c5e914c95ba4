"""Finding which images share a source, from pixels alone, so that a split can keep copies together.

Augmented copies (rotated, flipped, zoomed, re-encoded, brightened) show the same structures. So two images are siblings
if one can be laid over the other and their fine detail agrees. The search has five steps:

1. describe   SIFT keypoints of the grey image at a common size (Lowe 2004; RootSIFT, Arandjelovic and Zisserman 2012)
              in a basis where mirroring only flips signs; colour histogram of the central disc; a thumbnail
2. candidates the nearest images by colour, and by votes of quantised descriptors (Hamming embedding, Jegou et al.
              2008): some 20 pairs per image, whatever the number of images
3. register   mutual matches that pass the ratio test vote for one transform, mirrored or not; the images are laid over
              each other by it, and the likeness of the pair says how well they agree
4. chance     random pairs show what likeness unrelated images reach in this folder; a pair must reach more
5. groups     the most alike pairs join groups first; if only one pair that is not sure connects two groups, further
              pairs between them are compared, and without their support the groups stay apart

It cannot find patients: two tiles of one slide that do not overlap have nothing to register.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from data.cache import publish
from data.grouping.belief import (
    ClosePair,
    ComparedPairs,
    DisjointSets,
    group_by_evidence,
    limit_of,
    random_pairs,
    reached_by_chance,
)
from data.grouping.candidates import near_duplicates, ranked_pairs
from data.grouping.crew import Map, processes_map
from data.grouping.description import Shelf, describe
from data.grouping.registration import likenesses, same_detail
from data.grouping.settings import BLIND, BRIDGES, CROSSING, LIKE, LONELY, MIN_SIDE, RARE

BATCH, KEPT = 256, 8192
"""Number of pairs that a process registers at a time, and number of pairs whose likeness is kept together on disk."""
EDGE = 12
"""Number of pairs just above the limit, and just below it, that are shown to people."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Groups:
    """A partition of images by source, and how it was found.

    `group` [N] are group numbers from 0, in the order of the groups' first members. `method` says in words how the
    groups were found. `duplicates` are sets of images whose decoded pixels are the same. `tried` and `joined` are the
    numbers of pairs that were registered and that agreed. `limit` is the likeness, 0 to 1, that a pair must reach in
    this folder, and `told` whether copies can be told from other images here. `close` are the pairs nearest to
    `limit`.
    """

    group: Ints
    method: str
    duplicates: tuple[tuple[int, ...], ...]
    tried: int
    joined: int
    limit: float
    told: bool
    close: tuple[ClosePair, ...]


def find_groups(
    paths: Sequence[Path],
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    keep: Path | None = None,
) -> Groups:
    """Partition images by common source; neither the order of the paths nor the number of processes changes the result.

    `progress(done, total)` is called from this process. `keep` is a folder for intermediate results, from which an
    interrupted search continues. Raises OSError, which names the path, for a file that is no image.
    """
    tell = progress or (lambda done, total: None)
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="groups-")))
        folder.mkdir(parents=True, exist_ok=True)
        mapping = stack.enter_context(processes_map(processes, len(paths)))
        return _Search(folder, mapping, tell).run(paths)


class _Search:
    """One search for groups, with the folder of its intermediate results, the map that runs its work, and its progress
    function."""

    def __init__(self, folder: Path, mapping: Map, tell: Callable[[int, int], None]) -> None:
        self._folder, self._mapping, self._tell = folder, mapping, tell
        self._shelf = Shelf(folder)
        self._first: Ints = np.zeros(0, np.int64)
        self._done = self._total = 0

    def run(self, paths: Sequence[Path]) -> Groups:
        total = len(paths)
        for done in self._shelf.fill([str(path) for path in paths], lambda some: self._mapping(describe, some, 16)):
            self._tell(done, 2 * total)
        if not total:
            return Groups(np.zeros(0, np.int64), _sentence(0, 0, 0, 0, LIKE), (), 0, 0, LIKE, True, ())
        # Each set of exact duplicates is handled once, in the order of the contents, so that neither the names of files
        # nor their order matter.
        _, self._first, content = np.unique(self._shelf.all("digest", total), return_index=True, return_inverse=True)
        codes = [self._shelf.codes(i) for i in self._first.tolist()]
        with threadpool_limits(1):  # sums must not depend on the number of threads
            near = near_duplicates(self._shelf.all("thumb", total)[self._first])
            certain = _joined(len(codes), (pair for pair in near if self._same_detail(*pair)))
            batches = ranked_pairs(codes, self._shelf.all("colour", total)[self._first])
        empty = np.array([not len(one) for one in codes])
        del codes
        tried, chance = self._compared(batches, certain, total)
        limit = limit_of(chance)
        labels, _ = group_by_evidence(tried, certain, chance) if chance < BLIND else (certain, [])
        self._tell(2 * total, 2 * total)
        told = chance < BLIND
        joined = int((tried.like >= limit).sum()) if told else 0
        return Groups(
            group=_numbered(labels[content]),
            method=_sentence(total, int(empty[content].sum()), len(tried.like), joined, limit, told=told),
            duplicates=tuple(
                sorted(tuple(np.flatnonzero(content == i).tolist()) for i in np.flatnonzero(np.bincount(content) > 1))
            ),
            tried=len(tried.like),
            joined=joined,
            limit=limit,
            told=told,
            close=self._close(tried, labels, limit),
        )

    def _same_detail(self, a: int, b: int) -> bool:
        return same_detail(*(self._shelf[self._first[i]].grey for i in (a, b)))

    def _compared(self, batches: Sequence[Ints], start: Ints, images: int) -> tuple[ComparedPairs, float]:
        """Register the candidate pairs; return them with their likeness, and the likeness that chance reaches here."""
        tried = ComparedPairs(len(self._first))
        if not batches:
            return tried, 0.0
        drawn = _drawn(batches)
        self._done, self._total = 0, len(drawn) + sum(len(batch) for batch in batches)
        for number, batch in enumerate(batches[:-1]):
            tried.add(batch, self._registered(batch, f"batch-{number}", images))
        chance = reached_by_chance(tried, drawn, self._registered(drawn, "random", images))
        last = batches[-1]
        if chance < BLIND:
            promising = float((tried.like[-len(batches[-2]) :] >= limit_of(chance)).mean()) >= RARE
            chosen = last[_last_chances(last, group_by_evidence(tried, start, chance)[0])] if promising else last[:0]
            self._done += len(last) - len(chosen)
            tried.add(chosen, self._registered(chosen, "batch-last", images))
            _, wanted = group_by_evidence(tried, start, chance)
            more = np.array(wanted, np.int64).reshape(-1, 2)
            tried.add(more, self._registered(more, "asked", images))
        return tried, chance

    def _registered(self, pairs: Ints, name: str, images: int) -> Floats:
        """Return the likeness [n] of pairs [n, 2] of different images; it is kept on disk in pieces."""
        found = [np.zeros(0, np.float32)]
        for number, start in enumerate(range(0, len(pairs), KEPT)):
            some = self._first[pairs[start : start + KEPT]]
            place = self._folder / f"{name}-{number:05d}"
            if (known := _known(place, some)) is None:
                jobs = [(str(self._folder), some[i : i + BATCH]) for i in range(0, len(some), BATCH)]
                pieces = []
                for piece in self._mapping(likenesses, jobs, 1):
                    pieces.append(piece)
                    ready = self._done + sum(map(len, pieces))
                    self._tell(images + images * min(ready, self._total) // max(self._total, 1), 2 * images)
                known = np.concatenate(pieces)
                publish(place, partial(_keep, pairs=some, like=known))
            self._done += len(some)
            found.append(known)
        return np.concatenate(found)

    def _close(self, tried: ComparedPairs, labels: Ints, limit: float) -> tuple[ClosePair, ...]:
        """Return the pairs nearest to `limit`, the most alike first."""
        above, below = np.flatnonzero(tried.like >= limit), np.flatnonzero((tried.like < limit) & (tried.like > 0))
        near = [*above[np.argsort(tried.like[above], kind="stable")[:EDGE]].tolist()]
        near += below[np.argsort(-tried.like[below], kind="stable")[:EDGE]].tolist()
        pairs = [(*tried.pairs[i].tolist(), float(tried.like[i])) for i in near]
        return tuple(
            ClosePair(int(self._first[a]), int(self._first[b]), round(like, 4), bool(labels[a] == labels[b]))
            for a, b, like in sorted(pairs, key=lambda one: (-one[2], one[:2]))
        )


def _joined(count: int, pairs: Iterable[tuple[int, int]]) -> Ints:
    """Return a label for each image [N], the same for the images that the pairs connect."""
    sets = DisjointSets(count)
    for pair in pairs:
        sets.join(*pair)
    return sets.labels()


def _drawn(batches: Sequence[Ints]) -> Ints:
    """Draw random pairs [n, 2] of the images that can be registered, which are those that occur in the batches."""
    able = np.unique(np.concatenate(batches))
    return able[random_pairs(len(able))]


def _known(place: Path, pairs: Ints) -> Floats | None:
    """Read the likeness of these pairs as an interrupted search kept it; None if there is none."""
    try:
        like = np.load(place / "like.npy")
        return like if np.array_equal(np.load(place / "pairs.npy"), pairs) else None
    except (OSError, ValueError):
        return None


def _keep(folder: Path, pairs: Ints, like: Floats) -> None:
    np.save(folder / "pairs.npy", pairs)
    np.save(folder / "like.npy", like)


def _sentence(count: int, small: int, tried: int, joined: int, limit: float, *, told: bool = True) -> str:
    if tried and not told:
        return (
            "only exact and near duplicates: random images of this folder are as alike as copies would be "
            f"(a copy would need a likeness above {limit:.2f}), so it is not known which images share a source"
        )
    registered = (
        f"registration (SIFT matches under one affine transform, mirrored or not, and the same fine detail: more than "
        f"the {limit:.2f} that chance may reach here) joined {joined:,} of {tried:,} candidate pairs; exact and near "
        "duplicates joined too"
    )
    alone = (
        f"only exact and near duplicates for {small:,} of {count:,} images,"
        f" smaller than {MIN_SIDE} px or without structure"
    )
    return alone if small == count else f"{registered}; {alone}" if small else registered


def _numbered(labels: Ints) -> Ints:
    _, first, back = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[back].astype(np.int64)


def _last_chances(batch: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which pairs [n, 2] of the last batch, which is large and has few copies, are worth registering.

    `label` are the groups so far. Worth registering are all pairs of an image that is still (almost) alone, and BRIDGES
    pairs between any two groups with at least CROSSING candidate pairs between them. The latter are needed because many
    copies may fall into several groups, each of which holds all nearest neighbours of its members.
    """
    ends = np.sort(label[batch], axis=1)
    _, between, crossing = np.unique(ends[:, 0] * len(label) + ends[:, 1], return_inverse=True, return_counts=True)
    order = np.argsort(between, kind="stable")
    position = np.empty(len(batch), np.int64)
    position[order] = np.arange(len(batch)) - np.repeat(np.cumsum(crossing) - crossing, crossing)
    count = crossing[between]
    spread = np.maximum(count // BRIDGES, 1)  # chosen evenly from the list, not all from one image
    bridge = (count >= CROSSING) & (position % spread == 0) & (position < BRIDGES * spread)
    lonely = np.bincount(label)[ends].min(axis=1) <= LONELY if len(batch) else bridge
    chosen: NDArray[np.bool_] = bridge | lonely
    return chosen
