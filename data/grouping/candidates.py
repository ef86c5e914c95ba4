"""Candidate pairs: the pairs of images that are worth comparing, chosen so that the work grows almost linearly."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from data.grouping.description import Codes, Floats
from data.grouping.settings import CELL, MAX_CELLS, MAX_HAMMING, RANKS, UNIT

MAX_PAIRS = 12_000_000
"""Largest number of pairs of images whose votes are kept at a time: half a gigabyte."""

Ints = NDArray[np.int64]


def ranked_pairs(codes: Sequence[Codes], colour: Floats) -> list[Ints]:
    """Return batches of candidate pairs [n, 2], one for each of RANKS, the nearest neighbours first.

    `codes` are the descriptors [n, 128] of each image, `colour` the colour histograms [N, D]. An image without
    descriptors is in no pair.
    """
    able = np.array([i for i, one in enumerate(codes) if len(one)], np.int64)
    if len(able) < 2:
        return []
    k = RANKS[-1][1]
    tables = (nearest(colour[able], k), _by_votes([codes[i] for i in able], k))
    batches, seen = [], np.zeros(0, np.int64)
    for start, stop in RANKS:
        keys = []
        for table in tables:
            b = table[:, start:stop]
            a = np.broadcast_to(np.arange(len(able))[:, None], b.shape)
            keys.append((np.minimum(a, b) * len(able) + np.maximum(a, b))[b >= 0])
        fresh = np.setdiff1d(np.concatenate(keys), seen)
        seen = np.union1d(seen, fresh)
        batches.append(able[np.stack(np.divmod(fresh, len(able)), axis=1)])
    return batches


def nearest(x: Floats, k: int) -> Ints:
    """Return the k nearest other rows (Euclidean) of each row of x [N, D], the nearest first: [N, min(k, N - 1)]."""
    found = nearest_of(x, x, k + 1)
    itself = found == np.arange(len(x))[:, None]
    # If many rows are the same, a row may not be among its own nearest; then the last one is dropped.
    itself[:, -1] |= ~itself.any(axis=1)
    rest: Ints = found[~itself].reshape(len(x), -1)
    return rest


def nearest_of(x: Floats, base: Floats, k: int) -> Ints:
    """Return the k nearest rows (Euclidean) in base [M, D] of each row of x [N, D], nearest first: [N, min(k, M)]."""
    k = min(k, len(base))
    out = np.zeros((len(x), k), np.int64)
    half = (base**2).sum(axis=1) / 2
    for start in range(0, len(x), 512):
        far = half - x[start : start + 512] @ base.T
        some = np.argpartition(far, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(far, some, 1), axis=1, kind="stable")
        out[start : start + 512] = np.take_along_axis(some, order, 1)
    return out


def near_duplicates(thumbs: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield pairs of images whose thumbnails [N, 16, 16, 3] differ no more than by re-encoding, one perhaps flipped.

    Candidates are the nearest images by the absolute values of cosine coefficients. These ignore flips, and their
    distance is a lower bound of the distance of the thumbnails, so that no pair is missed among the nearest. Small
    things in large images are not seen: see registration.same_detail.
    """
    if len(thumbs) < 2:
        return
    grey = thumbs @ np.array([0.299, 0.587, 0.114], np.float32)
    step = np.arange(16)
    cosines = np.cos(np.pi * (step + 0.5) * step[:, None] / 16) * np.where(step, 8**-0.5, 0.25)[:, None]
    waves = np.abs(cosines @ grey @ cosines.T)[:, :8, :8].reshape(len(thumbs), -1).astype(np.float32)
    limit = 1.0 + 0.03 * grey.std(axis=(1, 2))  # grey levels, root mean square
    for a, row in enumerate(nearest(waves, 10)):
        for b in row[np.sqrt(((waves[row] - waves[a]) ** 2).sum(axis=1)) / 16 <= limit[a]].tolist():
            for way in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                turned = (b, slice(None, None, way[0]), slice(None, None, way[1]))
                off = _rms(grey[a], grey[turned]), _rms(thumbs[a], thumbs[turned])
                if off[0] <= limit[a] and off[1] <= 8 * limit[a]:  # JPEG keeps colours less exactly than brightness
                    yield a, b
                    break


def _rms(a: MatLike, b: MatLike) -> float:
    return float(np.sqrt(((a.astype(np.float32) - b) ** 2).mean()))


def _by_votes(codes: Sequence[Codes], k: int) -> Ints:
    """Return the k images with the most similar descriptors for each image, [N, k]; -1 if there are fewer (Jegou et al.
    2008)."""
    image = np.repeat(np.arange(len(codes)), [len(c) for c in codes])
    cell, bits = _quantised(np.concatenate(codes))
    order = np.argsort(cell, kind="stable")
    image, bits = image[order], bits[order]
    edges = np.flatnonzero(np.diff(cell[order], prepend=-1, append=-1))
    # Large sets need closer agreement: otherwise chance votes, and their memory, grow with the square of the size.
    limit = MAX_HAMMING - int(max(0.0, 1.3 * np.log2(max(len(image), 1) / 1e6)))
    tally = _Tally()
    for start, stop in pairwise(edges.tolist()):
        for low in range(start, stop, 512):
            high = min(low + 512, stop)
            distance = np.bitwise_count(bits[low:high, None] ^ bits[None, low:stop])
            i, j = np.nonzero(distance <= limit)
            a, b = image[low + i], image[low + j]
            keep = (i < j) & (a != b)  # each pair of descriptors once
            key = np.minimum(a, b) * len(codes) + np.maximum(a, b)
            tally.add(key[keep], np.exp(-((distance[i, j][keep] / np.float32(16)) ** 2)))
    pair, score = tally.often()
    return _best(pair, score, len(codes), k)


