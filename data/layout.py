"""How people keep labelled images: which files there are, and what folders and lists say of each.

Read are class folders (the first or the last ones of each path), the same inside folders named after parts (train, val,
test), a CSV list, and the layout that Hugging Face calls imagefolder (metadata.csv).
"""

import csv
import io
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data import DataError
from data.images import read_text

logger = logging.getLogger(__name__)

CONTAINERS = {"lung_colon_image_set", "lung_image_sets", "colon_image_sets"}
"""Folders of the LC25000 archive that hold class folders instead of images."""

PART_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("cal", "calib", "calibration"), "cal"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""What parts are called, in lower case, and which one of ours that is."""

IMAGES = {".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Endings of files that are missed where they lie in no class folder; what else lies there is left alone."""

METADATA = "metadata.csv"
PATHS, PARTS = ("path", "file_name"), ("part", "split")
"""Columns that name a file, and its part; the first is ours."""


Inside = Callable[[Path], list[Path]]
"""The folders in a folder that may be classes or parts."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a dataset, by relative path with forward slashes, in their order."""

    root: Path
    classes: tuple[str, ...]  # sorted by name
    labels: dict[str, int]  # number of the class
    groups: dict[str, str] | None = None  # who shares a source, where a list says so
    parts: dict[str, str] | None = None  # train, val, cal or test, where the images came divided
    listed_in: str | None = None  # the list that gave the labels; None where folders did


def listing(source: Path, cache: Path, labels_from: str = "first") -> Listing:
    """What a folder, or a list of images, holds; our own `cache` inside it is left out. Raises DataError.

    labels_from: "first", the class is the first folder of each path (inside a part), or "last", it is the last one.
    """
    if labels_from not in ("first", "last"):
        raise DataError(f"labels_from = {labels_from!r}: allowed is first or last (folder of each path)")
    try:
        found = _from_list(source) if source.is_file() else _from_folder(source, cache, last=labels_from == "last")
    except OSError as error:
        raise DataError(f"cannot read {error.filename or source}: {error.strerror}") from error
    if labels_from == "last" and found.listed_in:
        raise DataError(
            f"labels_from = 'last' is for folders, and here {found.listed_in} names the files (leave it out)"
        )
    if strange := [path for path in found.labels if not encodes(path)]:
        raise DataError(
            f"{len(strange)} file names are not UTF-8, for example {strange[0]!a} in {source} (rename them)"
        )
    return found


