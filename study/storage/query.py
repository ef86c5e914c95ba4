"""SQL queries that can only read: one statement each, in a process of its own that is ended when its time is up."""

import contextlib
import difflib
import logging
import multiprocessing
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL

from study import StudyError
from study.storage import views
from study.storage.door import parse_url, shown, sqlite_file
from study.storage.recipes import SECONDS
from study.storage.sqlite import check_file, reader

logger = logging.getLogger(__name__)

AT_ONCE, TOGETHER = 500, 1 << 20
"""Largest number of rows in a batch, and bytes of rows after which a batch with fewer rows is handed over."""
MOST_MEMORY = 1 << 30
"""Bytes of memory that SQLite may take for a query."""
LONGEST_VALUE = 16 << 20
"""Bytes of one value in a query at most."""

READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
NOT_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}


class QueryWarning(str):
    """A warning that is shown before the answer."""


class QueryAnswer:
    """The answer to a query: column names, and rows as they come; `close` ends the query."""

    def __init__(self, url: str, sql: str, seconds: float) -> None:
        place = parse_url(url)
        target = _sqlite if place.get_backend_name() == "sqlite" else _postgresql
        if place.get_backend_name() == "sqlite":
            check_file(sqlite_file(place), create=False, write=False)
        # A fork, so that nothing is imported again: it only talks to the database, whatever threads the caller has.
        context = multiprocessing.get_context("fork")
        self._seconds = seconds
        self._pipe, theirs = context.Pipe(duplex=False)
        self._child = context.Process(target=_answer, args=(target, place, sql, seconds, theirs), daemon=True)
        self._child.start()
        theirs.close()
        self._left = seconds
        try:
            self.columns: list[str] = self._next()
        except BaseException:  # its time is up, or Ctrl-C: nobody else knows of the child yet
            self.close()
            raise

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield all rows. Raises StudyError when the database refuses, or the time is up."""
        while batch := self._next():
            yield from batch

    def close(self) -> None:
        """End the query, finished or not."""
        self._child.kill()
        self._child.join()
        self._pipe.close()

    def _next(self) -> Any:
        start = os.times().elapsed
        try:
            if not self._pipe.poll(max(0.0, self._left)):
                within = f"{self._seconds:g} {'second' if self._seconds == 1 else 'seconds'}"
                raise StudyError(f"no answer within {within} (ask for less, or allow --timeout MORE)")
            kind, content = self._pipe.recv()
        except EOFError:
            raise StudyError("the question took more memory than there is (ask for less)") from None
        self._left -= os.times().elapsed - start
        if kind == "warned":
            logger.warning(content)
            return self._next()
        if kind == "refused":
            raise StudyError(content)
        return content


@contextlib.contextmanager
def ask(url: str, sql: str, seconds: float = SECONDS) -> Iterator[QueryAnswer]:
    """Run one query. Raises StudyError with the reason where it is refused or cannot be answered."""
    if not sql.strip():
        raise StudyError("the query is empty (for example: study sql 'SELECT * FROM studies_overview')")
    answer: QueryAnswer | None = None
    try:
        answer = QueryAnswer(url, sql, seconds)
        yield answer
    finally:
        if answer:
            answer.close()


def _answer(target: Any, place: URL, sql: str, seconds: float, pipe: Pipe) -> None:
    """Send, from the other process, the column names, then batches of rows, then an empty one; or else the reason."""
    try:
        for item in target(place, sql, seconds):
            pipe.send(("warned" if isinstance(item, QueryWarning) else "rows", item))
        pipe.send(("rows", []))
    except (sqlite3.Error, sqlite3.Warning, sqlalchemy.exc.SQLAlchemyError, StudyError) as error:
        pipe.send(("refused", str(getattr(error, "orig", None) or error).splitlines()[0]))
    except MemoryError:
        pipe.send(("refused", "the question took more memory than there is (ask for less)"))
    except BrokenPipeError:
        pass


# ---- SQLite -----------------------------------------------------------------------------------------------------


def _sqlite(place: URL, sql: str, seconds: float) -> Iterator[list[Any]]:
    file = sqlite_file(place)
    engine = sqlalchemy.create_engine("sqlite://", creator=reader(file))
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.execute("PRAGMA temp_store = MEMORY")  # before the views are made, since this drops temporary ones
        columns = _own_views(connection, file)
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
                raise StudyError(_only_reading("that statement"))
            yield [name for name, *_ in cursor.description]
            yield from _batches(cursor)
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise StudyError(_reason(str(error), sql, refused, columns)) from error


def _may(refused: list[str], action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Answer SQLite, which asks of each action of a statement whether it is allowed; note in `refused` what is not."""
    if action in READING and (second or "").lower() not in NOT_FUNCTIONS:
        return sqlite3.SQLITE_OK
    refused.append(second if action == sqlite3.SQLITE_FUNCTION and second else ACTIONS.get(action, "that"))
    return sqlite3.SQLITE_DENY


_WRITING = "CREATE|DROP|INSERT|UPDATE|DELETE|ALTER|ATTACH|DETACH|PRAGMA|TRANSACTION|SAVEPOINT|REINDEX|ANALYZE"
ACTIONS = {
    getattr(sqlite3, name): name.removeprefix("SQLITE_").replace("_", " ")
    for name in dir(sqlite3)
    if re.match(f"SQLITE_({_WRITING})", name)
}
"""Names of the writing actions, which are refused, by SQLite's code for each."""


def _only_reading(what: str) -> str:
    return f"{what} is refused: only one SELECT at a time is answered, and nothing is ever written"


# ---- PostgreSQL -------------------------------------------------------------------------------------------------


