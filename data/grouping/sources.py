"""Finding out which images share a source, and how that is known: by a list, folders, a pattern, or the pixels."""

import fcntl
import logging
import re
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from data import DataError, Progress, at_home, counted
from data.cache import publish
from data.formats.dicom_folder import patients
from data.grouping.belief import ClosePair
from data.grouping.settings import version
from data.images import read_file
from data.layout.names import normal, refuse_alike, spelled
from data.layout.tables import Table, read_table

GROUPS = "groups.json"
"""Name of the file in which found groups are kept."""

logger = logging.getLogger(__name__)

GroupSource = Literal["list", "pattern", "level", "dicom", "pixels", "files"]
"""The way in which groups are known; "files" means that each file is a source of its own."""


class Sources(NamedTuple):
    """The sources of images: the name of each image's source; how they are known, in words for people and as a
    GroupSource; for a search in the pixels also the pairs near its limit, and whether it could tell copies apart."""

    names: list[str]
    origin: str
    by: GroupSource
    close: tuple[ClosePair, ...] = ()
    told: bool = True


def sources(
    root: Path,
    paths: Sequence[str],
    left_out: Iterable[str],
    groups: str | None,
    cache: Path,
    fingerprint: str,
    progress: Progress | None,
    found_by: str | None = None,
) -> Sources:
    """Find out which images share a source. `left_out` are files that a list may still name.

    `found_by`: the version of the search whose groups are wanted, if they come from pixels; None for the current one.

    `groups`: None (groups.csv in the folder, else as "auto"), "auto" (from the pixels), "none" (every image is its own
    source), "dicom" (by PatientID), the name of a CSV file, "level:2" (the second folder of each path), or a regular
    expression on paths with a named group "group", such as "(?P<group>patient\\d+)_.*".
    """
    listed = root / "groups.csv"
    if groups is None and listed.is_file():
        return Sources(read_groups(listed, paths, left_out), "groups.csv", "list")
    if groups in (None, "auto"):
        return found_groups(root, paths, cache, fingerprint, progress, found_by)
    if groups == "none":
        return Sources(list(paths), "exact duplicates only", "files")
    if groups == "dicom":
        return Sources(_patients(root, paths), "PatientID in the DICOM files", "dicom")
    if groups.lower().endswith(".csv"):
        return Sources(read_groups(at_home(groups), paths, left_out), Path(groups).name, "list")
    if groups.startswith("level:"):
        level = groups.removeprefix("level:")
        if not re.fullmatch("[1-9][0-9]?", level):
            raise DataError(f"groups = {groups!r}: level: and a number from 1 is needed (level:1 is the first folder)")
        return Sources(level_groups(int(level), paths), f"the folders of level {level}", "level")
    return Sources(match_groups(groups, paths), f"the pattern {groups}", "pattern")


def _patients(root: Path, paths: Sequence[str]) -> list[str]:
    """Return the PatientID of each DICOM file. Raises DataError if two look the same; it shows no PatientID."""
    numbers = [normal(number) for number in patients([root / path for path in paths])]
    first: dict[str, tuple[str, str]] = {}
    for number, path in zip(numbers, paths, strict=True):
        other, where = first.setdefault(number.casefold(), (number, path))
        if other != number:
            raise DataError(
                f"groups = 'dicom': the PatientIDs of {where} and {path} differ in upper and lower case only "
                "(give both files one, or a CSV list with groups)"
            )
    return numbers


class KeptGroups(BaseModel):
    """The content of the file in which found groups are kept."""

    method: str
    group: list[int]
    close: tuple[ClosePair, ...] = ()
    told: bool = True


class GroupsGoneError(DataError):
    """Groups that another version found are wanted but no longer kept; if found again, they would be different."""


