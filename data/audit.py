"""Audit of a folder of images before anything is trained: counts, copies, leaks, and scores without a network."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier

from data import DataError, counted
from data.datasets import ImageSet
from data.grouping.candidates import near_duplicates
from data.grouping.leak import share_with_sibling
from data.images import opened, source_size
from data.public.known import recognise
from data.splits import SHARES, Parts, crossing, random_parts

TREES = 400
"""Number of trees in a forest."""
LEARNED_FROM, FOREST_BYTES, NODE_BYTES = 20_000, 1 << 30, 64
"""Largest number of images that a forest is trained on, largest number of bytes of a forest, and bytes of a node
without its number for each class."""
BINS = 8**3 + 3 * 32
"""Length of the histogram vector of an image."""
GIANT = 0.05
"""Share of all images above which a group is suspect: perhaps every image shows the same stamp or scale bar."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Leak(TypedDict):
    """Shares of held-out images with a sibling among the others."""

    by_groups: float
    by_second_detector: float | None  # None if it cannot tell


class AuditFindings(TypedDict):
    """Findings about a dataset, as plain values; shares are fractions, not percent."""

    folder: str
    known: str | None  # key of the public dataset that it is, see data/public/known.py
    leak_note: str | None
    images: int
    classes: dict[str, dict[str, int]]  # class -> images, sources, and images of each part
    imbalance: float  # images of the largest class / images of the smallest
    pixels: dict[str, int]
    unreadable: list[str]
    exact_duplicates: list[list[str]]
    near_duplicate_pairs: int
    label_conflicts: list[list[str]]
    groups: int
    groups_from: str
    parts_from: str | None
    crossing: list[list[str]]
    largest_group: int
    suspect: bool
    held_out: dict[str, int]  # split -> number of its held-out images
    held_out_with_sibling: dict[str, Leak]  # split -> its leak
    baselines: dict[str, dict[str, float]]  # split -> accuracies without any network
    account: list[str]


LEAST = 3
"""Least number of images of which some can be held out."""


def audit(dataset: ImageSet, parts: Parts | None, seed: int) -> AuditFindings:
    """Return all findings about a dataset and its parts, as plain values (fractions, not percent).

    The share of held-out images with a sibling among the others is measured by the groups, and by a detector that did
    not make them. It and the two baselines (majority class; trees on colour and gradient histograms) are computed for
    the random split and, if there are `parts`, for these. Raises DataError for fewer than LEAST images.
    """
    if len(dataset.labels) < LEAST:
        raise DataError(f"{counted(len(dataset.labels), 'image')}: an audit needs {LEAST} or more")
    random = random_parts(len(dataset.labels), dataset.paths, seed)
    files = [dataset.root / path for path in dataset.paths]
    known = recognise(dataset.classes, len(files), source_size(files))
    compared = {"random": (random.train, random.val)}
    if parts:
        compared["grouped"] = (np.concatenate([parts.train, parts.val, parts.cal]), parts.test)
    counts = np.bincount(dataset.labels)
    sizes = Counter(np.bincount(dataset.groups).tolist())
    largest = max(sizes)
    return {
        "folder": str(dataset.root),
        "known": known[0] if known else None,
        "leak_note": known[1].leak if known else None,
        "images": len(dataset.labels),
        "classes": {name: part_counts(dataset, parts, label) for label, name in enumerate(dataset.classes)},
        "imbalance": round(float(counts.max() / counts.min()), 3),
        "pixels": image_sizes(dataset),
        "unreadable": dataset.left_out,
        "exact_duplicates": exact_duplicates(dataset),
        "near_duplicate_pairs": len({frozenset(pair) for pair in near_duplicates(thumbnails(dataset.images))}),
        "label_conflicts": conflicts(dataset),
        "groups": int(dataset.groups.max()) + 1,
        "groups_from": dataset.groups_from,
        "parts_from": dataset.parts_from,
        "crossing": [list(pair) for pair in crossing(dataset)],
        "largest_group": largest,
        "suspect": dataset.groups_by == "pixels" and largest > max(20, GIANT * len(dataset.labels)),
        "held_out": {name: len(held) for name, (_, held) in compared.items()},
        "held_out_with_sibling": {name: leak(dataset, held) for name, (_, held) in compared.items()},
        "baselines": {name: baselines(dataset, *pair, seed) for name, pair in compared.items()},
        "account": list(dataset.account),
    }


def part_counts(dataset: ImageSet, parts: Parts | None, label: int) -> dict[str, int]:
    """Count the images and sources of a class, and its images in each part if there are parts."""
    mine = dataset.labels == label
    inside = {name: int(mine[getattr(parts, name)].sum()) for name in SHARES} if parts else {}
    return {"images": int(mine.sum()), "sources": len(np.unique(dataset.groups[mine])), **inside}


def image_sizes(dataset: ImageSet) -> dict[str, int]:
    """Return the number of files by size ("width x height"), the most frequent sizes first, at most ten."""

    def size(path: str) -> str:
        with opened(dataset.root / path) as image:
            return f"{image.width}x{image.height}"

    with ThreadPoolExecutor() as pool:
        return dict(Counter(pool.map(size, dataset.paths)).most_common(10))


