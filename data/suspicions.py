"""Suspicious things about a folder of images, found before anything is trained, and what to type to correct them."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data import DataError, counted
from data.grouping.proposals import propose, typed
from data.images import decode, opened, read_file
from data.layout.found import IMAGES
from data.layout.names import normal

EACH, IN_ALL = 8, 400
"""Number of images of each class that are examined, and the largest number of them in total; if there would be more,
two of each class are examined."""
IDENTICAL = 100
"""Number of files with the same content that is suspicious."""
BLACK = 8
"""Pixel value that all pixels of a black image stay below."""
MASK_ENDING = re.compile(r"[ _.-](masks?|seg|segmentation|gt|labels?|annotations?)([ _-]?\d+)?$", re.IGNORECASE)
"""Pattern of the ending that turns an image's name into its mask's, such as _mask."""
MOST_CLASSES = 10
"""Largest number of folder names that may be classes."""


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A suspicious thing, and the fields of a study that would correct it."""

    seen: str
    fields: dict[str, str] = field(default_factory=dict)

    def line(self, *, study: bool = True) -> str:
        """Return what was seen and what to type: as settings of a study, or as options of `study data`."""
        return f"{self.seen}: {typed(self.fields, study=study)}" if self.fields else self.seen


def suspicions(
    root: Path,
    paths: Sequence[str],
    labels: Sequence[str],
    images: NDArray[np.uint8] | None = None,
    contents: Sequence[str] | None = None,
) -> list[Suspicion]:
    """Return what is suspicious about images, given by their paths and the names of their classes (both [N]).

    `images` [N] are the decoded images and `contents` [N] the hashes of the files, if they are known already; otherwise
    some files are read.
    """
    if not paths:
        return []
    return [
        *_level(paths, labels),
        *_masks(paths),
        *_named_masks(paths),
        *_identical(root, paths, contents),
        *_odd_classes(root, paths, labels, images),
    ]


def _level(paths: Sequence[str], labels: Sequence[str]) -> Iterator[Suspicion]:
    """Find folders taken for classes that all hold folders of the same names, as several datasets side by side do."""
    inside: dict[str, set[str]] = defaultdict(set)
    for path, label in zip(paths, labels, strict=True):
        folders = [normal(name) for name in path.split("/")[:-1]]
        deeper = folders[folders.index(label) + 1 :] if label in folders else []
        inside[label].add(deeper[0] if deeper else "")
    first = next(iter(inside.values()))
    if any(names != first for names in inside.values()) or "" in first or not 2 <= len(first) <= MOST_CLASSES:
        return
    if all(any(map(str.isdigit, name)) for name in first) or propose(paths, labels):  # patients in every class
        return
    yield Suspicion(
        seen=f"the folders {', '.join(list(inside)[:3])} hold the same folders {', '.join(sorted(first)[:3])}; if "
        "those are the classes",
        fields={"labels_from": "last"},
    )


def _masks(paths: Sequence[str]) -> Iterator[Suspicion]:
    """Find files whose names differ only in the ending, such as x.jpg and x.png: perhaps masks beside photographs."""
    endings: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        stem, dot, ending = path.rpartition(".")
        if dot and f".{ending.lower()}" in IMAGES:
            endings[stem].append(ending)
    double = {stem: found for stem, found in endings.items() if len(set(found)) > 1}
    if not double:
        return
    stem, found = min(double.items())
    kept = Counter(ending for path in paths for ending in [path.rpartition(".")[2]]).most_common(1)[0][0]
    kept = next((ending for ending in found if ending.lower() in ("jpg", "jpeg")), kept)
    yield Suspicion(
        seen=f"{counted(len(double), 'file has', 'files have')} a twin of the same name with another ending, for "
        f"example {stem}.{sorted(found)[0]} and .{sorted(found)[1]}; if one is a mask or a copy",
        fields={"only": f"*.{kept}"},
    )