class _Tally:
    """A tally of votes for pairs that uses bounded memory.

    Repetitive images (the same nuclei everywhere) give votes to nearly all pairs. So if there are more than MAX_PAIRS,
    the pairs with a single vote so far are dropped, then those with the lowest scores. The order of votes is fixed, and
    so is the result.
    """

    def __init__(self) -> None:
        self._pair: Ints = np.zeros(0, np.int64)
        self._score: NDArray[np.float64] = np.zeros(0)
        self._votes: Ints = np.zeros(0, np.int64)
        self._keys: list[Ints] = []
        self._weights: list[Floats] = []
        self._waiting = 0

    def add(self, keys: Ints, weights: Floats) -> None:
        """Add votes for pairs [n], with their weights [n]."""
        self._keys.append(keys)
        self._weights.append(weights)
        self._waiting += len(keys)
        if self._waiting > MAX_PAIRS // 2:
            self._add_up()

    def often(self) -> tuple[Ints, Floats]:
        """Return the pairs with more than one vote (a single vote may be chance), and their scores."""
        self._add_up()
        chosen = self._votes > 1
        return self._pair[chosen], self._score[chosen].astype(np.float32)

    def _add_up(self) -> None:
        keys = np.concatenate([self._pair, *self._keys])
        pair, index = np.unique(keys, return_inverse=True)
        old = len(self._pair)
        weights = np.concatenate([self._score, *self._weights])
        score: NDArray[np.float64] = np.bincount(index, weights, minlength=len(pair)).astype(np.float64)
        votes = np.bincount(index[old:], minlength=len(pair))
        votes[index[:old]] += self._votes
        if len(pair) > MAX_PAIRS:
            often = votes > 1
            pair, score, votes = pair[often], score[often], votes[often]
        if len(pair) > MAX_PAIRS:
            best = np.sort(np.argsort(-score, kind="stable")[:MAX_PAIRS])
            pair, score, votes = pair[best], score[best], votes[best]
        self._pair, self._score, self._votes = pair, score, votes
        self._keys, self._weights, self._waiting = [], [], 0


def _best(pair: Ints, score: Floats, count: int, k: int) -> Ints:
    """Return the k partners of highest score for each image, [count, k], -1 if there are fewer.

    A pair of images a and b is given as a * count + b.
    """
    a, b = np.divmod(pair, count)
    a, b, score = np.concatenate([a, b]), np.concatenate([b, a]), np.concatenate([score, score])
    order = np.lexsort((b, -score, a))
    a, b = a[order], b[order]
    rank = np.arange(len(a)) - np.searchsorted(a, a)
    table = np.full((count, k), -1)
    table[a[rank < k], rank[rank < k]] = b[rank < k]
    return table


def _quantised(codes: Codes) -> tuple[Ints, NDArray[np.uint64]]:
    """Return the cell and 64 bits of each descriptor [n, 128]; a descriptor and its mirror image have the same ones.

    The principal axes and the centres of the cells come from a sample of the descriptors. A cell is a pair of centres,
    one in each of two sets of 16 axes. The bits are the signs of a random rotation around the centre of the cell.
    """
    rng = np.random.default_rng(0)
    sample = _unsigned(codes[np.sort(rng.choice(len(codes), min(len(codes), 60_000), replace=False))])
    mean = sample.mean(axis=0)
    axes = np.linalg.eigh(np.cov((sample - mean).T))[1][:, :-65:-1].astype(np.float32)
    side = int(np.clip(len(codes) / CELL, 1, MAX_CELLS) ** 0.5)
    low = (sample - mean) @ axes
    means = MiniBatchKMeans(side, random_state=0, n_init=1, batch_size=4096, max_iter=30)
    books = [means.fit(np.ascontiguousarray(low[:, half:32:2])).cluster_centers_.astype(np.float32) for half in (0, 1)]
    turn = np.linalg.qr(rng.normal(size=(64, 64)))[0].astype(np.float32)
    cell, bits = np.zeros(len(codes), np.int64), np.zeros(len(codes), np.uint64)
    for start in range(0, len(codes), 50_000):
        rows = slice(start, start + 50_000)
        low = (_unsigned(codes[rows]) - mean) @ axes
        for half, book in enumerate(books):
            part = low[:, half:32:2]
            nearest_centre = ((book**2).sum(axis=1) / 2 - part @ book.T).argmin(axis=1)
            cell[rows] = cell[rows] * side + nearest_centre
            low[:, half:32:2] = part - book[nearest_centre]
        bits[rows] = np.packbits(low @ turn > 0, axis=1).view(np.uint64).ravel()
    return cell, bits


def _unsigned(codes: Codes) -> Floats:
    """Return descriptors without the signs that mirroring changes."""
    values = codes.astype(np.float32) / UNIT
    values[:, 64:] = np.abs(values[:, 64:])
    return values