def _postgresql(place: URL, sql: str, seconds: float) -> Iterator[list[Any] | QueryWarning]:
    if place.get_driver_name() != "psycopg":
        raise StudyError("study sql asks PostgreSQL through psycopg (write postgresql+psycopg://USER@HOST/DATABASE)")
    with sqlalchemy.create_engine(place).connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        role, too_mighty = raw.execute(TOO_MIGHTY).fetchone()
        if too_mighty:
            raise StudyError(
                f"the role {role!r} may read and write files of the server, and so might a SELECT (ask as one that may "
                f"only read; to make one: {MAKE_READER})"
            )
        columns = _own_views(connection, shown(place))
        connection.commit()
        raw.execute("SET TRANSACTION READ ONLY")
        raw.execute(f"SET LOCAL statement_timeout = {max(1, int(1000 * seconds))}")
        # This process is ended by a signal: the server then notices, and does not go on for nobody.
        raw.execute(
            "SELECT set_config(name, '1s', true) FROM pg_settings WHERE name = 'client_connection_check_interval'"
        )
        (may_write,) = raw.execute(MAY_WRITE).fetchone()
        if may_write:
            yield QueryWarning(
                "this role may also write; nothing is written here, but one that may only SELECT is safer"
            )
        import psycopg  # it is installed, or there would be no connection

        try:
            # A cursor takes a SELECT and nothing else; a prepared statement is one statement.
            raw.execute(f"DECLARE answer NO SCROLL CURSOR FOR {sql.strip().rstrip(';')}", prepare=True)
            yield [column.name for column in raw.execute("FETCH 0 FROM answer").description]
            yield from _batches(raw.cursor().stream("FETCH ALL FROM answer"))  # row by row, however large each is
        except psycopg.Error as error:
            raise StudyError(_reason(str(error), sql, [], columns)) from error


TOO_MIGHTY = """SELECT rolname, bool_or(rolsuper OR pg_has_role(rolname, mighty, 'MEMBER'))
FROM pg_roles, unnest(ARRAY['pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program']) AS mighty
WHERE rolname = session_user GROUP BY rolname"""
"""A query for the session's role and whether it can reach files of the server; SET ROLE in a query changes neither."""

MAKE_READER = "CREATE ROLE reader LOGIN PASSWORD '...'; GRANT pg_read_all_data TO reader;"

MAY_WRITE = """SELECT coalesce(bool_or(has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE')), false)
FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"""


# ---- both -------------------------------------------------------------------------------------------------------


def _batches(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Group rows into batches, so that neither many small rows nor a few large ones take much memory at once."""
    batch: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(value) if isinstance(value, str | bytes) else 16 for value in row)
        if len(batch) == AT_ONCE or size >= TOGETHER:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _own_views(connection: sqlalchemy.Connection, where: Path | str) -> dict[str, list[str]]:
    """Create the views for this query alone, whatever views the database has; return all tables with their columns."""
    try:
        for name, text in views.definitions(connection, {}).items():
            views.execute(connection, f"CREATE TEMPORARY VIEW {name} AS {text}")
    except sqlalchemy.exc.DBAPIError as error:
        if re.search("no such table|does not exist", str(error)):
            raise StudyError(f"no studies in {where} (start one with: study run)") from error
        raise
    found = {}
    for name in (*views.NAMES, *sqlalchemy.inspect(connection).get_table_names()):
        cursor = connection.connection.cursor()
        cursor.execute(f'SELECT * FROM "{name}" LIMIT 0')
        found[name] = [column[0] for column in cursor.description or ()]
    return found


def _reason(message: str, sql: str, refused: list[str], columns: dict[str, list[str]]) -> str:
    """Say why a query is not answered, and what to ask instead."""
    message = message.splitlines()[0]
    if refused:
        return _only_reading(refused[0])
    if re.search("one statement at a time|multiple commands", message):
        return _only_reading("more than one statement")
    if found := re.search(r"no such column: (\S+)|column \"?([\w.]+)\"? does not exist", message):
        name = (found[1] or found[2]).rpartition(".")[2].strip('"')
        return f"no column {name!r}{_columns_near(name, named(sql, columns), columns)}"
    if found := re.search(r"no such table: (\S+)|relation \"([^\"]+)\" does not exist", message):
        name = (found[1] or found[2]).rpartition(".")[2]
        return f"no table {name!r}{_near(name, list(columns))}"
    return f"{message} (columns: study sql --schema)"


def named(sql: str, tables: Iterable[str]) -> list[str]:
    """Return those of `tables` that a query reads, in the order in which they are given."""
    text = re.sub(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", " ", sql, flags=re.DOTALL).lower()
    lists = re.findall(r"\b(?:from|join)\s+((?:[\w.\"]+(?:\s+(?:as\s+)?[\w\"]+)?\s*,\s*)*[\w.\"]+)", text)
    words = {word.split()[0].rpartition(".")[2].strip('"') for one in lists for word in one.split(",")}
    return [table for table in tables if table.lower() in words]


def _columns_near(name: str, tables: list[str], columns: dict[str, list[str]]) -> str:
    """Say which column of the queried tables may be meant, or which views have a column of this name."""
    ours = [{one for table in some for one in columns.get(table, ())} for some in (tables, views.NAMES)]
    close = [one for words in ours for one in difflib.get_close_matches(name, words, n=1, cutoff=0.5)]
    elsewhere = [view for view in views.NAMES if view not in tables and name in columns[view]]
    meant = f"; did you mean {close[0]}?" if close else ""
    there = f"it stands in {' and '.join(elsewhere)}; " if elsewhere else ""
    return f"{meant} ({there}all columns: study sql --schema)"


def _near(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    named = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"{named} (all columns: study sql --schema)"
