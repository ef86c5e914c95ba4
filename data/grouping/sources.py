"""Who shares a source, and how that is known: a list, a pattern on names, or the pixels."""

import csv
import io
import logging
import re
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from data import DataError, Progress, at_home
from data.cache import publish
from data.grouping.settings import version
from data.images import read_file, read_text

GROUPS = "groups.json"

logger = logging.getLogger(__name__)


def sources(
    root: Path,
    paths: Sequence[str],
    left_out: Iterable[str],
    groups: str | None,
    cache: Path,
    fingerprint: str,
    progress: Progress | None,
) -> tuple[list[str], str]:
    """The source of each image, as a name, and how it is known. `left_out` are files that a list may still name.

    groups: None (groups.csv in the folder, else as "auto"), "auto" (from the pixels), "none" (every image its own), the
    name of a CSV file, or a pattern on paths with a part named group, such as "(?P<group>patient\\d+)_.*".
    """
    listed = root / "groups.csv"
    if groups is None and listed.is_file():
        return read_groups(listed, paths, left_out), "groups.csv"
    if groups in (None, "auto"):
        return found_groups(root, paths, cache, fingerprint, progress)
    if groups == "none":
        return list(paths), "exact duplicates only"
    if groups.lower().endswith(".csv"):
        return read_groups(at_home(groups), paths, left_out), Path(groups).name
    return match_groups(groups, paths), f"the pattern {groups}"


class Kept(BaseModel):
    """What is written of groups that were found."""

    method: str
    group: list[int]


def found_groups(
    root: Path, paths: Sequence[str], cache: Path, fingerprint: str, progress: Progress | None
) -> tuple[list[str], str]:
    """Groups found from the pixels (see data/grouping/find.py), kept in `cache` for the next start."""
    kept = cache / f"groups-{fingerprint[:24]}-{version()}"

    def write(folder: Path) -> None:
        from data.grouping.find import find_groups  # OpenCV and k-means: seconds to import, and needed once a folder

        tell = progress or (lambda what, done, total: None)
        found = find_groups([root / path for path in paths], progress=lambda d, t: tell("finding groups", d, t))
        kept = Kept(method=found.method, group=found.group.tolist())
        (folder / GROUPS).write_text(kept.model_dump_json(), encoding="utf-8")

    for again in (False, True):
        if not kept.is_dir():
            publish(kept, write)
        try:
            content = Kept.model_validate_json(read_file(kept / GROUPS))
            names = [str(number) for number in content.group]
            if len(names) != len(paths):
                raise ValueError(f"{len(names)} groups for {len(paths)} images")
            return names, f"{content.method}; this finds copies, not patients"
        except (OSError, ValueError) as error:
            if again:
                raise
            logger.warning(f"the groups kept in {kept} were altered ({error}); they are found again")
            shutil.rmtree(kept, ignore_errors=True)
    raise AssertionError("the second attempt returns or raises")


def match_groups(pattern: str, paths: Sequence[str]) -> list[str]:
    """The group that a pattern finds in each path; DataError when it cannot divide the images."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"groups = {pattern!r} is not a regular expression: {error}") from error
    if "group" not in compiled.groupindex:
        raise DataError(f"groups = {pattern!r} needs a part named group: (?P<group>...)")
    with time_limit(PATTERN_SECONDS, f"groups = {pattern!r} takes too long on these names (write it without (...+)+)"):
        matches = [compiled.search(path) for path in paths]
    missing = [path for path, match in zip(paths, matches, strict=True) if match is None]
    if missing:
        raise DataError(
            f"groups = {pattern!r} matches {len(paths) - len(missing)} of {len(paths)} images; "
            f"not, for example: {', '.join(missing[:3])}"
        )
    names = [match["group"] for match in matches if match]
    if len(set(names)) == 1:
        raise DataError(f"groups = {pattern!r} puts all {len(paths)} images into one group: {names[0]!r}")
    return names


PATTERN_SECONDS = 30.0
"""For a pattern on all names; one such as (a+)+$ takes for ever."""


@contextmanager
def time_limit(seconds: float, words: str) -> Iterator[None]:
    """Raise DataError with these words when it takes longer; in a process's main thread, which alone hears signals."""
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
    """The group of each path from a CSV file with the columns path and group (or group_id).

    A `group` is one source wherever it stands; a `group_id` beside a `label` column counts per label (LC25000-clean's
    format). Raises DataError when columns, cells or images are missing, or when the list names images that are not
    there.
    """
    try:
        text = read_text(listed)
        rows = csv.DictReader(io.StringIO(text, newline=""))
        columns = rows.fieldnames or []
        key = next((name for name in ("group", "group_id") if name in columns), None)
        if key is None or "path" not in columns:
            raise DataError(f"{listed} needs the columns path and group; it has: {', '.join(columns) or 'none'}")
        found = _groups_of(rows, key, listed)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the groups in {listed}: {error}") from error
    missing = [path for path in paths if path not in found]
    extra = sorted(found.keys() - set(paths) - set(left_out))
    problems = [
        f"{what} {len(some)} images ({', '.join(some[:3])}{', ...' if len(some) > 3 else ''})"
        for what, some in (("lacks", missing), ("names", extra))
        if some
    ]
    if problems:
        ending = " that are not there" if extra else ""
        raise DataError(f"{listed} {' and '.join(problems)}{ending}; it must list the folder's {len(paths)} images")
    return [found[path] for path in paths]


def _groups_of(rows: "csv.DictReader[str]", key: str, listed: Path) -> dict[str, str]:
    """Path -> group; every row must name both, and no path may have two groups."""
    found: dict[str, str] = {}
    for row in rows:
        if not row["path"] or not row[key]:
            raise DataError(f"{listed}, line {rows.line_num}: a row needs a path and a {key}")
        path = _normal(row["path"])
        group = f"{row.get('label') or ''}/{row[key]}" if key == "group_id" else row[key]
        if found.setdefault(path, group) != group:
            raise DataError(f"{listed}, line {rows.line_num}: {path} stands in two groups, {found[path]} and {group}")
    return found


def _normal(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def join(keys: Iterable[tuple[str, str]]) -> NDArray[np.int64]:
    """Group numbers [N] where two rows share a group when they share either key, directly or through others."""
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
