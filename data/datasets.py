"""Loading datasets: the embedded ones, and any folder or list of images, as one uint8 array."""

import csv
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data import DataError, Progress, at_home, counted
from data.cache import load_decoded, publish
from data.formats.dicom_folder import count_facts
from data.formats.ranges import Ranges
from data.grouping.belief import ClosePair
from data.grouping.proposals import Proposal, propose
from data.grouping.settings import version
from data.grouping.sources import GroupSource, Sources, join, sources
from data.images import MOST_MEGAPIXELS, source_size
from data.layout.found import Listing, account
from data.layout.listing import COLUMN, encodes, listing
from data.layout.lists import GROUP, part_list
from data.public import FETCHED, tissue
from data.suspicions import Suspicion, suspicions

logger = logging.getLogger(__name__)

EMBEDDED = ("digits", "tissue")
"""Names of the datasets that need no download."""

SURVEYED = 40
"""Largest number of files whose size in pixels a survey reads."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """All images of a dataset, decoded at one size, with their labels, groups and parts."""

    root: Path
    images: NDArray[np.uint8]  # [N, H, W, 3], RGB
    labels: NDArray[np.int64]  # [N], index into classes
    classes: tuple[str, ...]
    paths: tuple[str, ...]  # [N], relative to root, with forward slashes
    groups: NDArray[np.int64]  # [N], images of one source share a number
    groups_by: GroupSource  # how the groups are known
    found_by: str | None  # version of the search that found the groups, if they were found from pixels
    close: tuple[ClosePair, ...]  # pairs whose likeness is near the limit of that search
    told: bool  # whether that search could tell copies from other images
    groups_from: str  # how the groups are known, in words for people
    parts: tuple[str, ...] | None  # [N], train, val, cal or test; None if the images do not come divided
    parts_from: str | None  # what names these parts, in words for people
    contents: tuple[str, ...]  # [N], SHA-256 of each file
    fingerprint: str  # SHA-256 over relative paths and file contents, and over labels from a list
    ranges: Ranges  # pixel values that are black and white, beyond 8 bits; empty if all images have 8 bits
    skipped: dict[str, str]  # unreadable files left out on request: relative path -> why
    synthetic: bool
    shown: str = ""  # by which rules the grey levels of DICOM files were made
    account: tuple[str, ...] = ()  # lines that say what was found and what was left out

    @property
    def left_out(self) -> list[str]:
        """One line for each file that was left out, with the reason."""
        return [f"{path}: {why}" for path, why in self.skipped.items()]


def load(
    source: str,
    image_size: int,
    cache: Path,
    *,
    groups: str | None = None,
    parts: str | None = None,
    labels_from: str = "first",
    without: Sequence[str] = (),
    only: str | None = None,
    found_by: str | None = None,
    skip_bad: bool = False,
    max_megapixels: float = MOST_MEGAPIXELS,
    ranges: Ranges | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """Load a dataset by name, or images by path; see load_folder. Embedded datasets are first written to `cache`."""
    root = embedded(source, cache) if source in EMBEDDED else _place(cache / source if source in FETCHED else source)
    return load_folder(
        root,
        image_size,
        cache,
        groups=groups,
        parts=parts,
        labels_from=labels_from,
        without=without,
        only=only,
        found_by=found_by,
        skip_bad=skip_bad,
        max_megapixels=max_megapixels,
        ranges=ranges,
        progress=progress,
    )


def unreadable(
    source: str,
    image_size: int,
    cache: Path,
    progress: Progress | None = None,
    *,
    labels_from: str = "first",
    without: Sequence[str] = (),
    only: str | None = None,
    max_megapixels: float = MOST_MEGAPIXELS,
) -> dict[str, str]:
    """Return the files of a folder or a list that cannot be read as images: relative path -> why.

    Raises DataError as `load` does.
    """
    found = listing(_place(source), cache, labels_from, without=without, only=only)
    return load_decoded(found.root, list(found.labels), image_size, cache, progress, max_megapixels, again=True).bad


def _place(source: str | Path) -> Path:
    """Return the folder or the list that the user named. Raises DataError if there is none, or its name is unusable."""
    if "\0" in str(source):
        raise DataError(f"no such folder: {str(source)!a}")
    root = at_home(source)
    if not root.exists() and root.name in FETCHED:
        raise DataError(f"{root.name} is not here yet (get it with: study data fetch {root.name})")
    if not root.exists():
        raise DataError(
            f"no such folder: {source} (give a folder of class folders, a CSV list, or one of: {', '.join(EMBEDDED)})"
        )
    if not encodes(str(root.absolute())):  # the name is written into databases, cards and pages
        raise DataError(f"the folder's name is not UTF-8: {str(root.absolute())!a} (rename it)")
    return root


def embedded(name: str, cache: Path) -> Path:
    """Return the folder of an embedded dataset, which is written on first use."""
    folder = cache / name
    if not folder.exists():
        try:
            publish(folder, _write_digits) if name == "digits" else tissue.generate(folder)
        except OSError as error:
            raise DataError(f"cannot write the embedded images to {folder}: {error.strerror or error}") from error
    return folder


def _write_digits(folder: Path) -> None:
    """Write scikit-learn's copy of the UCI handwritten digits: 1,797 real images of 8x8 pixels, values 0 to 16."""
    from sklearn.datasets import load_digits  # imported late: a second, and needed once

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    with (folder / "groups.csv").open("w", newline="", encoding="utf-8") as handle:  # the writers are not published
        names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
        csv.writer(handle).writerows([("path", "group"), *((name, name) for name in names)])


