"""Parts of a dataset: train, val, cal and test, whole by group, stratified by class, saved with their hash."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data import DataError

SHARES = {"train": 0.60, "val": 0.14, "cal": 0.06, "test": 0.20}
"""The protocol's parts: the search sees train and val; cal calibrates; test is opened once."""

RANDOM_TRAIN = 0.80
"""Share of training images in the published reference's split; the rest is val."""

Index = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Sorted image indices of each part, and the hash that identifies the split."""

    train: Index
    val: Index
    cal: Index
    test: Index
    hash: str

    def counts(self) -> dict[str, int]:
        """Images in each part."""
        return {name: len(getattr(self, name)) for name in SHARES}


def random_parts(count: int, paths: Sequence[str], seed: int) -> Parts:
    """The leaky split: 80 % train, 20 % val, image by image, copies of one source on both sides; no cal, no test."""
    order = np.random.default_rng(seed).permutation(count)
    cut = round(RANDOM_TRAIN * count)
    nothing = np.zeros(0, np.int64)
    index = {"train": np.sort(order[:cut]), "val": np.sort(order[cut:]), "cal": nothing, "test": nothing}
    return Parts(hash=_hash(index, paths), **index)


def make_parts(labels: Index, groups: Index, classes: Sequence[str], paths: Sequence[str], seed: int) -> Parts:
    """Assign whole groups to parts so that each class comes as near to the protocol's shares as groups allow.

    labels, groups: [N]. Large groups go first, each to the part whose squared shortfall shrinks most; the last
    groups of a class go where the class is still missing, so every part has every class. Deterministic in the seed.
    Raises DataError when a class has fewer groups than there are parts.
    """
    table = _class_counts(labels, groups, len(classes))
    _check_groups(table, classes)
    part_of = _assign(table, seed)
    names = list(SHARES)
    index = {name: np.flatnonzero(part_of[groups] == number) for number, name in enumerate(names)}
    for number, name in enumerate(names):
        lacking = np.flatnonzero(np.bincount(labels[index[name]], minlength=len(classes)) == 0)
        if len(lacking):
            raise DataError(
                f"class {classes[lacking[0]]} has too few separate groups for the {names[number]} part "
                f"(its groups are shared with other classes); add images of new sources"
            )
    owners = [set(groups[part].tolist()) for part in index.values()]
    assert sum(map(len, owners)) == len(set().union(*owners)), "a group on both sides of a split"
    return Parts(hash=_hash(index, paths), **index)


def _class_counts(labels: Index, groups: Index, classes: int) -> NDArray[np.int64]:
    """Images of each class in each group: [G, K]."""
    table = np.zeros((int(groups.max()) + 1, classes), np.int64)
    np.add.at(table, (groups, labels), 1)
    return table


def _check_groups(table: NDArray[np.int64], classes: Sequence[str]) -> None:
    owned = (table > 0).sum(axis=0)
    worst = int(owned.argmin())
    if owned[worst] < len(SHARES):
        raise DataError(
            f"class {classes[worst]} has {table[:, worst].sum()} images of {owned[worst]} sources; "
            f"the parts {', '.join(SHARES)} need at least {len(SHARES)} sources a class (add images, or leave it out)"
        )


def _assign(table: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Part number of each group: [G]."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(table))
    order = order[np.argsort(-table[order].sum(axis=1), kind="stable")]
    targets = np.outer(list(SHARES.values()), table.sum(axis=0)).astype(np.float64)  # [P, K] images wanted
    filled = np.zeros_like(targets)
    left = (table > 0).sum(axis=0)  # groups of each class still to be placed
    part_of = np.full(len(table), -1, np.int64)
    for group in order:
        counts = table[group]
        mine = counts > 0
        missing = filled == 0  # [P, K]
        pressed = mine & (left <= missing.sum(axis=0))  # classes that cannot spare this group
        allowed = missing[:, pressed].any(axis=1) if pressed.any() else np.ones(len(targets), bool)
        if not allowed.any():
            allowed[:] = True
        # Change of the squared shortfall, relative to what each part should hold.
        change = ((counts * (counts + 2 * (filled - targets))) / np.maximum(targets, 1e-9)).sum(axis=1)
        part = int(np.where(allowed, change, np.inf).argmin())
        part_of[group] = part
        filled[part] += counts
        left -= mine
    return part_of


def _hash(index: dict[str, Index], paths: Sequence[str]) -> str:
    total = hashlib.sha256()
    for name in SHARES:
        total.update(f"{name}\n".encode())
        for i in index[name]:
            total.update(f"{paths[i]}\n".encode())
    return total.hexdigest()


def listed(parts: Parts, paths: Sequence[str]) -> dict[str, str | list[str]]:
    """The split as JSON: its hash, and the paths of each part."""
    return {"hash": parts.hash, **{name: [paths[i] for i in getattr(parts, name)] for name in SHARES}}