def encodes(path: str) -> bool:
    """Whether a name can be written into databases, cards and pages."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def part_list(file: Path, paths: Iterable[str], left_out: Iterable[str]) -> dict[str, str]:
    """The part of each path, from a CSV file with the columns path and part. Raises DataError."""
    rows = _rows(file, PATHS, PARTS)
    found = _column(rows, "part", str(file)) or {}
    known = set(paths)
    missing = sorted(known - found.keys())
    extra = sorted(found.keys() - known - set(left_out))
    if missing or extra:
        what = f"lacks {len(missing)} images" if missing else f"names {len(extra)} images that are not there"
        raise DataError(f"{file} {what}, for example {(missing or extra)[0]} (it must list the {len(known)} images)")
    return {path: found[path] for path in paths}


def _from_folder(root: Path, cache: Path, *, last: bool) -> Listing:
    own = {cache.resolve(), *cache.resolve().parents}

    def inside(folder: Path) -> list[Path]:
        return [one for one in _visible(folder)[0] if not one.name.startswith("__") and one.resolve() not in own]

    if _is_imagefolder(root, inside):
        return _with_metadata(root, [root], {})
    folders = inside(root)
    parts = {folder: PART_OF[folder.name.lower()] for folder in folders if folder.name.lower() in PART_OF}
    if ("train" in parts.values() and len(parts) > 1) or (folders and len(parts) == len(folders)):
        return _divided(root, folders, parts, inside, last=last)
    if last:
        return _by_last_folder(root, [root], inside)
    classes = _class_folders(root, inside)
    _check_classes(root, classes, inside)
    return Listing(root=root, classes=tuple(classes), labels=_labels(root, classes, list(classes)))


def _is_imagefolder(folder: Path, inside: Inside) -> bool:
    """Whether metadata.csv lists the files: a table of something else may lie beside class folders."""
    if not (folder / METADATA).is_file():
        return False
    columns: list[str] = []
    with suppress(UnicodeDecodeError, csv.Error):  # said where it is read, if it is
        columns = next(csv.reader(io.StringIO(read_text(folder / METADATA), newline="")), [])
    return "file_name" in columns or not inside(folder)


def _divided(root: Path, folders: list[Path], parts: Mapping[Path, str], inside: Inside, *, last: bool) -> Listing:
    """Folders named after parts, each with class folders, or with files and a metadata.csv."""
    if others := [folder.name for folder in folders if folder not in parts]:
        raise DataError(
            f"{root} holds parts ({', '.join(folder.name for folder in parts)}) and other folders "
            f"({', '.join(others[:3])}): move the others away, or list the images in a CSV file (path, label, part)"
        )
    if any(_is_imagefolder(folder, inside) for folder in parts):
        return _with_metadata(root, list(parts), parts)
    if last:
        found = _by_last_folder(root, list(parts), inside)
        return replace(found, parts=_part_of(root, found.labels, parts))
    classes = {folder: _class_folders(folder, inside) for folder in parts}
    names = sorted({name for found in classes.values() for name in found})
    if len(names) < 2:
        raise DataError(
            f"the parts in {root} hold one class folder only, {names[0]} (each needs its class folders at once inside; "
            "or list the images in a CSV file: path, label, part)"
        )
    labels = {path: number for found in classes.values() for path, number in _labels(root, found, names).items()}
    return Listing(root=root, classes=tuple(names), labels=_sorted(labels), parts=_part_of(root, labels, parts))


def _part_of(root: Path, paths: Iterable[str], parts: Mapping[Path, str]) -> dict[str, str]:
    return {path: parts[folder] for folder in parts for path in paths if (root / path).is_relative_to(folder)}


def _by_last_folder(root: Path, places: list[Path], inside: Inside) -> Listing:
    """Files below the folders in `places` (the root, or its parts), whose class is the folder that they lie in."""
    for place in places:
        if loose := [file for file in _visible(place)[1] if file.suffix.lower() in IMAGES]:
            raise DataError(
                f"labels_from = 'last': {len(loose)} images lie in no class folder, for example {loose[0]} (move them)"
            )
    files = [file for place in places for folder in inside(place) for file in _files(folder)]
    names = sorted({file.parent.name for file in files})
    if len(names) < 2:
        lie = f"all files in {root} lie in folders named {names[0]}" if names else f"no files in the folders of {root}"
        raise DataError(f"labels_from = 'last': {lie} (at least two classes are needed; or take labels_from=first)")
    labels = {file.relative_to(root).as_posix(): names.index(file.parent.name) for file in files}
    return Listing(root=root, classes=tuple(names), labels=_sorted(labels))


def _class_folders(root: Path, inside: Inside) -> dict[str, Path]:
    """Class name -> folder, sorted by name; LC25000's archive layout is looked through."""
    found: dict[str, Path] = {}
    queue = [root]
    while queue:
        for folder in inside(queue.pop()):
            if folder.name in CONTAINERS:
                queue.append(folder)
            elif folder.name in found:
                raise DataError(f"two class folders named {folder.name}: {found[folder.name]} and {folder}")
            else:
                if folder.is_symlink():
                    logger.warning(f"the class {folder.name} is a link to {folder.resolve()}")
                found[folder.name] = folder
    if not found:
        raise DataError(
            f"no class folders in {root} (one folder per class is needed, with its images inside; or give a CSV file "
            "with the columns path and label)"
        )
    return dict(sorted(found.items()))


def _check_classes(root: Path, classes: dict[str, Path], inside: Inside) -> None:
    if len(classes) > 1:
        return
    (only,) = classes.values()
    deeper = inside(only)
    if len(deeper) > 1 or any(folder.name.lower() in PART_OF for folder in deeper):
        raise DataError(f"only one folder in {root}, and {len(deeper)} folders inside it (give: {only})")
    raise DataError(f"only one class folder in {root}: {only} (at least two are needed)")


def _labels(root: Path, classes: dict[str, Path], names: list[str]) -> dict[str, int]:
    return {
        path.relative_to(root).as_posix(): names.index(name)
        for name, folder in classes.items()
        for path in _files(folder)
    }