def load_folder(
    root: Path,
    image_size: int,
    cache: Path,
    *,
    groups: str | None = None,
    parts: str | None = None,
    labels_from: str = "first",
    without: Sequence[str] = (),
    only: str | None = None,
    found_by: str | None = None,
    skip_bad: bool = False,
    max_megapixels: float = MOST_MEGAPIXELS,
    ranges: Ranges | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """Load the images of a folder or a list (see data/layout/), decoded once into `cache`, with their groups.

    `groups` and `found_by`: see `sources`; `groups` may also name a column of a list, see `listing`. `parts`: a CSV
    file with the columns path and part; "none" ignores how the images come divided. `labels_from`: "first" or "last"
    folder of each path. `without` and `only`: see `listing`. Raises DataError with one line that says what is wrong.
    """
    found = listing(root, cache, labels_from, groups=groups, without=without, only=only)
    root = found.root
    every = list(found.labels)
    images = load_decoded(root, every, image_size, cache, progress, max_megapixels, ranges, again=not skip_bad)
    if images.bad and not skip_bad:
        raise DataError(_bad_files(images.bad, len(found.labels), root, max_megapixels))
    labels = np.array([found.labels[path] for path in images.paths], np.int64)
    counts = np.bincount(labels, minlength=len(found.classes))
    if 0 in counts:
        raise DataError(f"class without images: {found.classes[int(np.argmin(counts))]} in {root}")
    listed = [found.classes[label] for label in labels] if found.listed_in else None
    fingerprint = fingerprint_of(images.paths, images.contents, listed)
    gone = [*images.bad, *found.left_out]
    if _by_column(groups) and found.groups:
        column = (groups or COLUMN + GROUP).removeprefix(COLUMN)
        listed_groups = [found.groups[path] for path in images.paths]
        known = Sources(listed_groups, f"the column {column} of {found.listed_in}", "list")
    else:
        known = sources(root, images.paths, gone, groups, cache, fingerprint, progress, found_by)
    origin = known.origin
    part_of, parts_from = _parts(found, parts, images.paths, gone)
    joined = join(zip(known.names, images.contents, strict=True))
    merged = len(set(known.names)) - len(set(joined.tolist()))
    if merged:
        origin += f"; identical files in several groups joined {merged + 1} or more of them"
    scans = count_facts(root, images.paths)
    return ImageSet(
        root=root,
        images=images.images,
        labels=labels,
        classes=found.classes,
        paths=images.paths,
        groups=joined,
        contents=images.contents,
        groups_by=known.by,
        found_by=(found_by or version()) if known.by == "pixels" else None,
        close=known.close,
        told=known.told,
        groups_from=origin,
        parts=part_of,
        parts_from=parts_from,
        fingerprint=fingerprint,
        ranges=images.ranges,
        skipped=images.bad,
        shown=scans.shown,
        account=(*account(found, images.bad), *scans.lines()),
        synthetic=all(name.startswith("synthetic_") for name in found.classes),
    )


def _by_column(groups: str | None) -> bool:
    """Return whether the groups are those of a column of the list, if it has such a column."""
    return groups is None or groups.startswith(COLUMN)


def _parts(
    found: Listing, asked: str | None, paths: Sequence[str], bad: Iterable[str]
) -> tuple[tuple[str, ...] | None, str | None]:
    """Return the part of each image and what names the parts, in words; (None, None) if the images are not divided."""
    if asked == "none" or (asked is None and found.parts is None):
        return None, None
    if asked is None:
        assert found.parts is not None
        by = f"the column part of {found.listed_in}" if found.listed_in else f"the folders in {found.root.name}"
        return tuple(found.parts[path] for path in paths), by
    file = at_home(asked)
    if file.suffix.lower() != ".csv":
        raise DataError(f"parts = {asked!r}: neither a CSV file (path, part) nor none")
    if not file.is_file():
        raise DataError(f"parts = {asked!r}: no such file (give a CSV file with the columns path and part)")
    listed = part_list(file, paths, bad) if paths else {}
    return tuple(listed[path] for path in paths), file.name


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The facts about a dataset that are known without loading it."""

    classes: int  # number of classes
    count: int  # number of images
    side: int | None  # the shorter of the median width and height of some files, pixels
    grouped: bool  # whether the user, or a list, says which images share a source
    imbalance: float  # images of the largest class divided by those of the smallest
    proposal: Proposal | None = None  # groups that the names suggest, if nobody says which images share a source
    some: tuple[Path, ...] = ()  # some of the files, evenly spaced
    divided: bool = False  # whether the images come in parts
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # class -> (images, sources at most)
    account: tuple[str, ...] = ()  # lines that say what was found and what was left out
    suspicions: tuple[Suspicion, ...] = ()


def survey(
    source: str,
    cache: Path,
    groups: str | None = None,
    labels_from: str = "first",
    *,
    parts: str | None = None,
    without: Sequence[str] = (),
    only: str | None = None,
    skip_bad: bool = False,
) -> Survey:
    """Survey a dataset without loading it and without writing anything. Raises DataError as `load` does."""
    if source in EMBEDDED and not (cache / source).exists():
        count, side, classes = {"digits": (1797, 8, 10), "tissue": (600, 96, 5)}[source]
        return Survey(classes=classes, count=count, side=side, grouped=True, imbalance=1.0)
    place = cache / source if source in EMBEDDED else _place(cache / source if source in FETCHED else source)
    found = listing(place, cache, labels_from, groups=groups, without=without, only=only)
    root, names = found.root, list(found.labels)
    labels = [found.classes[label] for label in found.labels.values()]
    some = tuple(root / name for name in names[:: max(1, len(names) // SURVEYED)][:SURVEYED])
    size = source_size(some)
    owners, known = _said_sources(found, groups, cache, skip_bad=skip_bad)
    counts = np.bincount(list(found.labels.values()), minlength=len(found.classes))
    owned = Counter(label for label, _ in set(zip(labels, owners, strict=True)))
    divided = _parts(found, parts, () if skip_bad else names, found.left_out)[1] is not None
    return Survey(
        classes=len(found.classes),
        count=len(names),
        side=size and min(size),
        grouped=known,
        imbalance=float(counts.max() / max(1, counts.min())),
        proposal=None if known else propose(names, labels),
        some=some,
        divided=divided,
        sizes={name: (int(counts[number]), owned[name]) for number, name in enumerate(found.classes)},
        account=tuple(account(found)),
        suspicions=tuple(suspicions(root, names, labels)),
    )


def _said_sources(found: Listing, groups: str | None, cache: Path, *, skip_bad: bool) -> tuple[list[str], bool]:
    """Return the source of each image, and whether the user or a list says so; if not, each image is its own source.

    With `skip_bad` a list need not name unreadable files, which are not known yet; so it is only checked to exist.
    """
    names, listed = list(found.labels), found.root / "groups.csv"
    if _by_column(groups) and found.groups:
        return [found.groups[path] for path in names], True
    if groups == "auto" or (groups is None and not listed.is_file()):
        return names, False
    if skip_bad:
        if groups and groups.lower().endswith(".csv") and not at_home(groups).is_file():
            raise DataError(f"groups = {groups!r}: no such file")
        return names, True
    return sources(found.root, names, found.left_out, groups, cache, "", None).names, True


def _bad_files(bad: dict[str, str], total: int, root: Path, most: float) -> str:
    shown = "; ".join(f"{path}: {why}" for path, why in list(bad.items())[:3])
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    allowed = "" if most == MOST_MEGAPIXELS else f" --max-megapixels {most:g}"
    return (
        f"{len(bad)} of {counted(total, 'file')} cannot be read as images: {shown}{more} "
        f"(mend or remove them, or leave them out with --skip-bad; a list: study data bad {quote(str(root))}{allowed})"
    )


def fingerprint_of(paths: Sequence[str], contents: Sequence[str], labels: Sequence[str] | None) -> str:
    """Hash images by their paths and contents, and by their labels if a list gives them."""
    total = hashlib.sha256()
    for number, (path, content) in enumerate(zip(paths, contents, strict=True)):
        label = f"\0{labels[number]}" if labels else ""
        total.update(f"{path}\0{content}{label}\n".encode())
    return total.hexdigest()
