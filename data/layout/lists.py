"""Lists of images with their labels: a CSV file with paths and labels, or Hugging Face's metadata files."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data import DataError, counted
from data.layout.found import LISTS, UNLISTED, Listing, relative, walk
from data.layout.names import normal, refuse_alike, spelled
from data.layout.tables import read_table

PART_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("cal", "calib", "calibration"), "cal"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Usual names of parts, in lower case -> our name of the part."""

METADATA = ("metadata.csv", "metadata.jsonl")
"""Names of Hugging Face's metadata files."""
PATHS, PARTS = ("path", "file_name"), ("part", "split")
"""Names of the columns that name a file and its part; the first of each is our own."""
GROUP = "group"
"""Name of the column that says which images share a source, unless another is given."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a list: an image with its label, group and part."""

    path: str
    label: str | None
    group: str | None
    part: str | None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a list, and its columns that are not used."""

    rows: list[Row]
    unused: tuple[str, ...]


def of_kind(left_out: Mapping[str, str]) -> dict[str, str]:
    """Return left-out files with their reasons; the reason of a list is replaced by LISTS."""
    lists = {*METADATA, "groups.csv"}
    return {path: LISTS if PurePosixPath(path).name in lists else why for path, why in left_out.items()}


def part_list(file: Path, paths: Iterable[str], left_out: Iterable[str]) -> dict[str, str]:
    """Read the part of each path from a CSV file with the columns path and part.

    Raises DataError if the file cannot be used, lacks a path, or names one that is not in `paths` or `left_out`.
    """
    known, others = set(paths), set(left_out)
    found = _column(_as_spelled(_rows(file, PATHS, PARTS).rows, known | others), "part", str(file)) or {}
    missing = sorted(known - found.keys())
    extra = sorted(found.keys() - known - others)
    if missing or extra:
        what = (
            f"lacks {counted(len(missing), 'image')}"
            if missing
            else f"names {counted(len(extra), 'image that is', 'images that are')} not there"
        )
        raise DataError(
            f"{file} {what}, for example {(missing or extra)[0]} (it must list all {counted(len(known), 'image')})"
        )
    return {path: found[path] for path in paths}


def is_imagefolder(folder: Path, inside: Callable[[Path], list[Path]]) -> bool:
    """Return whether a metadata file lists the files beside it; next to class folders it needs a column file_name."""
    there = _metadata(folder)
    if there is None:
        return False
    columns: tuple[str, ...] = ()
    with suppress(DataError):  # an error is reported when the file is used
        columns = read_table(there).columns
    return "file_name" in columns or not inside(folder)


def _metadata(folder: Path) -> Path | None:
    there = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(there) > 1:
        raise DataError(f"{folder} holds both {' and '.join(METADATA)} (move one away)")
    return there[0] if there else None


def from_list(file: Path, groups: str) -> Listing:
    """Read a CSV file with the columns path and label, and perhaps part and the column that `groups` names.

    Paths are relative to the folder of the file.
    """
    if file.suffix.lower() != ".csv":
        raise DataError(f"not a folder: {file} (give the folder that holds one folder per class, or a CSV list)")
    root = file.parent
    found = _rows(file, PATHS, ("label",), groups=groups)
    if any(not row.path.isascii() and not (root / row.path).exists() for row in found.rows):
        found = replace(found, rows=_as_spelled(found.rows, relative(root, dict.fromkeys(walk(root).files, ""))))
    beside: dict[str, str] = {}
    for folder in sorted({PurePosixPath(row.path).parent for row in found.rows}):
        if (root / folder).is_dir():  # only folders with listed files are looked into
            beside |= {str(folder / path.name): UNLISTED for path in (root / folder).iterdir() if not path.is_dir()}
    return _listing(root, found, file.name, beside | ({file.name: LISTS} if file.name in beside else {}))


def with_metadata(
    root: Path, folders: list[Path], parts: Mapping[Path, str], own: Collection[Path], groups: str
) -> Listing:
    """List files beside a metadata file, in the folder or in each of its parts; labels are from it, or from folders."""
    rows: list[Row] = []
    unused: list[str] = []
    name = METADATA[0]
    for folder in folders:
        file = _metadata(folder) or folder / METADATA[0]
        found, name = _rows(file, ("file_name",), groups=groups), file.name
        unused += found.unused
        inner, labelled = folder.relative_to(root), any(row.label for row in found.rows)
        for row in found.rows:
            if labelled and not row.label:
                raise DataError(f"{file}: {row.path} has no label, others have (fill in all, or none)")
            path = str(PurePosixPath(inner, row.path))
            first = PurePosixPath(row.path).parts[0].lower()
            part = parts.get(folder) or row.part or (PART_OF.get(first) if "/" in row.path else None)
            label = row.label or (PurePosixPath(path).parts[-2] if len(PurePosixPath(path).parts) > 1 else None)
            if label is None or (row.label is None and label.lower() in PART_OF):
                raise DataError(f"{file} has no column label, and {path} lies in no class folder")
            rows.append(Row(path=path, label=normal(label), group=row.group, part=part))
    linked = [folder for folder in folders if folder != root]
    walked = [walk(root, own, apart=linked), *(walk(folder, own) for folder in linked)]
    files: dict[Path, str] = {}
    for one in walked:
        files |= dict.fromkeys(one.files, UNLISTED) | one.left_out
    there = of_kind(relative(root, files))
    both = Rows(rows=_as_spelled(rows, there), unused=tuple(dict.fromkeys(unused)))
    return _listing(root, both, name, there)


def _as_spelled(rows: list[Row], there: Iterable[str]) -> list[Row]:
    """Return rows with their paths as the disk spells them."""
    other = spelled((row.path for row in rows), there)
    return [replace(row, path=other.get(row.path, row.path)) for row in rows] if other else rows


def _listing(root: Path, found: Rows, listed_in: str, files: Mapping[str, str]) -> Listing:
    """Make a Listing from the rows of a list; a column that has a value in one row must have one in every row.

    `files`: other files that are there -> why they are left out.
    """
    rows = found.rows
    names = sorted({row.label for row in rows if row.label})
    if len(names) < 2:
        raise DataError(
            f"{listed_in} in {root} names {counted(len(names), 'class', 'classes')} (at least two are needed)"
        )
    refuse_alike(names, "classes", listed_in)
    labels: dict[str, int] = {}
    for row in rows:
        assert row.label is not None
        number = names.index(row.label)
        if labels.setdefault(row.path, number) != number:
            raise DataError(
                f"{listed_in}: {row.path} is listed under two classes, {names[labels[row.path]]} and {row.label}"
            )
    groups = _column(rows, "group", listed_in)
    refuse_alike((groups or {}).values(), "groups", listed_in)
    through = {str(folder) for path in labels for folder in PurePosixPath(path).parents}  # a folder may be a link
    return Listing(
        root=root,
        classes=tuple(names),
        labels=dict(sorted(labels.items())),
        groups=groups,
        parts=_column(rows, "part", listed_in),
        listed_in=listed_in,
        left_out={path: why for path, why in files.items() if path not in labels and path not in through},
        unused=found.unused,
        classes_from=f"from {listed_in}",
    )


def _column(rows: list[Row], name: str, listed_in: str) -> dict[str, str] | None:
    """Return path -> value of a column; None if no row has a value. Raises DataError if only some rows have one."""
    found: dict[str, str] = {}
    for row in rows:
        value = getattr(row, name)
        if value and found.setdefault(row.path, value) != value:
            raise DataError(f"{listed_in}: {row.path} has two {name}s, {found[row.path]} and {value}")
    if found and (empty := [row.path for row in rows if row.path not in found]):
        raise DataError(
            f"{listed_in}: {counted(len(empty), 'row has', 'rows have')} no {name}, for example {empty[0]} "
            "(fill in all, or none)"
        )
    return found or None


def _rows(file: Path, *needed: tuple[str, ...], groups: str = GROUP) -> Rows:
    """Read the rows of a list. `groups` names the column of the groups, which may be missing only if it is GROUP.

    Raises DataError if one of the `needed` columns is missing (of each tuple of names, one is needed), or has an empty
    cell.
    """
    try:
        table = read_table(file)
    except OSError as error:
        raise DataError(f"cannot read the list {file}: {error}") from error
    for names in needed:
        if not set(names) & set(table.columns):
            raise DataError(f"{file} has no column {names[0]} (it has: {', '.join(table.columns) or 'none'})")
    if groups != GROUP and groups not in table.columns:
        raise DataError(
            f"groups = 'column:{groups}': {file} has no such column (it has: {', '.join(table.columns) or 'none'})"
        )
    rows = [_row(cells, needed, groups, file.parent, f"{file}, line {line}") for line, cells in table.rows]
    if not rows:
        raise DataError(f"{file} lists no images")
    meant = {*PATHS, *PARTS, "label", groups}
    return Rows(rows=rows, unused=tuple(name for name in table.columns if name and name not in meant))


def _row(
    cells: Mapping[str, str | None], needed: tuple[tuple[str, ...], ...], groups: str, root: Path, where: str
) -> Row:
    def cell(*names: str) -> str | None:
        return next((value.strip() for name in names if (value := cells.get(name)) and value.strip()), None)

    for names in needed:
        if cell(*names) is None:
            raise DataError(f"{where}: no {names[0]}")
    part = cell(*PARTS)
    if part and normal(part).lower() not in PART_OF:
        raise DataError(f"{where}: part {part!r} is none of {', '.join(PART_OF)}")
    path = os.path.normpath((cell(*next(iter(needed), PATHS), *PATHS) or "").replace("\\", "/"))
    path = os.path.relpath(path, root.absolute()) if os.path.isabs(path) else path
    if path == ".":
        raise DataError(f"{where}: no file is named")
    if path == ".." or path.startswith("../"):
        raise DataError(f"{where}: {path} does not lie below the list's folder (paths count from there)")
    label, group = (normal(value) if (value := cell(name)) else None for name in ("label", groups))
    return Row(path=path, label=label, group=group, part=part and PART_OF[normal(part).lower()])