def _sorted(by_path: dict[str, int]) -> dict[str, int]:
    return dict(sorted(by_path.items()))


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a list."""

    path: str
    label: str | None
    group: str | None
    part: str | None


def _from_list(file: Path) -> Listing:
    """A CSV file with the columns path and label, perhaps group and part; paths count from its folder."""
    if file.suffix.lower() != ".csv":
        raise DataError(f"not a folder: {file} (give the folder that holds one folder per class, or a CSV list)")
    return _listing(file.parent, _rows(file, PATHS, ("label",)), file.name)


def _with_metadata(root: Path, folders: list[Path], parts: Mapping[Path, str]) -> Listing:
    """Files beside a metadata.csv, in the folder or in each of its parts; labels from it, else from folders."""
    rows = []
    for folder in folders:
        found = _rows(folder / METADATA, ("file_name",))
        inner, labelled = folder.relative_to(root), any(row.label for row in found)
        for row in found:
            if labelled and not row.label:
                raise DataError(f"{folder / METADATA}: {row.path} has no label, others have (fill in all, or none)")
            path = str(PurePosixPath(inner, row.path))
            first = PurePosixPath(row.path).parts[0].lower()
            part = parts.get(folder) or row.part or (PART_OF.get(first) if "/" in row.path else None)
            label = row.label or (PurePosixPath(path).parts[-2] if len(PurePosixPath(path).parts) > 1 else None)
            if label is None or (row.label is None and label.lower() in PART_OF):
                raise DataError(f"{folder / METADATA} has no column label, and {path} lies in no class folder")
            rows.append(Row(path=path, label=label, group=row.group, part=part))
    return _listing(root, rows, METADATA)


def _listing(root: Path, rows: list[Row], listed_in: str) -> Listing:
    """What a list says; a column that it has must be filled in every row."""
    names = sorted({row.label for row in rows if row.label})
    if len(names) < 2:
        raise DataError(f"{listed_in} in {root} names {len(names)} classes (at least two are needed)")
    labels: dict[str, int] = {}
    for row in rows:
        assert row.label is not None
        number = names.index(row.label)
        if labels.setdefault(row.path, number) != number:
            raise DataError(f"{listed_in}: {row.path} stands in two classes, {names[labels[row.path]]} and {row.label}")
    groups = _column(rows, "group", listed_in)
    parts = _column(rows, "part", listed_in)
    return Listing(
        root=root, classes=tuple(names), labels=_sorted(labels), groups=groups, parts=parts, listed_in=listed_in
    )


def _column(rows: list[Row], name: str, listed_in: str) -> dict[str, str] | None:
    """Path -> value; None where no row has one."""
    found: dict[str, str] = {}
    for row in rows:
        value = getattr(row, name)
        if value and found.setdefault(row.path, value) != value:
            raise DataError(f"{listed_in}: {row.path} has two {name}s, {found[row.path]} and {value}")
    if found and (empty := [row.path for row in rows if row.path not in found]):
        raise DataError(f"{listed_in}: {len(empty)} rows have no {name}, for example {empty[0]} (fill in all, or none)")
    return found or None


def _rows(file: Path, *needed: tuple[str, ...]) -> list[Row]:
    """The rows of a CSV list. Raises DataError where one of the `needed` columns is missing, or a cell of theirs."""
    try:
        table = csv.DictReader(io.StringIO(read_text(file), newline=""))
        columns = table.fieldnames or []
        for names in needed:
            if not set(names) & set(columns):
                raise DataError(f"{file} has no column {names[0]} (it has: {', '.join(columns) or 'none'})")
        rows = [_row(cells, needed, file.parent, f"{file}, line {table.line_num}") for cells in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the list {file}: {error}") from error
    if not rows:
        raise DataError(f"{file} lists no images")
    return rows


def _row(cells: Mapping[str, str | None], needed: tuple[tuple[str, ...], ...], root: Path, where: str) -> Row:
    def cell(*names: str) -> str | None:
        return next((value.strip() for name in names if (value := cells.get(name)) and value.strip()), None)

    for names in needed:
        if cell(*names) is None:
            raise DataError(f"{where}: no {names[0]}")
    part = cell(*PARTS)
    if part and part.lower() not in PART_OF:
        raise DataError(f"{where}: part {part!r} is none of {', '.join(PART_OF)}")
    path = os.path.normpath((cell(*next(iter(needed), PATHS), *PATHS) or "").replace("\\", "/"))
    path = os.path.relpath(path, root.absolute()) if os.path.isabs(path) else path
    if path == ".":
        raise DataError(f"{where}: no file is named")
    if path == ".." or path.startswith("../"):
        raise DataError(f"{where}: {path} does not lie below the list's folder (paths count from there)")
    return Row(path=path, label=cell("label"), group=cell("group"), part=part and PART_OF[part.lower()])


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
