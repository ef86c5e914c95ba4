"""Names of studies: which are allowed, which are in a file; and of the database that is meant unless told."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from study import StudyError
from study.storage.tables import ended_after, irregular, stranger

DEFAULT_URL = "sqlite:///optuna.db"

CACHE = Path("runs/cache")
"""Decoded images of what is done without a study; that of studies, too, which were begun in the current folder."""

LONGEST_NAME = 200
"""Bytes of a study's name: a folder is called so."""


def is_name(name: str) -> bool:
    """Whether a study may be called so: letters, digits, dots, dashes and underscores, which no shell obeys."""
    return bool(re.fullmatch(r"\w[\w.-]{0,99}", name)) and len(name.encode(errors="replace")) <= LONGEST_NAME


def check_name(name: str) -> str:
    """A study's name is also a folder's; StudyError when it cannot be."""
    if not is_name(name):
        raise StudyError(
            f"not a study name: {name[:120]!r} (letters, digits, dots, dashes and underscores, up to 100, and "
            f"{LONGEST_NAME} bytes)"
        )
    return name


SECONDS, MOST_NAMES, LONGEST_ROW = 0.3, 1000, 1 << 20
"""What a shell waits for, how many names it is offered, and bytes of the rows they stand in."""


def names_in(file: Path) -> list[str]:
    """The studies of a SQLite file that this program could have named; none where it cannot be read at once.

    For a shell that completes a word: nothing is imported that takes time, and names that another program chose are
    left out, since a shell may obey what is in them.
    """
    try:
        if irregular(file):
            return []
        address = f"{file.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=SECONDS)) as database:
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_ROW)
            with ended_after(database, SECONDS):
                if stranger(database):
                    return []
                rows = database.execute(f"SELECT study_name FROM studies ORDER BY rowid LIMIT {MOST_NAMES}").fetchall()
    except (sqlite3.Error, OSError):
        return []
    return [name for (name,) in rows if isinstance(name, str) and is_name(name)]
