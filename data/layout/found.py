"""The account of every file in a folder: it is used, or left out for a stated reason."""

import os
import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from shlex import quote

from data import counted
from data.images import is_image

HIDDEN, SYSTEM, LINKED = "hidden", "of an operating system", "behind a link"
OWN, LISTS = "of this program", "a list"
OUTSIDE, UNLISTED, NO_IMAGE = "outside the class folders", "not listed", "no image"
WITHOUT, NOT_ONLY = "of a class that is left out", "of another name than asked for"
"""Reasons why a file is left out, in words."""

SYSTEM_FOLDERS = {"@eadir", "__macosx", "__pycache__", "$recycle.bin", "system volume information"}
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "dicomdir"}
"""Folders and files that operating systems leave beside images, in lower case."""
DATABASE = re.compile(r"optuna\.db(-wal|-shm|-journal)?")
"""Pattern of the names of the usual database's files, which lie wherever a command was given."""

IMAGES = {".bmp", ".dcm", ".dicom", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Suffixes of image files, for warnings and errors alone: formats are recognised by content."""


NO_IMAGES = {
    ".csv",
    ".db",
    ".gz",
    ".html",
    ".ipynb",
    ".json",
    ".jsonl",
    ".log",
    ".md",
    ".pdf",
    ".py",
    ".rst",
    ".tar",
    ".toml",
    ".tsv",
    ".txt",
    ".xlsx",
    ".xml",
    ".yaml",
    ".yml",
    ".zip",
}
"""Suffixes of files that people keep beside images; they are left out, and every other file is tried."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a dataset with their labels, groups and parts, by relative path with forward slashes."""

    root: Path
    classes: tuple[str, ...]  # sorted by name
    labels: dict[str, int]  # path -> number of the class, in the order of the files
    groups: dict[str, str] | None = None  # path -> group (source), if a list names it
    parts: dict[str, str] | None = None  # path -> train, val, cal or test, if the images come divided
    listed_in: str | None = None  # name of the list that gave the labels; None if folders gave them
    left_out: dict[str, str] = field(default_factory=dict)  # every other file that was found -> why it is left out
    unused: tuple[str, ...] = ()  # columns of the list that are not used
    classes_from: str = field(default="", compare=False)  # what gave the classes, in words


@dataclass(frozen=True)
class FolderFiles:
    """All files below a folder."""

    files: list[Path]  # files that may be used, sorted
    left_out: dict[Path, str]  # other files -> why they are left out


def own_folders(cache: Path, place: Path) -> set[Path]:
    """Return this program's folders as they lie below `place`: the cache, `runs` around it, and the folder of work.

    Where at least one in four files of a folder of work is an image, outside `runs`, somebody gave a command inside a
    class or a part: that folder is not this program's. Raises OSError.
    """
    runs = cache.resolve().parent
    own = {cache.resolve(), runs}
    for folder in runs.parents:
        if folder == place.resolve() or not folder.is_relative_to(place.resolve()):
            break
        if _holds_images(walk(folder, own)):
            break
        own.add(folder)
    return own


def _holds_images(found: FolderFiles) -> bool:
    """Return whether at least one in four files is an image, by the content of LOOKED_AT of them."""
    files = sorted([*found.files, *(path for path, why in found.left_out.items() if why == NO_IMAGE)])
    some = random.Random(0).sample(files, min(LOOKED_AT, len(files)))  # every second one may be what lies beside images
    return bool(some) and 4 * sum(map(is_image, some)) >= len(some)


LOOKED_AT = 40
"""Most files of a folder that are looked at to say whether it holds images."""


def walk(folder: Path, own: Collection[Path] = (), apart: Collection[Path] = ()) -> FolderFiles:
    """List every file below a folder. Files in `own` folders, which are this program's, are left out; folders in
    `apart` are not looked into at all.

    Links to folders are not followed, since they may loop; each counts as one file. Raises OSError.
    """
    files: list[Path] = []
    left_out: dict[Path, str] = {}
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if path in apart:
                    continue
                inside = entry.is_dir()
                if why := _passed_over(path, inside=inside, linked=entry.is_symlink(), own=own):
                    below = _everything(path) if inside and not entry.is_symlink() else [path]
                    left_out.update(dict.fromkeys(below, why))
                elif inside:
                    waiting.append(path)
                else:
                    files.append(path)
    return FolderFiles(sorted(files), left_out)


def _passed_over(path: Path, *, inside: bool, linked: bool, own: Collection[Path]) -> str | None:
    if path.name.startswith("."):
        return HIDDEN
    if path.name.lower() in (SYSTEM_FOLDERS if inside else SYSTEM_FILES):
        return SYSTEM
    if not inside and DATABASE.fullmatch(path.name):
        return OWN
    if not inside and path.suffix.lower() in NO_IMAGES:
        return NO_IMAGE
    if inside and linked:
        return LINKED
    return OWN if inside and own and path.resolve() in own else None


def _everything(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder that is left out; subfolders that cannot be read are ignored."""
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        yield Path(entry.path)
        except OSError:
            continue


def folders_in(folder: Path, own: Collection[Path] = ()) -> list[Path]:
    """Return the folders in a folder that may be classes or parts, links to folders included, sorted."""
    with os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if entry.is_dir()]
    return sorted(path for path in found if not _passed_over(path, inside=True, linked=False, own=own))


def relative(root: Path, left_out: Mapping[Path, str]) -> dict[str, str]:
    """Return files that are left out with their paths relative to the root, sorted."""
    return {path.relative_to(root).as_posix(): left_out[path] for path in sorted(left_out)}


SHOWN = 10
"""Largest number of classes that the account names."""


def account(found: Listing, bad: Mapping[str, str] | None = None) -> list[str]:
    """Return lines on what was found in a folder: its classes, the numbers of files used and left out, unused columns.

    `bad`: files that could not be read and are left out -> why.
    """
    unread = bad or {}
    counts = Counter(number for path, number in found.labels.items() if path not in unread)
    named = [f"{name} {counts[number]:,}" for number, name in enumerate(found.classes[:SHOWN])]
    more = f" and {len(found.classes) - SHOWN} more" if len(found.classes) > SHOWN else ""
    fates = found.left_out | {path: _why(why) for path, why in unread.items()}
    used = sum(counts.values())
    left = f"{len(fates):,} left out{': ' if fates else ''}{', '.join(by_reason(fates))}"
    return [
        f"{counted(len(found.classes), 'class', 'classes')} ({found.classes_from}): {', '.join(named)}{more}",
        f"{counted(used + len(fates), 'file')} found = {used:,} used + {left}",
        *_of_columns(found),
    ]


def _why(said: str) -> str:
    """Return the reason why a file cannot be read, in the words of the account."""
    if "not read" in said:
        return "of a format that is not read"
    return "no image" if said == "not an image" else "that cannot be read"


def by_reason(fates: Mapping[str, str]) -> Iterator[str]:
    """Say for each reason how many files are left out, with one of them as an example."""
    for why, count in Counter(fates.values()).most_common():
        mine = (path for path, reason in fates.items() if reason == why)
        yield f"{count:,} {why} ({min(mine, key=_dull)})"


def _dull(path: str) -> tuple[bool, str]:
    """Return a sort key that puts images first, since they are missed most if they are left out."""
    return PurePosixPath(path).suffix.lower() not in IMAGES, path


SOURCES = ("patient", "subject", "slide", "case", "site", "donor")
DIVISIONS = ("fold", "split", "part", "set")
"""Beginnings of the names of columns that may say which images share a source, and how images are divided."""


def _of_columns(found: Listing) -> Iterator[str]:
    if not found.unused:
        return
    yield f"columns of {found.listed_in} that are not used: {', '.join(found.unused)}"
    if found.groups is None and (column := _named(found.unused, SOURCES)):
        yield (
            f"the column {column} may say which images share a source; to keep each in one part: --set "
            f"{quote(f'groups=column:{column}')} (--groups {quote(f'column:{column}')} of study data)"
        )
    if found.parts is None and (column := _named(found.unused, DIVISIONS)):
        yield (
            f"the column {column} may say how the images are divided: call it part in {found.listed_in}, with train, "
            "val and test in it, to keep that"
        )


def _named(columns: Iterable[str], words: tuple[str, ...]) -> str | None:
    return next((column for column in columns if column.lower().startswith(words)), None)
