"""Copies of a SQLite database while others write to it, and the rescue of one that has lost its name."""

import filecmp
import os
import sqlite3
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from shlex import quote

from study import StudyError
from study.storage.sqlite.file import check_file, reader, when_free
from study.storage.sqlite.tables import BESIDE, LONGEST_VALUE

RESCUED = 0x72657363
"""SQLite's application_id of a rescued file: it counts as the database whose name it bears, not as a copy of it."""


def rescue(origin: sqlite3.Connection, file: Path) -> str:
    """Save what an open connection still sees of a database that has lost its name; return what to do now, in words.

    Every worker does so; an older rescue, which somebody may have gone on with, stays as it is.
    """
    try:
        for rescued in numbered(file, "rescued"):
            if _copy(origin, rescued, mark=RESCUED):
                return f" (what it held is in {rescued}: go on with --storage {quote(f'sqlite:///{rescued}')})"
    except (sqlite3.Error, OSError):
        pass
    return " (put it back with its -wal file, then give the same command)"


def numbered(file: Path, ending: str) -> Iterator[Path]:
    """Yield FILE.ENDING, FILE.ENDING-2, FILE.ENDING-3 and so on."""
    return (file.with_name(f"{file.name}.{ending}{f'-{number}' if number > 1 else ''}") for number in count(1))


def copy_file(source: Path, target: Path) -> None:
    """Copy a database while others write to it: SQLite's online backup, checked, then renamed.

    Raises StudyError when the target exists or the copy is not whole.
    """
    check_file(source, create=False, write=False)
    if target.exists() or target.is_symlink():
        raise StudyError(f"{target} exists already (name another place, or remove it first)")
    for left in [target.with_name(target.name + ending) for ending in BESIDE]:
        if left.exists():
            raise StudyError(
                f"{left} is left of another database, and SQLite would take it for a part of {target} (see that nobody "
                f"uses that database, then remove it: rm {quote(str(left))}; or name another place)"
            )
    check_file(target, create=True)
    origin = reader(source)
    try:
        if not when_free(lambda: _copy(origin, target), source):
            raise StudyError(f"{target} was made by another program meanwhile")
    except sqlite3.Error as error:
        raise StudyError(f"cannot copy {source} to {target}: {error}") from error
    finally:
        origin.close()


def _copy(origin: sqlite3.Connection, target: Path, mark: int | None = None) -> bool:
    """Copy a whole database to `target`; return False when that exists with another content.

    `mark`: its application_id. Raises sqlite3.Error and OSError; then nothing was made.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    copy = sqlite3.connect(part)
    copy.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    try:
        origin.backup(copy)  # all pages in one read: nobody's commit starts it over
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, that may be carried away as it is
        if copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'leases'").fetchone():
            copy.execute("DELETE FROM leases")  # workers on the original do not work on the copy
            copy.commit()
        if mark is not None:
            copy.execute(f"PRAGMA application_id = {mark}")
        (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"it is damaged: {verdict}")
        copy.close()
        with part.open("rb+") as handle:
            os.fsync(handle.fileno())
        return _renamed(part, target)
    finally:
        copy.close()
        part.unlink(missing_ok=True)


def _renamed(part: Path, target: Path) -> bool:
    """Give a finished file the name `target`; return False, with nothing replaced, where that has another content."""
    try:
        os.link(part, target)
    except FileExistsError:
        return filecmp.cmp(part, target, shallow=False)
    except OSError:  # a file system without links
        os.rename(part, target)
    return True
