"""Names of studies: which are allowed, and which a file has; and the default database."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from study import StudyError
from study.storage.sqlite.tables import ended_after, irregular, stranger

DEFAULT_URL = "sqlite:///optuna.db"

CACHE = Path("runs/cache")
"""Folder of decoded images for commands without a study, and for studies that were begun in the current folder."""

LONGEST_NAME = 200
"""Bytes of a study's name at most, since its folder has the same name."""


def is_name(name: str) -> bool:
    """Return whether a study may have a name: letters, digits, dots, dashes and underscores, harmless in a shell."""
    return bool(re.fullmatch(r"\w[\w.-]{0,99}", name)) and len(name.encode(errors="replace")) <= LONGEST_NAME


def check_name(name: str) -> str:
    """Return the name of a study, which its folder has too. Raises StudyError when it is not allowed."""
    if not is_name(name):
        raise StudyError(
            f"not a study name: {name[:120]!r} (letters, digits, dots, dashes and underscores, up to 100, and "
            f"{LONGEST_NAME} bytes)"
        )
    return name


SECONDS, MOST_NAMES, LONGEST_ROW = 0.3, 1000, 1 << 20
"""Limits of `names_in`: seconds that a shell waits, names that it is offered, and bytes of a row with a name."""


def names_in(file: Path) -> list[str]:
    """List the studies of a SQLite file whose names are allowed; none where the file cannot be read at once.

    For a shell that completes a word: nothing is imported that takes time, and other names, which another program
    chose, are left out, since a shell may obey what is in them.
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
