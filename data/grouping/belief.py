"""Deciding which pairs of images are copies: the likeness that chance reaches, and groups whose members agree."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.grouping.settings import ASKED, EVERYBODY, FEWEST, LIKE, MARGIN, RANDOM_PAIRS, SEVERAL, SURE, TAIL

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class ClosePair(NamedTuple):
    """A pair of images (by number) near the limit of a search for groups: their likeness, 0 to 1, and whether they came
    into one group."""

    one: int
    other: int
    likeness: float
    joined: bool


class DisjointSets:
    """Disjoint sets of the numbers 0..n-1 (union-find); each set is represented by its smallest member."""

    def __init__(self, n: int) -> None:
        self.parent = list(range(n))
        self.members = {i: [i] for i in range(n)}

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = i = self.parent[self.parent[i]]
        return i

    def join(self, a: int, b: int) -> None:
        a, b = sorted((self.find(a), self.find(b)))
        if a != b:
            self.parent[b] = a
            self.members[a] += self.members.pop(b)

    def labels(self) -> Ints:
        return np.array([self.find(i) for i in range(len(self.parent))], np.int64)


class ComparedPairs:
    """The pairs of images that were compared, with their likeness."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pairs: Ints = np.zeros((0, 2), np.int64)
        self.like: Floats = np.zeros(0, np.float32)
        self._partners: list[dict[int, float]] = [{} for _ in range(count)]

    def add(self, pairs: Ints, like: Floats) -> None:
        """Add pairs [n, 2] with their likeness [n]; no pair may be added twice."""
        self.pairs, self.like = np.concatenate([self.pairs, pairs]), np.concatenate([self.like, like])
        for (a, b), value in zip(pairs.tolist(), like.tolist(), strict=True):
            self._partners[a][b] = self._partners[b][a] = value

    def between(self, some: list[int], others: list[int]) -> list[float]:
        """Return the likeness of all compared pairs with one image in `some` and one in `others`."""
        few, many = sorted((some, others), key=len)
        wanted = set(many)
        return [value for i in few for j, value in self._partners[i].items() if j in wanted]

    def fresh(self, some: list[int], others: list[int], count: int) -> list[tuple[int, int]]:
        """Return at most `count` pairs of an image in `some` and one in `others` that were not compared yet, chosen
        evenly."""
        few, many = sorted((sorted(some), sorted(others)), key=lambda one: (len(one), one))
        step = max(1, len(few) * len(many) // (4 * count))
        places = range(0, len(few) * len(many), step)
        pairs = [(few[k % len(few)], many[(k + k // len(few)) % len(many)]) for k in places]
        untried = dict.fromkeys((min(a, b), max(a, b)) for a, b in pairs if b not in self._partners[a])
        return list(untried)[:count]


def random_pairs(count: int) -> Ints:
    """Draw random pairs [n, 2] of the numbers 0..count-1; if there are only few pairs, return all of them."""
    total = count * (count - 1) // 2
    if total <= RANDOM_PAIRS:
        return np.stack(np.triu_indices(count, 1), axis=1).astype(np.int64)
    drawn = np.sort(np.random.default_rng(0).integers(0, count, (2 * RANDOM_PAIRS, 2)), axis=1)
    _, first = np.unique(drawn[:, 0] * count + drawn[:, 1], return_index=True)
    pairs = drawn[np.sort(first)]
    return np.asarray(pairs[pairs[:, 0] != pairs[:, 1]][:RANDOM_PAIRS])


def reached_by_chance(tried: ComparedPairs, pairs: Ints, like: Floats) -> float:
    """Estimate the highest likeness that a pair of unrelated images in a folder may reach, from random pairs [n, 2].

    Three quantiles, each with a quarter as many pairs above it as the one before, show how the tail of the
    distribution falls off. The tail is continued in the same way, but at least as steeply as an exponential one, to the
    number of pairs in the whole folder. Random pairs that are surely copies are left out, and so are pairs that sure
    pairs put into one group, unless they are more than the share EVERYBODY of the random pairs.
    """
    sure = DisjointSets(tried.count)
    for a, b in tried.pairs[tried.like >= SURE * LIKE].tolist():
        sure.join(a, b)
    label = sure.labels()
    copies = (label[pairs[:, 0]] == label[pairs[:, 1]]) | (like >= SURE * LIKE)
    if copies.mean() <= EVERYBODY:
        like = like[~copies]
    highest = min(TAIL, len(like) // 16)
    if highest < FEWEST:
        return 0.0
    share = highest / len(like)
    first, second, third = map(float, np.quantile(like, [1 - 16 * share, 1 - 4 * share, 1 - share]))
    if third <= second:
        return third
    falls = min(1.0, (third - second) / max(second - first, 1e-9))
    quarters = np.log(share * tried.count * (tried.count - 1) / 2) / np.log(4)
    beyond = (third - second) * falls ** np.arange(1, max(1, round(quarters)) + 1)
    return min(1.0, third + float(beyond.sum()))


def limit_of(chance: float) -> float:
    """Return the likeness that a pair must reach to be taken for copies if chance reaches the likeness `chance`."""
    return min(1.0, max(LIKE, MARGIN * chance))


def group_by_evidence(tried: ComparedPairs, start: Ints, chance: float) -> tuple[Ints, list[tuple[int, int]]]:
    """Return a group number for each image [N], from the compared pairs that are likely copies, and pairs to compare.

    Pairs are considered in order of likeness, the highest first. A sure pair alone joins two groups. So does a pair of
    two single images if chance reaches little (see `reached_by_chance`). For any other pair, at least two pairs and a
    tenth of all pairs that were compared between the two groups must agree; or half of them if all were compared. Two
    groups with too little evidence are not joined, and further pairs between them are proposed. `start` [N] are group
    numbers that are certain.
    """
    sets, limit = DisjointSets(tried.count), limit_of(chance)
    for i, label in enumerate(start.tolist()):
        sets.join(i, label)
    wanted: dict[tuple[int, int], None] = {}
    reach = np.flatnonzero(tried.like >= limit)
    order = reach[np.lexsort((tried.pairs[reach, 1], tried.pairs[reach, 0], -tried.like[reach]))]
    for (a, b), value in zip(tried.pairs[order].tolist(), tried.like[order].tolist(), strict=True):
        a, b = sets.find(a), sets.find(b)
        if a == b:
            continue
        one, other = sets.members[a], sets.members[b]
        if value < SURE * limit and (len(one) + len(other) > 2 or chance > LIKE / 2):
            found = tried.between(one, other)
            agree = sum(like >= limit for like in found)
            several = agree >= 2 and agree >= SEVERAL * len(found)
            most = agree * 2 >= len(found) == len(one) * len(other) > 1
            if not (several or most):
                wanted |= dict.fromkeys(tried.fresh(one, other, ASKED))
                continue
        sets.join(a, b)
    return sets.labels(), list(wanted)
