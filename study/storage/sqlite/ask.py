"""Queries to a SQLite file, which SQLite itself keeps from everything but reading."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.engine import URL

from study.storage.backend import RefusedError
from study.storage.sqlite.file import check_file, reader
from study.storage.sqlite.tables import LONGEST_VALUE

MOST_MEMORY = 1 << 30
"""Bytes of memory that SQLite may take for a query."""

READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
NOT_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}

_WRITING = "CREATE|DROP|INSERT|UPDATE|DELETE|ALTER|ATTACH|DETACH|PRAGMA|TRANSACTION|SAVEPOINT|REINDEX|ANALYZE"
ACTIONS = {
    getattr(sqlite3, name): name.removeprefix("SQLITE_").replace("_", " ")
    for name in dir(sqlite3)
    if re.match(f"SQLITE_({_WRITING})", name)
}
"""Names of the writing actions, which are refused, by SQLite's code for each."""


def ask(
    place: URL, sql: str, seconds: float, prepare: Callable[[Connection], None], warn: Callable[[str], None]
) -> Iterator[Any]:
    """Yield the column names of a query, then its rows; see `backend.Backend.ask`."""
    file = Path(place.database or "")
    check_file(file, create=False, write=False)
    engine = sqlalchemy.create_engine("sqlite://", creator=partial(reader, file))
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.execute("PRAGMA temp_store = MEMORY")  # before the views are made, since this drops temporary ones
        prepare(connection)
        raw.text_factory = lambda content: content.decode(errors="replace")  # SQLite keeps text that is no UTF-8 too
        raw.execute(f"PRAGMA hard_heap_limit = {MOST_MEMORY}")
        raw.execute("PRAGMA query_only = ON")
        raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        raw.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        refused: list[str] = []
        raw.set_authorizer(lambda *what: _may(refused, *what))
        try:
            cursor = raw.execute(sql)
            if cursor.description is None:
                raise RefusedError("nothing to read", "that statement")
            yield [name for name, *_ in cursor.description]
            yield from cursor
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise RefusedError(str(error), refused[0] if refused else None) from error


def _may(refused: list[str], action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Answer SQLite, which asks of each action of a statement whether it is allowed; note in `refused` what is not."""
    if action in READING and (second or "").lower() not in NOT_FUNCTIONS:
        return sqlite3.SQLITE_OK
    refused.append(second if action == sqlite3.SQLITE_FUNCTION and second else ACTIONS.get(action, "that"))
    return sqlite3.SQLITE_DENY
