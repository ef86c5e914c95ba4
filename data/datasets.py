"""Where images come from: the embedded datasets and any folder of class folders, as one uint8 array."""

import csv
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data import DataError, Progress, tissue
from data.cache import decoded, publish
from data.grouping.sources import join, sources
from data.images import MOST_MEGAPIXELS, source_size
from data.known import FETCHED

logger = logging.getLogger(__name__)

EMBEDDED = ("digits", "tissue")
"""Datasets that need no download."""

CONTAINERS = {"lung_colon_image_set", "lung_image_sets", "colon_image_sets"}
"""Folders of the LC25000 archive that hold class folders instead of images."""

SURVEYED = 40
"""Files whose size is looked at."""

PART_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing", "dev"}


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Every image of a dataset, decoded at one size."""

    root: Path
    images: NDArray[np.uint8]  # [N, H, W, 3], RGB
    labels: NDArray[np.int64]  # [N], index into classes
    classes: tuple[str, ...]
    paths: tuple[str, ...]  # [N], relative to root, with forward slashes
    groups: NDArray[np.int64]  # [N], images of one source share a number
    groups_from: str  # how the groups are known, for people
    contents: tuple[str, ...]  # [N], SHA-256 of each file
    fingerprint: str  # SHA-256 over relative paths and file contents
    skipped: tuple[str, ...]  # files left out on request, with the reason
    synthetic: bool


def load(
    source: str,
    image_size: int,
    cache: Path,
    *,
    groups: str | None = None,
    skip_bad: bool = False,
    max_megapixels: float = MOST_MEGAPIXELS,
    progress: Progress | None = None,
) -> ImageSet:
    """Load an embedded dataset by name, or a folder by path (see load_folder); embedded ones are written to `cache`."""
    root = embedded(source, cache) if source in EMBEDDED else _folder(cache / source if source in FETCHED else source)
    return load_folder(
        root,
        image_size,
        cache,
        groups=groups,
        skip_bad=skip_bad,
        max_megapixels=max_megapixels,
        progress=progress,
    )


def _folder(source: str | Path) -> Path:
    if "\0" in str(source):
        raise DataError(f"no such folder: {str(source)!a}")
    root = Path(source).expanduser()
    if not root.exists() and root.name in FETCHED:
        raise DataError(f"{root.name} is not here yet (get it with: study data fetch {root.name})")
    if not root.exists():
        raise DataError(f"no such folder: {source} (give a folder of class folders, or one of: {', '.join(EMBEDDED)})")
    if not root.is_dir():
        raise DataError(f"not a folder: {source} (give the folder that holds one folder per class)")
    if not _encodes(str(root.absolute())):  # it is written into databases, cards and pages
        raise DataError(f"the folder's name is not UTF-8: {str(root.absolute())!a} (rename it)")
    return root


def embedded(name: str, cache: Path) -> Path:
    """The folder of an embedded dataset, written on first use."""
    folder = cache / name
    if not folder.exists():
        try:
            publish(folder, _write_digits) if name == "digits" else tissue.generate(folder)
        except OSError as error:
            raise DataError(f"cannot write the embedded images to {folder}: {error.strerror or error}") from error
    return folder


def _write_digits(folder: Path) -> None:
    """scikit-learn's copy of the UCI handwritten digits: 1,797 real images of 8x8 pixels, values 0 to 16."""
    from sklearn.datasets import load_digits  # imported late: a second, and needed once

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    with (folder / "groups.csv").open("w", newline="") as handle:  # the writers are not published
        names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
        csv.writer(handle).writerows([("path", "group"), *((name, name) for name in names)])


def load_folder(
    root: Path,
    image_size: int,
    cache: Path,
    *,
    groups: str | None = None,
    skip_bad: bool = False,
    max_megapixels: float = MOST_MEGAPIXELS,
    progress: Progress | None = None,
) -> ImageSet:
    """The images of a folder of class folders, decoded once into `cache`, and who shares a source (see sources).

    Raises DataError with one line that says what is wrong.
    """
    folders, files = _labelled(root, cache)
    strange = [path for path in files if not _encodes(path)]
    if strange:
        raise DataError(f"{len(strange)} file names are not UTF-8, for example {strange[0]!a} in {root} (rename them)")
    images = decoded(root, list(files), image_size, cache, progress, max_megapixels)
    if images.bad and not skip_bad:
        raise DataError(_bad_files(images.bad, len(files)))
    labels = np.array([files[path] for path in images.paths], np.int64)
    counts = np.bincount(labels, minlength=len(folders))
    if 0 in counts:
        raise DataError(f"class folder without images: {list(folders)[int(np.argmin(counts))]} in {root}")
    fingerprint = _fingerprint(images.paths, images.contents)
    names, origin = sources(root, images.paths, images.bad, groups, cache, fingerprint, progress)
    joined = join(zip(names, images.contents, strict=True))
    merged = len(set(names)) - len(set(joined.tolist()))
    if merged:
        origin += f"; identical files in several groups joined {merged + 1} or more of them"
    return ImageSet(
        root=root,
        images=images.images,
        labels=labels,
        classes=tuple(folders),
        paths=images.paths,
        groups=joined,
        contents=images.contents,
        groups_from=origin,
        fingerprint=fingerprint,
        skipped=tuple(f"{path}: {why}" for path, why in images.bad.items()),
        synthetic=all(name.startswith("synthetic_") for name in folders),
    )


