"""Names of studies: which are allowed, which are in a file; and of the database that is meant unless told."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from study import StudyError

DEFAULT_URL = "sqlite:///optuna.db"

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


def names_in(file: Path) -> list[str]:
    """The studies of a SQLite file that this program could have named; none where it cannot be read.

    For a shell that completes a word: nothing is imported that takes time, and names that another program chose are
    left out, since a shell may obey what is in them.
    """
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=0.5)) as database:
            rows = database.execute("SELECT study_name FROM studies ORDER BY study_id").fetchall()
    except sqlite3.Error:
        return []
    return [name for (name,) in rows if isinstance(name, str) and is_name(name)]
