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
from study.history import views
from study.history.recipes import SECONDS
from study.storage.address import parse_url, shown
from study.storage.backend import VIEWS, RefusedError, backend_of, execute
from study.storage.trouble import cause_of

logger = logging.getLogger(__name__)

AT_ONCE, TOGETHER = 500, 1 << 20
"""Largest number of rows in a batch, and bytes of rows after which a batch with fewer rows is handed over."""


class QueryAnswer:
    """The answer to a query: column names, and rows as they come; `close` ends the query."""

    def __init__(self, url: str, sql: str, seconds: float) -> None:
        place = parse_url(url)
        # A fork, so that nothing is imported again: it only talks to the database, whatever threads the caller has.
        context = multiprocessing.get_context("fork")
        self._seconds = seconds
        self._pipe, theirs = context.Pipe(duplex=False)
        self._child = context.Process(target=_answer, args=(place, sql, seconds, theirs), daemon=True)
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
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise StudyError("the query is no text in UTF-8") from error
    answer: QueryAnswer | None = None
    try:
        answer = QueryAnswer(url, sql, seconds)
        yield answer
    finally:
        if answer:
            answer.close()


def _answer(place: URL, sql: str, seconds: float, pipe: Pipe) -> None:
    """Send, from the other process, the column names, then batches of rows, then an empty one; or else the reason."""
    columns: dict[str, list[str]] = {}

    def prepare(connection: sqlalchemy.Connection) -> None:
        columns.update(_own_views(connection, backend_of(place).file(place) or shown(place)))

    try:
        rows = backend_of(place).ask(place, sql, seconds, prepare, lambda words: pipe.send(("warned", words)))
        pipe.send(("rows", next(rows)))
        for batch in _batches(rows):
            pipe.send(("rows", batch))
        pipe.send(("rows", []))
    except RefusedError as error:
        pipe.send(("refused", _reason(str(error), sql, error.action, columns)))
    except (sqlite3.Error, sqlite3.Warning, sqlalchemy.exc.SQLAlchemyError, StudyError) as error:
        pipe.send(("refused", cause_of(error)))
    except ImportError as error:
        pipe.send(("refused", f"{error.name} is not installed (for PostgreSQL: pip install 'psycopg[binary]')"))
    except MemoryError:
        pipe.send(("refused", "the question took more memory than there is (ask for less)"))
    except BrokenPipeError:
        pass


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
            execute(connection, f"CREATE TEMPORARY VIEW {name} AS {text}")
    except sqlalchemy.exc.DBAPIError as error:
        if re.search("no such table|does not exist", str(error)):
            raise StudyError(f"no studies in {where} (start one with: study run)") from error
        raise
    found = {}
    for name in VIEWS:
        found[name] = list(connection.exec_driver_sql(f"SELECT * FROM {name} LIMIT 0").keys())
    inspector = sqlalchemy.inspect(connection)
    for name in inspector.get_table_names():  # others may lie there that this role may not read
        found[name] = [column["name"] for column in inspector.get_columns(name)]
    return found


def _only_reading(what: str) -> str:
    return f"{what} is refused: only one SELECT at a time is answered, and nothing is ever written"


def _reason(message: str, sql: str, action: str | None, columns: dict[str, list[str]]) -> str:
    """Say why a query is not answered, and what to ask instead."""
    message = message.splitlines()[0]
    if action:
        return _only_reading(action)
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
    ours = [{one for table in some for one in columns.get(table, ())} for some in (tables, VIEWS)]
    close = [one for words in ours for one in difflib.get_close_matches(name, words, n=1, cutoff=0.5)]
    elsewhere = [view for view in VIEWS if view not in tables and name in columns[view]]
    meant = f"; did you mean {close[0]}?" if close else ""
    there = f"it stands in {' and '.join(elsewhere)}; " if elsewhere else ""
    return f"{meant} ({there}all columns: study sql --schema)"


def _near(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    named = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"{named} (all columns: study sql --schema)"