def _labelled(root: Path, cache: Path) -> tuple[dict[str, Path], dict[str, int]]:
    """The class folders, and the number of the class of each file (relative path). Raises DataError."""
    try:
        folders = class_folders(root, cache)
        return folders, {
            path.relative_to(root).as_posix(): label
            for label, folder in enumerate(folders.values())
            for path in _files(folder)
        }
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror}") from error


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What can be said of a dataset without reading its images."""

    classes: int
    count: int
    side: int | None  # median of the shorter side of some files, pixels
    grouped: bool  # somebody says who shares a source
    imbalance: float  # images of the largest class over those of the smallest
    some: tuple[Path, ...]  # of the files, evenly spaced


def survey(source: str, cache: Path, groups: str | None = None) -> Survey:
    """Look at a dataset; writes nothing. Raises DataError as `load` does."""
    if source in EMBEDDED and not (cache / source).exists():
        count, side, classes = {"digits": (1797, 8, 10), "tissue": (600, 96, 5)}[source]
        return Survey(classes=classes, count=count, side=side, grouped=True, imbalance=1.0, some=())
    root = cache / source if source in EMBEDDED else _folder(cache / source if source in FETCHED else source)
    folders, files = _labelled(root, cache)
    names = list(files)
    some = tuple(root / name for name in names[:: max(1, len(names) // SURVEYED)][:SURVEYED])
    size = source_size(some)
    known = groups not in (None, "auto") or (groups is None and (root / "groups.csv").is_file())
    counts = np.bincount(list(files.values()), minlength=len(folders))
    return Survey(
        classes=len(folders),
        count=len(files),
        side=size and min(size),
        grouped=known,
        imbalance=float(counts.max() / max(1, counts.min())),
        some=some,
    )


def _encodes(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad_files(bad: dict[str, str], total: int) -> str:
    shown = "; ".join(f"{path}: {why}" for path, why in list(bad.items())[:3])
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return (
        f"{len(bad)} of {total} files cannot be read as images: {shown}{more} "
        "(mend or remove them, or leave them out with --skip-bad)"
    )


def class_folders(root: Path, cache: Path) -> dict[str, Path]:
    """Class name -> folder, sorted by name; LC25000's archive layout is looked through, and our own runs/ left out."""
    own = {cache.resolve(), *cache.resolve().parents}
    found: dict[str, Path] = {}
    queue = [root]
    while queue:
        for folder in _visible(queue.pop())[0]:
            if folder.name.startswith("__") or folder.resolve() in own:
                continue
            if folder.name in CONTAINERS:
                queue.append(folder)
            elif folder.name in found:
                raise DataError(f"two class folders named {folder.name}: {found[folder.name]} and {folder}")
            else:
                if folder.is_symlink():
                    logger.warning(f"the class {folder.name} is a link to {folder.resolve()}")
                found[folder.name] = folder
    if not found:
        raise DataError(f"no class folders in {root} (one folder per class is needed, with its images inside)")
    if {name.lower() for name in found} <= PART_NAMES:
        raise DataError(
            f"{', '.join(sorted(found))} in {root} look like parts, not classes "
            "(give one folder whose folders are the classes; the parts are made here)"
        )
    if len(found) == 1:
        raise DataError(f"only one class folder in {root}: {next(iter(found))} (at least two are needed)")
    return dict(sorted(found.items()))


def _files(folder: Path) -> list[Path]:
    """Every file below `folder`, but for hidden ones; links to folders are not followed (they may loop)."""
    folders, found = _visible(folder)
    for inner in folders:
        if not inner.is_symlink():
            found += _files(inner)
    return sorted(found)


def _visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder that are not hidden, each sorted."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = {path for path in entries if path.is_dir()}
    files = [path for path in entries if path not in folders and path.name.lower() != "thumbs.db"]
    return sorted(folders), files


def conflicting(dataset: ImageSet) -> int:
    """How many files have the same content as a file of another class."""
    labels: dict[str, set[int]] = {}
    for content, label in zip(dataset.contents, dataset.labels.tolist(), strict=True):
        labels.setdefault(content, set()).add(label)
    return sum(len(labels[content]) > 1 for content in dataset.contents)


def _fingerprint(paths: Sequence[str], contents: Sequence[str]) -> str:
    total = hashlib.sha256()
    for path, content in zip(paths, contents, strict=True):
        total.update(f"{path}\0{content}\n".encode())
    return total.hexdigest()