def _named_masks(paths: Sequence[str]) -> Iterator[Suspicion]:
    """Find files that are named as the mask of an image beside them, such as x_mask.png beside x.jpg."""
    stems = {path.rpartition(".")[0] for path in paths}
    masks = []
    for path in paths:
        stem = path.rpartition(".")[0]
        end = MASK_ENDING.search(stem)
        if end and stem[: end.start()] in stems:
            masks.append(path)
    if not masks:
        return
    endings = [{path.rpartition(".")[2] for path in some} for some in (masks, set(paths).difference(masks))]
    seen = (
        f"{counted(len(masks), 'file is', 'files are')} named as the mask of an image beside it, such as {min(masks)}"
    )
    if len(endings[1]) == 1 and not endings[0] & endings[1]:
        yield Suspicion(seen=f"{seen}; if so", fields={"only": f"*.{endings[1].pop()}"})
    else:
        yield Suspicion(seen=f"{seen}; if so, move the masks out of the folder")


def _identical(root: Path, paths: Sequence[str], contents: Sequence[str] | None) -> Iterator[Suspicion]:
    known = dict(zip(paths, contents, strict=True)) if contents else _of_one_length(root, paths)
    alike: dict[str, list[str]] = defaultdict(list)
    for path, content in known.items():
        alike[content].append(path)
    most = max(alike.values(), key=len, default=[])
    if len(most) >= IDENTICAL:
        yield Suspicion(
            seen=f"{len(most)} files are identical, for example {most[0]} and {most[1]}: remove all but one if "
            "they show nothing (study data audit --json lists them: exact_duplicates)"
        )


def _of_one_length(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Return the hash of each file of the most frequent size if at least IDENTICAL files have it; of very many files,
    only some are hashed."""
    lengths: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        try:
            lengths[(root / path).stat().st_size].append(path)
        except OSError:  # the error is reported when the file is decoded
            continue
    many = max(lengths.values(), key=len, default=[])
    if len(many) < IDENTICAL:
        return {}
    found = {}
    for path in many[:: max(1, len(many) // (5 * IDENTICAL))]:
        try:
            found[path] = hashlib.sha256(read_file(root / path)).hexdigest()
        except (OSError, DataError):
            continue
    return found


def _odd_classes(
    root: Path, paths: Sequence[str], labels: Sequence[str], images: NDArray[np.uint8] | None
) -> Iterator[Suspicion]:
    """Find classes whose images are all black, or all of one size while all others have another."""
    members: dict[str, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        members[label].append(number)
    each = EACH if EACH * len(members) <= IN_ALL else 2
    sizes: dict[str, set[tuple[int, int]]] = {}
    black: list[str] = []
    for name, mine in sorted(members.items()):
        some = mine[:: max(1, len(mine) // each)][:each]
        if all(_is_black(root / paths[i], None if images is None else images[i]) for i in some):
            black.append(name)
        sizes[name] = {size for i in some if (size := _size(root / paths[i]))}
    if len(black) < len(members):  # if all are black, their bit depth is the likely reason: its range is not known here
        for name in black:
            yield Suspicion(seen=f"the images of the class {name} are black; to leave it out", fields={"without": name})
    for name, own in sizes.items():
        others = set().union(*(found for other, found in sizes.items() if other != name))
        if len(own) == len(others) == 1 and own != others:
            (width, height), (wide, high) = *own, *others
            way = {"without": name} if len(sizes) > 2 else {}
            yield Suspicion(
                seen=f"the images of the class {name} are {width} x {height} pixels, all others {wide} x {high}: their "
                f"size alone may tell the class; {'to leave it out' if way else 'make them alike'}",
                fields=way,
            )
            return  # with two classes each is odd beside the other


def _is_black(file: Path, image: NDArray[np.uint8] | None) -> bool:
    try:
        return bool((decode(file, 16, ranges=None) if image is None else image).max() < BLACK)
    except DataError:
        return False


def _size(file: Path) -> tuple[int, int] | None:
    try:
        with opened(file) as image:
            return image.size
    except Exception:  # errors of a file are reported when it is decoded
        return None
