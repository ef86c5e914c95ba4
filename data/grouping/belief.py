"""Which pairs of images are believed to be copies: what chance reaches in a folder, and groups whose members agree."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.grouping.settings import ASKED, EVERYBODY, FEWEST, LIKE, MARGIN, RANDOM_PAIRS, SEVERAL, SURE, TAIL

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Close(NamedTuple):
    """Two images (by number) near the decision of a search for groups: how alike they are, 0 to 1, and whether they
    came into one group."""

    one: int
    other: int
    likeness: float
    joined: bool


class Sets:
    """Disjoint sets of 0..n-1 (union-find); the smallest member stands for its set."""

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


class Tried:
    """Pairs of images that were compared, and how alike they are."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pairs: Ints = np.zeros((0, 2), np.int64)
        self.like: Floats = np.zeros(0, np.float32)
        self._partners: list[dict[int, float]] = [{} for _ in range(count)]

    def add(self, pairs: Ints, like: Floats) -> None:
        """Pairs [n, 2] and their likeness [n]; none of them twice."""
        self.pairs, self.like = np.concatenate([self.pairs, pairs]), np.concatenate([self.like, like])
        for (a, b), value in zip(pairs.tolist(), like.tolist(), strict=True):
            self._partners[a][b] = self._partners[b][a] = value

    def between(self, some: list[int], others: list[int]) -> list[float]:
        """Likeness of all tried pairs with one image among `some`, and one among `others`."""
        few, many = sorted((some, others), key=len)
        wanted = set(many)
        return [value for i in few for j, value in self._partners[i].items() if j in wanted]

    def fresh(self, some: list[int], others: list[int], count: int) -> list[tuple[int, int]]:
        """Pairs of the two that were not tried yet, at most so many, taken evenly."""
        few, many = sorted((sorted(some), sorted(others)), key=lambda one: (len(one), one))
        step = max(1, len(few) * len(many) // (4 * count))
        places = range(0, len(few) * len(many), step)
        pairs = [(few[k % len(few)], many[(k + k // len(few)) % len(many)]) for k in places]
        untried = dict.fromkeys((min(a, b), max(a, b)) for a, b in pairs if b not in self._partners[a])
        return list(untried)[:count]


def random_pairs(count: int) -> Ints:
    """Pairs of 0..count-1 [n, 2], drawn without regard to anything; all there are, where these are few."""
    total = count * (count - 1) // 2
    if total <= RANDOM_PAIRS:
        return np.stack(np.triu_indices(count, 1), axis=1).astype(np.int64)
    drawn = np.sort(np.random.default_rng(0).integers(0, count, (2 * RANDOM_PAIRS, 2)), axis=1)
    _, first = np.unique(drawn[:, 0] * count + drawn[:, 1], return_index=True)
    pairs = drawn[np.sort(first)]
    return np.asarray(pairs[pairs[:, 0] != pairs[:, 1]][:RANDOM_PAIRS])


def reached_by_chance(tried: Tried, pairs: Ints, like: Floats) -> float:
    """The likeness that one pair of unrelated images in a folder may reach, from random pairs [n, 2] of it.

    Three quantiles, each for a quarter of the pairs above the one before, tell how the tail falls off; it is continued
    so, no slower than an exponential one, to as many pairs as the folder has. Random pairs that are surely copies are
    left out, as are others of the same group by sure pairs alone, unless nearly everything is.
    """
    sure = Sets(tried.count)
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
    """The likeness that a pair must reach where chance reaches so much."""
    return min(1.0, max(LIKE, MARGIN * chance))


def believed(tried: Tried, start: Ints, chance: float) -> tuple[Ints, list[tuple[int, int]]]:
    """A group number for each image [N] from the tried pairs that are likely copies, and what else should be tried.

    The likest pairs come first. A sure one joins two groups alone, as does one of two single images where chance
    reaches little (see `reached_by_chance`); any other needs a second that agrees and a tenth of all that were tried
    between the two groups, or half where all were. What hangs by a thread is left apart, and further pairs across are
    named. start [N]: groups that are certain.
    """
    sets, limit = Sets(tried.count), limit_of(chance)
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
