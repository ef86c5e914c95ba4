"""Listing images with their labels, from the usual layouts of folders and lists.

These layouts are read: class folders (the first or the last folder of each path), class folders inside folders named
after parts (train, val, test), a CSV list, and the layout that Hugging Face calls imagefolder (metadata.csv or
metadata.jsonl).
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from data import DataError, counted
from data.layout.found import (
    IMAGES,
    NOT_ONLY,
    OUTSIDE,
    WITHOUT,
    Listing,
    folders_in,
    own_folders,
    relative,
    walk,
)
from data.layout.lists import GROUP, PART_OF, from_list, is_imagefolder, of_kind, with_metadata
from data.layout.names import normal, refuse_alike

logger = logging.getLogger(__name__)

CONTAINERS = {"lung_colon_image_set", "lung_image_sets", "colon_image_sets"}
"""Folders of the LC25000 archive that hold class folders instead of images."""

NUMBERED = re.compile(r"(fold|part|split|set)[ _-]?\d+", re.IGNORECASE)
"""Pattern of the names of folders that divide the images and are not classes."""

COLUMN = "column:"
"""Prefix of the setting `groups` if it names a column of a list."""

Inside = Callable[[Path], list[Path]]
"""A function that returns the folders in a folder that may be classes or parts."""


def listing(
    source: Path,
    cache: Path,
    labels_from: str = "first",
    *,
    groups: str | None = None,
    without: Sequence[str] = (),
    only: str | None = None,
) -> Listing:
    """List the images of a folder, or of a list of images, with their labels. Raises DataError if that is impossible.

    `cache`: our own cache, left out with our folders around it if it lies inside the folder. `labels_from`: the class
    is the "first" folder of each path (inside a part), or the "last" one. `groups`: "column:NAME" names the column of a
    list that says which images share a source; other values are ignored here. `without`: classes to leave out. `only`:
    a glob pattern of the names of files to use, such as "*.jpg".
    """
    if labels_from not in ("first", "last"):
        raise DataError(f"labels_from = {labels_from!r}: allowed is first or last (folder of each path)")
    column = normal(groups.removeprefix(COLUMN)) if groups and groups.startswith(COLUMN) else None
    last, key = labels_from == "last", column or GROUP
    try:
        if source.is_file():
            found = from_list(source, key)
        else:
            found = _from_folder(source, own_folders(cache, source), key, last=last)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or source}: {error.strerror}") from error
    if labels_from == "last" and found.listed_in:
        raise DataError(
            f"labels_from = 'last' is for folders, and here {found.listed_in} names the files (leave it out)"
        )
    if column is not None and not found.groups:
        where = f"{found.listed_in} fills no cell of it" if found.listed_in else "the images come from folders"
        raise DataError(f"groups = {groups!r}: {where} (a column is one of a CSV list; give the list as the data)")
    if strange := [path for path in found.labels if not encodes(path)]:
        raise DataError(
            f"{counted(len(strange), 'file name is', 'file names are')} not UTF-8, for example {strange[0]!a} "
            f"in {source} (rename them)"
        )
    return _chosen(found, without, only)


def _chosen(found: Listing, without: Sequence[str], only: str | None) -> Listing:
    """Return a listing without the classes `without`, and without files that do not match `only`. Raises DataError."""
    gone = set(map(normal, without))
    if unknown := sorted(gone - set(found.classes)):
        raise DataError(f"without = {unknown[0]!r}: no such class (there are: {', '.join(found.classes)})")
    fates = {path: WITHOUT for path, number in found.labels.items() if found.classes[number] in gone}
    if only is not None:  # upper and lower case match, since cameras write .JPG
        names = {path: PurePosixPath(path).name.lower() for path in found.labels if path not in fates}
        fates |= {path: NOT_ONLY for path, name in names.items() if not fnmatchcase(name, only.lower())}
    if not fates:
        return found
    kept = {path: found.classes[number] for path, number in found.labels.items() if path not in fates}
    classes = tuple(sorted(set(found.classes) - gone))
    if only is not None and (empty := sorted(set(classes) - set(kept.values()))):
        raise DataError(
            f"only = {only!r} leaves no file of the class {empty[0]} (for example --set 'only=*.jpg'; a class is left "
            f"out with --set without={empty[0]})"
        )
    if len(classes) < 2:
        raise DataError(
            f"without leaves {len(classes)} of {counted(len(found.classes), 'class', 'classes')} "
            "(at least two are needed)"
        )
    return replace(
        found,
        classes=classes,
        labels={path: classes.index(name) for path, name in kept.items()},
        groups=found.groups and {path: found.groups[path] for path in kept},
        parts=found.parts and {path: found.parts[path] for path in kept},
        left_out=found.left_out | fates,
    )


def encodes(path: str) -> bool:
    """Return whether a name can be encoded as UTF-8, as databases, cards and pages need it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_folder(root: Path, own: Collection[Path], groups: str, *, last: bool) -> Listing:
    def inside(folder: Path) -> list[Path]:
        return folders_in(folder, own)

    if is_imagefolder(root, inside):
        return with_metadata(root, [root], {}, own, groups)
    folders = inside(root)
    parts = {folder: PART_OF[folder.name.lower()] for folder in folders if folder.name.lower() in PART_OF}
    if ("train" in parts.values() and len(parts) > 1) or (folders and len(parts) == len(folders)):
        return _divided(root, folders, parts, inside, own, groups, last=last)
    if last:
        return _by_last_folder(root, [root], inside, own, "the last folder of each path")
    classes = _class_folders(root, inside)
    _check_classes(root, classes, inside)
    return _gathered(root, classes, tuple(sorted(set(classes.values()))), own, "the folders directly inside")


