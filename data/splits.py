"""Parts of a dataset: train, val, cal and test, of whole groups, stratified by class, identified by a hash."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from data import DataError, counted
from data.datasets import ImageSet, Survey
from data.findings import proposal

SHARES = {"train": 0.60, "val": 0.14, "cal": 0.06, "test": 0.20}
"""Share of each part in the protocol: the search uses train and val; cal is for calibration; test is opened once."""

RANDOM_TRAIN = 0.80
"""Share of training images in the split of the published reference system; the rest is val."""

Index = NDArray[np.int64]


class TooFewSourcesError(DataError):
    """A class has too few sources to be in every part without dividing one."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Sorted image indices of each part, and the hash that identifies the split."""

    train: Index
    val: Index
    cal: Index
    test: Index
    hash: str

    def counts(self) -> dict[str, int]:
        """Return the number of images in each part."""
        return {name: len(getattr(self, name)) for name in SHARES}


def random_parts(count: int, paths: Sequence[str], seed: int) -> Parts:
    """Make the leaky split, image by image: 80 % train, 20 % val, copies of one source in both; no cal and no test."""
    order = np.random.default_rng(seed).permutation(count)
    cut = round(RANDOM_TRAIN * count)
    nothing = np.zeros(0, np.int64)
    index = {"train": np.sort(order[:cut]), "val": np.sort(order[cut:]), "cal": nothing, "test": nothing}
    return Parts(hash=_hash(index, paths), **index)


def make_parts(labels: Index, groups: Index, classes: Sequence[str], paths: Sequence[str], seed: int) -> Parts:
    """Assign whole groups to parts so that each class comes as near to the protocol's shares as the groups allow.

    `labels` and `groups` are [N]. Large groups are placed first, each into the part whose squared shortfall it reduces
    most. The last groups of a class go to parts that still lack the class, so every part has every class. The same seed
    gives the same parts. Raises TooFewSourcesError if a class has too few groups to be in every part.
    """
    index = _whole(labels, groups, classes, paths, SHARES, seed)
    return Parts(hash=_hash(index, paths), **index)


def divide(dataset: ImageSet, seed: int, *, allow_leaks: bool = False) -> Parts:
    """Return the parts that the images came with, or make parts. Raises DataError if that cannot be done.

    If the images came with parts, and images of one source lie in several of them, `allow_leaks` must be set.
    """
    pairs = crossing(dataset)
    if allow_leaks and not pairs:
        raise DataError(
            "allow_leaks = true would mark every number as leaky, and no source lies in several parts (leave it out)"
        )
    if pairs and dataset.parts and not allow_leaks:
        (one, other), part = pairs[0], dict(zip(dataset.paths, dataset.parts, strict=True))
        raise DataError(
            f"{counted(len(pairs), 'held-out image shares', 'held-out images share')} a source with another part, for "
            f"example {one} ({part[one]}) and "
            f"{other} ({part[other]}): divide them by source, let the parts be made here (--set parts=none), or accept "
            f"it (--set allow_leaks=true), which marks every number as leaky; groups are from {dataset.groups_from}"
        )
    try:
        if dataset.parts is not None:
            return given_parts(dataset, seed)
        return make_parts(dataset.labels, dataset.groups, dataset.classes, dataset.paths, seed)
    except TooFewSourcesError as error:
        ways = [f"groups are from {dataset.groups_from}", *([seen.line()] if (seen := proposal(dataset)) else [])]
        files = np.bincount([label for label, _ in set(zip(dataset.labels.tolist(), dataset.contents, strict=True))])
        if files.min() >= len(SHARES) and dataset.groups_by in ("pixels", "pattern", "level"):
            ways.append("or count every image as a source of its own, whose copies may leak: --set groups=none")
        raise DataError("; ".join([str(error), *ways])) from error


