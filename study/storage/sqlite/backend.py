"""The kind of database that is a SQLite file."""

import fcntl
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL

from study import StudyError
from study.storage.backend import Backend, Storage, execute
from study.storage.names import DEFAULT_URL
from study.storage.sqlite import ask as queries
from study.storage.sqlite.copies import name_of
from study.storage.sqlite.expressions import SqliteExpressions
from study.storage.sqlite.file import check_file, reader, when_free, writer
from study.storage.sqlite.line import wait_in_line
from study.storage.trouble import NO_ROOM, cause_of


class SqliteBackend:
    """Studies in a SQLite file; see `backend.Backend`."""

    one_machine = True  # a file on a network file system is refused
    expressions = SqliteExpressions()
    ask = staticmethod(queries.ask)

    def file(self, place: URL) -> Path:
        """Return the file of a database. Raises StudyError for one in memory."""
        if not place.database or place.database == ":memory:":
            raise StudyError(f"a study in memory cannot be resumed: name a file, for example {DEFAULT_URL}")
        return Path(place.database)

    def can_be_made(self, place: URL) -> bool:
        """Return whether the file is not there, but can be made. Raises StudyError when it cannot."""
        file = self.file(place)
        if file.exists():
            return False
        check_file(file, create=True)
        return True

    def open(
        self, place: URL, make: Callable[[dict[str, Any], bool], Storage], *, create: bool, write: bool
    ) -> Storage:
        """Open a file; readers (`write` false) wait for nobody."""
        file = self.file(place)
        check_file(file, create=create, write=write)
        connect = writer(file) if write else reader(file)
        try:
            storage = when_free(lambda: make({"creator": connect}, write), file)
        except (sqlalchemy.exc.DatabaseError, sqlite3.Error, StorageInternalError) as error:
            if not write and "no such table" in cause_of(error):
                raise StudyError(f"no studies in {file} (start one with: study run)") from error
            if not write and "readonly" in cause_of(error):  # Optuna adds a table to those of its versions before 1.2
                raise RuntimeError(f"{file} was made before Optuna 1.2. See storage upgrade") from error
            raise StudyError(f"cannot open {file} as a SQLite database: {cause_of(error)}") from error
        if write:
            wait_in_line(storage.engine, file)
        return storage

    def wait(self, place: URL) -> None:
        """Return at once: a file has no server that restarts."""

    @contextmanager
    def lock(
        self, engine: Engine, folder: Path, what: str, waiting: Callable[[], None] | None
    ) -> Iterator[Callable[[], None]]:
        """Hold a lock on a file in the study's folder."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = (folder / what).open("a+b")
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise StudyError(f"cannot write {folder}: {error.strerror}") from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)  # a signal gets through
            yield lambda: None

    def insert(self, table: Table) -> Any:
        """Return SQLite's own INSERT."""
        return insert(table)

    def identity(self, connection: Connection) -> str:
        """Return the file's name, since runs/ lies beside it; a rescued copy counts as the file it was rescued from."""
        return name_of(connection, self.file(connection.engine.url))

    def snapshot(self, engine: Engine) -> Connection:
        """Open a connection that reads: every transaction sees one state."""
        return engine.connect().execution_options(reads=True)

    def flush(self, engine: Engine) -> None:
        """Copy the log into the file: commits alone survive only a kill."""
        with engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # this flushes the log before it copies from it

    def views(self, connection: Connection) -> dict[str, str]:
        """Return the SELECT of each view, whose text SQLite keeps."""
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'view'"
        return {name: sql.partition(" AS ")[2] for name, sql in connection.exec_driver_sql(query)}

    def make_view(self, connection: Connection, name: str, select: str) -> None:
        """Make a view."""
        execute(connection, f"CREATE VIEW {name} AS {select}")

    def in_turn(self, connection: Connection) -> None:
        """Do nothing: every transaction that writes waits in line."""


BACKEND: Backend = SqliteBackend()