def _divided(
    root: Path,
    folders: list[Path],
    parts: Mapping[Path, str],
    inside: Inside,
    own: Collection[Path],
    groups: str,
    *,
    last: bool,
) -> Listing:
    """List folders named after parts, each of which holds class folders, or files with a metadata file."""
    if others := [folder.name for folder in folders if folder not in parts]:
        raise DataError(
            f"{root} holds parts ({', '.join(folder.name for folder in parts)}) and other folders "
            f"({', '.join(others[:3])}): move the others away, or list the images in a CSV file (path, label, part)"
        )
    if any(is_imagefolder(folder, inside) for folder in parts):
        return with_metadata(root, list(parts), parts, own, groups)
    if last:
        found = _by_last_folder(root, list(parts), inside, own, "the last folder of each path, inside the parts")
        return replace(found, parts=_part_of(root, found.labels, parts))
    classes = {folder: name for part in parts for folder, name in _class_folders(part, inside).items()}
    names = sorted(set(classes.values()))
    if len(names) < 2:
        raise DataError(
            f"the parts in {root} hold one class folder only, {names[0]} (each needs its class folders inside; "
            "or list the images in a CSV file: path, label, part)"
        )
    refuse_alike(names, "classes", root)
    found = _gathered(root, classes, tuple(names), own, "the folders directly inside the parts")
    return replace(found, labels=dict(sorted(found.labels.items())), parts=_part_of(root, found.labels, parts))


def _part_of(root: Path, paths: Iterable[str], parts: Mapping[Path, str]) -> dict[str, str]:
    return {path: parts[folder] for folder in parts for path in paths if (root / path).is_relative_to(folder)}


def _gathered(
    root: Path, classes: Mapping[Path, str], names: tuple[str, ...], own: Collection[Path], classes_from: str
) -> Listing:
    """List the files below class folders, in the order of the folders; all other files below the root are left out."""
    labels: dict[str, int] = {}
    rest = walk(root, own, apart=set(classes))
    left_out = rest.left_out | dict.fromkeys(rest.files, OUTSIDE)
    for folder, name in classes.items():
        mine, number = walk(folder, own), names.index(name)
        labels |= {path.relative_to(root).as_posix(): number for path in mine.files}
        left_out |= mine.left_out
    return Listing(
        root=root, classes=names, labels=labels, left_out=of_kind(relative(root, left_out)), classes_from=classes_from
    )


def _by_last_folder(
    root: Path, places: list[Path], inside: Inside, own: Collection[Path], classes_from: str
) -> Listing:
    """List the files below the folders in `places` (the root, or its parts); the class of a file is the folder that
    contains it."""
    folders = {folder: "" for place in places for folder in inside(place)}
    found = _gathered(root, folders, ("",), own, classes_from)
    loose = [path for path, why in found.left_out.items() if why == OUTSIDE]
    if images := [path for path in loose if PurePosixPath(path).suffix.lower() in IMAGES]:
        raise DataError(
            f"labels_from = 'last': {counted(len(images), 'image lies', 'images lie')} in no class folder, "
            f"for example {root / images[0]} (move them)"
        )
    last = {path: PurePosixPath(path).parent.name for path in found.labels}
    refuse_alike(last.values(), "classes", root)
    names = sorted(set(map(normal, last.values())))
    if len(names) < 2:
        lie = f"all files in {root} lie in folders named {names[0]}" if names else f"no files in the folders of {root}"
        raise DataError(f"labels_from = 'last': {lie} (at least two classes are needed; or take labels_from=first)")
    labels = {path: names.index(normal(name)) for path, name in sorted(last.items())}
    return replace(found, classes=tuple(names), labels=labels)


def _class_folders(root: Path, inside: Inside) -> dict[Path, str]:
    """Return folder -> class name, sorted by name; the outer folders of LC25000's archive are looked into."""
    found: dict[Path, str] = {}
    known: dict[str, Path] = {}
    queue = [root]
    while queue:
        for folder in inside(queue.pop()):
            if folder.name in CONTAINERS:
                queue.append(folder)
            else:
                if (twin := known.setdefault(folder.name, folder)) != folder:
                    raise DataError(f"two class folders named {folder.name}: {twin} and {folder}")
                if folder.is_symlink():
                    logger.warning(f"the class {folder.name} is a link to {folder.resolve()}")
                found[folder] = normal(folder.name) or folder.name
    if not found:
        raise DataError(
            f"no class folders in {root} (one folder per class is needed, with its images inside; or give a CSV file "
            "with the columns path and label)"
        )
    refuse_alike((folder.name for folder in found), "classes", root)
    _refuse_divisions(root, list(found), inside)
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def _refuse_divisions(root: Path, folders: list[Path], inside: Inside) -> None:
    """Raise DataError if the folders divide the images (fold1, fold2) and the folders inside them are the classes."""
    if not all(NUMBERED.fullmatch(normal(folder.name)) for folder in folders):
        return
    deeper = sorted({one.name for folder in folders for one in inside(folder)})
    if len(deeper) > 1:
        named = ", ".join(folder.name for folder in folders[:3])
        raise DataError(
            f"{root} holds {named}, which divide the images and are no classes; inside them lie "
            f"{', '.join(deeper[:3])}{' and more' if len(deeper) > 3 else ''} (take these for the classes: --set "
            "labels_from=last, or --labels-from last of study data)"
        )


def _check_classes(root: Path, classes: Mapping[Path, str], inside: Inside) -> None:
    if len(classes) > 1:
        return
    (only,) = classes
    deeper = inside(only)
    if len(deeper) > 1 or any(folder.name.lower() in PART_OF for folder in deeper):
        raise DataError(f"only one folder in {root}, and {counted(len(deeper), 'folder')} inside it (give: {only})")
    raise DataError(f"only one class folder in {root}: {only} (at least two are needed)")