def refuse_too_few(seen: Survey) -> None:
    """Raise DataError if a class cannot be in every part, as far as that is known before the images are read."""
    if seen.divided or not seen.sizes:
        return
    worst = min(seen.sizes, key=lambda name: seen.sizes[name][1])
    images, owned = seen.sizes[worst]
    if owned < len(SHARES):
        ways = [seen.proposal.line()] if seen.proposal else []
        raise DataError("; ".join([_too_few(worst, images, owned, SHARES), *ways]))


def _too_few(name: str, images: int, owned: int, shares: Mapping[str, float]) -> str:
    return (
        f"class {name} has {counted(images, 'image')} of {counted(owned, 'source')}; the parts {', '.join(shares)} "
        f"need at least {len(shares)} sources a class (add images, or leave it out: --set {quote(f'without={name}')})"
    )


def crossing(dataset: ImageSet) -> list[tuple[str, str]]:
    """Find the held-out images of a divided dataset that have an image of the same source in another part.

    Returns pairs (path, path of that other image). If one of the two is a training image, it comes second.
    """
    if dataset.parts is None:
        return []
    first: dict[tuple[int, str], str] = {}  # an image of each group in each part
    for path, group, part in zip(dataset.paths, dataset.groups.tolist(), dataset.parts, strict=True):
        first.setdefault((group, part), path)
    found = []
    for path, group, part in zip(dataset.paths, dataset.groups.tolist(), dataset.parts, strict=True):
        others = [first[group, other] for other in SHARES if other != part and (group, other) in first]
        if part != "train" and others:
            found.append((path, others[0]))
    return found


def given_parts(dataset: ImageSet, seed: int) -> Parts:
    """Return the parts that the images came with; a missing val or cal is taken from train in whole groups.

    Raises DataError if there is no train or no test part, or a class is missing in a part. Raises TooFewSourcesError if
    train has too few groups to take a part from it.
    """
    assert dataset.parts is not None
    part_of = np.array(dataset.parts)
    index = {name: np.flatnonzero(part_of == name) for name in SHARES}
    if lacking := [name for name in ("train", "test") if not len(index[name])]:
        there = ", ".join(name for name in SHARES if len(index[name]))
        raise DataError(
            f"{dataset.parts_from}: there are the parts {there}, and no {lacking[0]} "
            "(name one so, or let the parts be made here: --set parts=none)"
        )
    if absent := sorted(set(range(len(dataset.classes))) - set(dataset.labels[index["train"]].tolist())):
        raise DataError(
            f"{dataset.parts_from}: no image of {dataset.classes[absent[0]]} in train, so no network could learn it "
            "(add some, leave the class out with --set without=NAME, or let the parts be made here: --set parts=none)"
        )
    missing = {name: SHARES[name] for name in ("train", "val", "cal") if name == "train" or not len(index[name])}
    if len(missing) > 1:
        train = index["train"]
        _, own = np.unique(dataset.groups[train], return_inverse=True)
        paths = [dataset.paths[i] for i in train]
        taken = _whole(dataset.labels[train], own, dataset.classes, paths, missing, seed)
        index |= {name: train[part] for name, part in taken.items()}
    for name, part in index.items():
        if absent := sorted(set(range(len(dataset.classes))) - set(dataset.labels[part].tolist())):
            raise DataError(
                f"{dataset.parts_from}: no image of {dataset.classes[absent[0]]} in {name}, so no score would say "
                "anything of it (add some, leave the class out with --set without=NAME, or let the parts be made "
                "here: --set parts=none)"
            )
    return Parts(hash=_hash(index, dataset.paths), **index)