def exact_duplicates(dataset: ImageSet) -> list[list[str]]:
    """Return the sets of files with the same content."""
    sets: dict[str, list[str]] = {}
    for path, content in zip(dataset.paths, dataset.contents, strict=True):
        sets.setdefault(content, []).append(path)
    return [paths for paths in sets.values() if len(paths) > 1]


def conflicts(dataset: ImageSet) -> list[list[str]]:
    """Return the groups whose images have different classes: the same tissue with two labels, or a wrong group."""
    order = np.argsort(dataset.groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(dataset.groups[order])) + 1)
    return [[dataset.paths[i] for i in group] for group in members if len(set(dataset.labels[group].tolist())) > 1]


def thumbnails(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce images [N, S, S, 3] to thumbnails [N, 16, 16, 3]."""
    small = [cv2.resize(np.asarray(image), (16, 16), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small).astype(np.uint8)


def leak(dataset: ImageSet, held_out: Ints) -> Leak:
    """Return the share of held-out images with a sibling among the others, by the groups and by the second detector
    (None if that cannot tell)."""
    held = np.zeros(len(dataset.labels), bool)
    held[held_out] = True
    files: list[Path] = [dataset.root / path for path in dataset.paths]
    return {
        "by_groups": float(np.isin(dataset.groups[held], dataset.groups[~held]).mean()),
        "by_second_detector": share_with_sibling(files, held).share,
    }


def baselines(dataset: ImageSet, train: Ints, test: Ints, seed: int) -> dict[str, float]:
    """Return accuracies that need no network: of always naming the most frequent class, and of trees on histograms."""
    labels = dataset.labels
    majority = int(np.bincount(labels[train]).argmax())
    return {
        "majority": float((labels[test] == majority).mean()),
        "trees": float((fit_trees(dataset, train, seed).labels(test) == labels[test]).mean()),
    }


@dataclass(frozen=True)
class Trees:
    """A forest trained on histograms, with the histograms of all images."""

    forest: ExtraTreesClassifier
    features: Floats

    def labels(self, index: Ints) -> Ints:
        """Predict the class numbers [n] of the images with the numbers `index` [n]."""
        return np.asarray(self.forest.predict(self.features[index]))


def fit_trees(dataset: ImageSet, train: Ints, seed: int, *, balanced: bool = False) -> Trees:
    """Train a forest on the histograms of the training images; with `balanced`, each class counts the same.

    The forest is only for comparison. So if there are many images, only some are used, and if there are many classes,
    the trees are limited in size, so that the forest takes neither hours nor more memory than the training.
    """
    features = histograms(dataset.images)
    weights = "balanced" if balanced else None
    if len(train) > LEARNED_FROM:
        train = np.random.default_rng(seed).choice(train, LEARNED_FROM, replace=False)
    leaves = FOREST_BYTES // (2 * TREES * (NODE_BYTES + 8 * len(dataset.classes)))
    forest = ExtraTreesClassifier(
        TREES,
        random_state=seed,
        n_jobs=-1,
        class_weight=weights,
        max_leaf_nodes=max(2, leaves) if leaves < len(train) else None,
    )
    forest.fit(features[train], dataset.labels[train])
    forest.n_jobs = 1  # threads add up votes in any order, and a rounding error may decide a tie
    return Trees(forest, features)


def histograms(images: NDArray[np.uint8]) -> Floats:
    """Compute histograms [N, D] of images: of joint RGB (8 bins each), and of gradient lengths on three scales."""
    found = np.empty((len(images), BINS), np.float32)
    for number, image in enumerate(images):
        found[number] = _histogram(np.asarray(image))
    return found


def _histogram(image: NDArray[np.uint8]) -> Floats:
    colour = cv2.calcHist([image], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    parts: list[NDArray[Any]] = [colour]
    for blur in (0.0, 1.0, 2.0):
        smooth = cv2.GaussianBlur(grey, (0, 0), blur) if blur else grey
        length = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
        parts.append(np.histogram(length, bins=32, range=(0, 512))[0])
    return (np.concatenate(parts) / grey.size).astype(np.float32)


def largest_groups(dataset: ImageSet, count: int) -> list[Ints]:
    """Return the image indices of the `count` groups with the most images."""
    order = np.argsort(-np.bincount(dataset.groups), kind="stable")[:count]
    return [np.flatnonzero(dataset.groups == group) for group in order]


def split_rows(dataset: ImageSet, parts: Parts) -> list[tuple[str, str, int, str]]:
    """Return (path, label, group, part) of every image, in the order of the paths."""
    part_of = np.full(len(dataset.labels), "", dtype="U5")
    names: Sequence[str] = list(SHARES)
    for name in names:
        part_of[getattr(parts, name)] = name
    return [
        (path, dataset.classes[label], group, part)
        for path, label, group, part in zip(
            dataset.paths, dataset.labels.tolist(), dataset.groups.tolist(), part_of.tolist(), strict=True
        )
    ]