def found_groups(
    root: Path,
    paths: Sequence[str],
    cache: Path,
    fingerprint: str,
    progress: Progress | None,
    found_by: str | None = None,
) -> Sources:
    """Return the groups found from the pixels (see data/grouping/find.py); they are kept in `cache` for the next time.

    Raises GroupsGoneError if the groups that another version found are wanted, but not in the cache.
    """
    kept = cache / f"groups-{fingerprint[:24]}-{found_by or version()}"
    others = found_by not in (None, version())
    for again in (False, True):
        if not kept.is_dir() and not others:
            _find(kept, [root / path for path in paths], progress)
        try:
            content = KeptGroups.model_validate_json(read_file(kept / GROUPS))
            names = [str(number) for number in content.group]
            if len(names) != len(paths):
                raise ValueError(f"{len(names)} groups for {len(paths)} images")
            if any(not 0 <= number < len(paths) for pair in content.close for number in pair[:2]):
                raise ValueError("a pair of images that are not there")
            said = f"{content.method}; this finds copies, not patients"
            return Sources(names, said, "pixels", content.close, content.told)
        except (OSError, ValueError) as error:
            if others:
                raise GroupsGoneError(f"the groups that an earlier version found are no longer in {kept}") from error
            if again:
                raise
            logger.warning(f"the groups kept in {kept} were altered ({error}); they are found again")
            shutil.rmtree(kept, ignore_errors=True)
    raise AssertionError("the second attempt returns or raises")


def _find(kept: Path, files: Sequence[Path], progress: Progress | None) -> None:
    """Find groups and keep them. An interrupted search continues from intermediate results in a folder beside them."""
    from data.grouping.find import find_groups  # imported late: it takes seconds, and is needed once per folder

    tell = progress or (lambda what, done, total: None)
    work = kept.with_name(f"{kept.name}.work")

    def write(text: str, folder: Path) -> None:
        (folder / GROUPS).write_text(text, encoding="utf-8")

    with only_one(work) as mine:  # of two searches at once, only one keeps intermediate results
        found = find_groups(files, progress=lambda d, t: tell("finding groups", d, t), keep=work if mine else None)
        content = KeptGroups(method=found.method, group=found.group.tolist(), close=found.close, told=found.told)
        publish(kept, partial(write, content.model_dump_json()))
        if mine:  # else another process may still search with what is there
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def only_one(folder: Path) -> Iterator[bool]:
    """Make a folder and lock it; yield whether this process got the lock, so that it alone works there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The lock lies beside the folder, which its holder removes at the end.
    with folder.with_name(f".{folder.name}.lock").open("wb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            folder.mkdir(exist_ok=True)
            yield True


def level_groups(level: int, paths: Sequence[str]) -> list[str]:
    """Return the folder of each path at a level, 1 being the first. Raises DataError if it cannot divide the images."""
    folders = [path.split("/")[:-1] for path in paths]
    if lacking := [path for path, inside in zip(paths, folders, strict=True) if len(inside) < level]:
        raise DataError(
            f"groups = 'level:{level}': {len(lacking)} of {counted(len(paths), 'image')} have no such folder, for "
            f"example {lacking[0]} (levels count the folders of a path from 1; or name the groups by a pattern "
            "or a CSV list)"
        )
    names = [normal(inside[level - 1]) for inside in folders]
    refuse_alike(names, "groups", f"groups = 'level:{level}'")  # P01 and p01
    if len(set(names)) == 1:
        raise DataError(
            f"groups = 'level:{level}' puts all {len(paths)} images into one group: {names[0]!r} (take another level)"
        )
    return names


def match_groups(pattern: str, paths: Sequence[str]) -> list[str]:
    """Return the group that a pattern finds in each path. Raises DataError if it cannot divide the images."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"groups = {pattern!r} is not a regular expression: {error}") from error
    if "group" not in compiled.groupindex:
        raise DataError(f"groups = {pattern!r} needs a part named group: (?P<group>...)")
    with time_limit(PATTERN_SECONDS, f"groups = {pattern!r} takes too long on these names (write it without (...+)+)"):
        matches = [compiled.search(path) for path in paths]
    missing = [path for path, match in zip(paths, matches, strict=True) if not (match and match["group"])]
    if missing:
        raise DataError(
            f"groups = {pattern!r} matches {len(paths) - len(missing)} of {counted(len(paths), 'image')}; "
            f"not, for example: {', '.join(missing[:3])}"
        )
    names = [normal(match["group"]) for match in matches if match]
    refuse_alike(names, "groups", f"groups = {pattern!r}")
    if len(set(names)) == 1:
        raise DataError(f"groups = {pattern!r} puts all {len(paths)} images into one group: {names[0]!r}")
    return names