def _whole(
    labels: Index, groups: Index, classes: Sequence[str], paths: Sequence[str], shares: Mapping[str, float], seed: int
) -> dict[str, Index]:
    """Return the image indices of each part, so that no group is in two parts and every class is in each part."""
    table = _class_counts(labels, groups, len(classes))
    owned = (table > 0).sum(axis=0)
    worst = int(owned.argmin())
    if owned[worst] < len(shares):
        counts = int(table[:, worst].sum()), int(owned[worst])
        raise TooFewSourcesError(f"{_too_few(classes[worst], *counts, shares)}{_largest(table, worst, groups, paths)}")
    wanted = np.array(list(shares.values())) / sum(shares.values())
    tries = (_assign(table, wanted, seed + TRIES * number, strict=number > 0) for number in range(TRIES))
    part_of = next((one for one in tries if _is_whole(table, one, len(shares))), None)
    if part_of is None:
        part_of = _assign(table, wanted, seed)
    index = {name: np.flatnonzero(part_of[groups] == number) for number, name in enumerate(shares)}
    for name, part in index.items():
        lacking = np.flatnonzero(np.bincount(labels[part], minlength=len(classes)) == 0)
        if len(lacking):
            raise TooFewSourcesError(
                f"class {classes[lacking[0]]} has too few separate groups for the {name} part "
                f"(its groups are shared with other classes); add images of new sources"
                f"{_largest(table, int(lacking[0]), groups, paths)}"
            )
    owners = [set(groups[part].tolist()) for part in index.values()]
    assert sum(map(len, owners)) == len(set().union(*owners)), "a group on both sides of a split"
    return index


def _is_whole(table: NDArray[np.int64], part_of: NDArray[np.int64], parts: int) -> bool:
    """Return whether every class is in each part."""
    return all((table[part_of == part].sum(axis=0) > 0).all() for part in range(parts))


def _class_counts(labels: Index, groups: Index, classes: int) -> NDArray[np.int64]:
    """Count the images of each class in each group: [G, K]."""
    table = np.zeros((int(groups.max()) + 1, classes), np.int64)
    np.add.at(table, (groups, labels), 1)
    return table


TRIES = 20
"""Largest number of divisions that are tried until each part has every class, where groups hold several classes. The
first one is the usual one, so that an older study keeps its parts."""
NAMED = 3
"""Largest number of groups that an error message names as the reason."""


def _largest(table: NDArray[np.int64], label: int, groups: Index, paths: Sequence[str]) -> str:
    """Describe the largest groups that contain images of a class, with two files each; "" if all are single images."""
    sizes = np.where(table[:, label] > 0, table.sum(axis=1), 0)
    largest = [group for group in np.argsort(-sizes, kind="stable")[:NAMED] if sizes[group] > 1]
    named = [
        f"{sizes[group]} images ({', '.join(paths[i] for i in np.flatnonzero(groups == group)[:2])})"
        for group in largest
    ]
    return f"; taken for one source each: {', '.join(named)}" if named else ""


def _assign(
    table: NDArray[np.int64], shares: NDArray[np.float64], seed: int, *, strict: bool = False
) -> NDArray[np.int64]:
    """Return the part number of each group, [G], given the shares [P] of the parts, which add up to 1.

    `strict`: a group that several classes cannot spare goes where most of them are missing.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(table))
    order = order[np.argsort(-table[order].sum(axis=1), kind="stable")]
    targets = np.outer(shares, table.sum(axis=0))  # [P, K] images wanted
    filled = np.zeros_like(targets)
    left = (table > 0).sum(axis=0)  # groups of each class still to be placed
    part_of = np.full(len(table), -1, np.int64)
    for group in order:
        counts = table[group]
        mine = counts > 0
        missing = filled == 0  # [P, K]
        pressed = mine & (left <= missing.sum(axis=0))  # classes that cannot spare this group
        needed = missing[:, pressed].sum(axis=1)
        allowed = (needed > 0) & (needed >= needed.max() if strict else True) if pressed.any() else needed >= 0
        if not allowed.any():
            allowed[:] = True
        # The change of the squared shortfall, relative to what each part should hold.
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


def split_as_json(parts: Parts, paths: Sequence[str]) -> dict[str, str | list[str]]:
    """Return the split as a JSON object: its hash, and the paths of each part."""
    return {"hash": parts.hash, **{name: [paths[i] for i in getattr(parts, name)] for name in SHARES}}
