"""Checks of a SQLite file from a stranger before it is queried: what it has in the place of tables.

Nothing is imported that takes time, since a shell checks files while it completes a word.
"""

import re
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from study.storage.names import is_name

LONGEST_VALUE = 16 << 20
"""Bytes of one value or row at most, also of one that an expression makes of a few bytes of the file."""
BESIDE = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite keeps beside a database that is open, or that a kill has left."""

SECONDS = 5.0
"""Seconds that looking at the tables may take; it takes a millisecond."""

OURS = re.compile(r"studies|trials|alembic_version|version_info|leases|trial_.*|study_.*", re.IGNORECASE | re.DOTALL)


def irregular_file(file: Path) -> Path | None:
    """Return the database, or one of SQLite's files beside it, if it is no regular file, on which SQLite would hang."""
    for one in (file, *(file.with_name(file.name + ending) for ending in BESIDE)):
        try:
            if not stat.S_ISREG(one.stat().st_mode):
                return one
        except FileNotFoundError:
            continue
    return None


@contextmanager
def limit_reading(connection: sqlite3.Connection, seconds: float, longest: int = LONGEST_VALUE) -> Iterator[None]:
    """Look into a stranger's file: rows have `longest` bytes at most, from now on, and text may be no UTF-8.

    Statements that still run `seconds` from now raise sqlite3.OperationalError.
    """
    end, kept = time.monotonic() + seconds, connection.text_factory
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)
    connection.text_factory = lambda content: content.decode(errors="replace")
    connection.set_progress_handler(lambda: time.monotonic() > end, 1000)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)
        connection.text_factory = kept


def foreign_object(connection: sqlite3.Connection) -> str | None:
    """Return in words what no database of studies has: a trigger, or something that may be endless instead of a table.

    Raises sqlite3.Error where it cannot be read. SQLite says of what kind each table is; before version 3.37, the text
    that created it does.
    """
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' OR sql LIKE 'CREATE%TRIGGER%BEGIN%END%'"
    ).fetchone()
    if found:
        return f"{found[0]} is a trigger"
    kinds = connection.execute("SELECT name, type, sql LIKE 'CREATE%VIRTUAL%TABLE%' FROM sqlite_master").fetchall()
    tables = {name: "virtual table" if virtual else kind for name, kind, virtual in kinds if kind in ("table", "view")}
    for name, kind in tables.items():
        if kind != "table" and OURS.fullmatch(name):
            return f"{name} is a {kind}"
    for schema, name, kind, *_ in connection.execute("PRAGMA table_list").fetchall():
        if schema == "main" and kind != "table" and OURS.fullmatch(name):
            return f"{name} is a {kind if kind == 'view' else f'{kind} table'}"
    for name in filter(OURS.fullmatch, tables):
        quoted = '"' + name.replace('"', '""') + '"'
        for _, column, *_, hidden in connection.execute(f"PRAGMA table_xinfo({quoted})").fetchall():
            if hidden:
                return f"{name} has a column {column} that is computed"
    return None


SHELL_SECONDS, MOST_NAMES, LONGEST_ROW = 0.3, 1000, 1 << 20
"""Limits of `names_in`: seconds that a shell waits, names that it is offered, and bytes of a row with a name."""


def names_in(file: Path) -> list[str]:
    """List the studies of a SQLite file whose names are allowed; none where the file cannot be read at once.

    For a shell that completes a word: nothing is imported that takes time, and other names, which another program
    chose, are left out, since a shell may obey what is in them.
    """
    try:
        if irregular_file(file):
            return []
        address = f"{file.resolve().as_uri()}?mode=ro"
        opened = closing(sqlite3.connect(address, uri=True, timeout=SHELL_SECONDS))
        with opened as database, limit_reading(database, SHELL_SECONDS, LONGEST_ROW):
            if foreign_object(database):
                return []
            rows = database.execute(f"SELECT study_name FROM studies ORDER BY rowid LIMIT {MOST_NAMES}").fetchall()
    except (sqlite3.Error, OSError):
        return []
    return [name for (name,) in rows if isinstance(name, str) and is_name(name)]
