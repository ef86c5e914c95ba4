"""Warnings about loaded images before time is spent on training: odd files, odd groups, likely patients."""

import numpy as np

from data.datasets import ImageSet
from data.grouping.proposals import Proposal, propose
from data.suspicions import Suspicion, suspicions


def count_label_conflicts(dataset: ImageSet) -> int:
    """Count the files that have the same content as a file of another class."""
    labels: dict[str, set[int]] = {}
    for content, label in zip(dataset.contents, dataset.labels.tolist(), strict=True):
        labels.setdefault(content, set()).add(label)
    return sum(len(labels[content]) > 1 for content in dataset.contents)


def odd(dataset: ImageSet) -> list[Suspicion]:
    """Return what is suspicious about the images of a dataset, see data/suspicions.py."""
    labels = [dataset.classes[label] for label in dataset.labels.tolist()]
    return suspicions(dataset.root, dataset.paths, labels, dataset.images, dataset.contents)


def proposal(dataset: ImageSet) -> Proposal | None:
    """Propose groups from the names of folders and files, if the groups were found from the pixels; else None."""
    if dataset.groups_by != "pixels":
        return None
    return propose(dataset.paths, [dataset.classes[label] for label in dataset.labels.tolist()])


SUSPECT_SHARE, SUSPECT_COUNT = 0.01, 10
"""A group that was found from the pixels is suspicious if it has more than this share of the images, and more than this
number of them."""
SUSPECT_PATTERN = 1 / 3
"""Suspicious share for groups from folders or patterns, since a patient may well have a hundredth of the images."""


def group_warnings(dataset: ImageSet) -> list[str]:
    """Return what is suspicious about groups that were found, a line each: large ones, and those of several classes.

    Groups from a list are never suspicious, nor is a patient with images of several classes.
    """
    if dataset.groups_by not in ("pixels", "pattern", "level"):
        return []
    total, sizes = len(dataset.labels), np.bincount(dataset.groups)
    share = SUSPECT_SHARE if dataset.groups_by == "pixels" else SUSPECT_PATTERN
    large = sizes > max(SUSPECT_COUNT, share * total)
    lines = []
    if not dataset.told:
        lines.append(
            "who shares a source is not known: random images here are as alike as copies would be, and only identical "
            "and nearly identical ones are kept together (name the sources, if some images have one in common)"
        )
    if large.any():
        some = ", ".join(dataset.paths[i] for i in np.flatnonzero(dataset.groups == sizes.argmax())[:2])
        lines.append(
            f"suspicious groups: {large.sum()} with more than {max(SUSPECT_COUNT, int(share * total))} images, the "
            f"largest with {sizes.max()} of {total} (for example {some})"
        )
    pairs = np.unique(np.stack([dataset.groups, dataset.labels]), axis=1)[0]
    mixed = np.bincount(pairs, minlength=len(sizes)) > 1
    if mixed.any() and dataset.groups_by == "pixels":
        members = np.flatnonzero(dataset.groups == np.where(mixed, sizes, 0).argmax())
        _, first = np.unique(dataset.labels[members], return_index=True)
        some = ", ".join(dataset.paths[i] for i in members[first[:2]])
        lines.append(
            f"suspicious groups: {mixed.sum()} with images of several classes, the largest with "
            f"{np.where(mixed, sizes, 0).max()} (for example {some})"
        )
    return lines