PATTERN_SECONDS = 30.0
"""Largest number of seconds for matching a pattern with all names, since (a+)+$, for example, would never end."""


@contextmanager
def time_limit(seconds: float, words: str) -> Iterator[None]:
    """Raise DataError with these words if this context takes longer than `seconds`.

    It has an effect only in the main thread of a process, because only that receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(*_: object) -> None:
        raise DataError(words)

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_groups(listed: Path, paths: Sequence[str], left_out: Iterable[str] = ()) -> list[str]:
    """Read the group of each path from a CSV file with the columns path and group (or group_id).

    The same `group` means the same source in all rows; the same `group_id` beside a `label` column does so only within
    a label (the format of LC25000-clean). Raises DataError if columns, cells or images are missing, or if the list
    names images that are neither in `paths` nor in `left_out`.
    """
    try:
        table = read_table(listed)
    except OSError as error:
        raise DataError(f"cannot read the groups in {listed}: {error.strerror}") from error
    key = next((name for name in ("group", "group_id") if name in table.columns), None)
    if key is None or "path" not in table.columns:
        raise DataError(f"{listed} needs the columns path and group; it has: {', '.join(table.columns) or 'none'}")
    found, there = _groups_of(table, key, listed), {*paths, *left_out}
    other = spelled(found, there)
    by_file: dict[str, str] = {}
    for path, group in found.items():
        file = other.get(path, path)
        if by_file.setdefault(file, group) != group:
            raise DataError(f"{listed}: {file} is listed under two groups, {by_file[file]} and {group}")
    found = by_file
    missing = [path for path in paths if path not in found]
    extra = sorted(found.keys() - there)
    problems = [
        f"{what} {counted(len(some), 'image')} ({', '.join(some[:3])}{', ...' if len(some) > 3 else ''})"
        for what, some in (("lacks", missing), ("names", extra))
        if some
    ]
    if problems:
        ending = f" that {'is' if len(extra) == 1 else 'are'} not there" if extra else ""
        raise DataError(
            f"{listed} {' and '.join(problems)}{ending}; it must list the folder's {counted(len(paths), 'image')}"
        )
    return [found[path] for path in paths]


def _groups_of(table: Table, key: str, listed: Path) -> dict[str, str]:
    """Return path -> group; every row must name both, and no path may have two groups."""
    found: dict[str, str] = {}
    for line, row in table.rows:
        named, own = row["path"], normal(row[key] or "")
        if not named or not own:
            raise DataError(f"{listed}, line {line}: a row needs a path and a {key}")
        path = _normal(named)
        group = f"{normal(row.get('label') or '')}/{own}" if key == "group_id" else own
        if found.setdefault(path, group) != group:
            raise DataError(f"{listed}, line {line}: {path} is listed under two groups, {found[path]} and {group}")
    refuse_alike(found.values(), "groups", listed)
    return found


def _normal(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def join(keys: Iterable[tuple[str, str]]) -> NDArray[np.int64]:
    """Return group numbers [N]: two rows are in one group if they share either key, directly or through other rows."""
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def find(node: tuple[int, str]) -> tuple[int, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    rows = [((0, first), (1, second)) for first, second in keys]
    for first, second in rows:
        parent[find(first)] = find(second)
    numbers: dict[tuple[int, str], int] = {}
    return np.array([numbers.setdefault(find(first), len(numbers)) for first, _ in rows], np.int64)
