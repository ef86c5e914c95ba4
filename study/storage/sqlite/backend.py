"""The kind of database that is a SQLite file."""

import fcntl
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL
from typing_extensions import override

from study import StudyError
from study.storage.backend import Backend, Storage
from study.storage.names import DEFAULT_URL
from study.storage.sqlite.ask import ask
from study.storage.sqlite.copies import RESCUED, copy_file, numbered
from study.storage.sqlite.expressions import SqliteExpressions
from study.storage.sqlite.file import check_file, reader, when_free, writer
from study.storage.sqlite.line import ENDS, wait_in_line
from study.storage.trouble import NO_ROOM, cause_of


class SqliteBackend(Backend):
    """Studies in a SQLite file."""

    one_machine = True  # a file on a network file system is refused
    one_state: ClassVar = {"reads": True}
    expressions = SqliteExpressions()
    ask = staticmethod(ask)

    @override
    def file(self, place: URL) -> Path:
        if not place.database or place.database == ":memory:":
            raise StudyError(f"a study in memory cannot be resumed: name a file, for example {DEFAULT_URL}")
        return Path(place.database)

    @override
    def is_there(self, place: URL) -> bool:
        there = self.file(place).exists()
        check_file(self.file(place), create=not there)
        return there

    @override
    def open(
        self, place: URL, make: Callable[[dict[str, Any], bool], Storage], *, create: bool, write: bool
    ) -> Storage:
        file = self.file(place)
        check_file(file, create=create, write=write)
        connect = partial(writer if write else reader, file)
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
        else:  # a transaction sees one state; the driver by itself would let each SELECT see another
            event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        return storage

    @override
    def close(self, engine: Engine) -> None:
        ENDS.pop(engine, engine.dispose)()

    @override
    @contextmanager
    def lock(
        self, engine: Engine, folder: Path, what: str, waiting: Callable[[], None] | None
    ) -> Iterator[Callable[[], None]]:
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

    @override
    def identity(self, connection: Connection) -> str:
        name = self.file(connection.engine.url).name  # runs/ lies beside it
        if connection.exec_driver_sql("PRAGMA application_id").scalar() == RESCUED:
            return re.sub(r"\.rescued(-\d+)?$", "", name)
        return name

    @override
    def keep_copy(self, place: URL, version: str) -> Path:
        file = self.file(place)
        copy = next(there for there in numbered(file, version) if not there.exists())
        copy_file(file, copy)
        return copy

    @override
    def flush(self, engine: Engine) -> None:
        with engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # this flushes the log before it copies from it

    @override
    def views(self, connection: Connection) -> dict[str, str]:
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'view'"
        return {name: sql.partition(" AS ")[2] for name, sql in connection.exec_driver_sql(query)}


BACKEND = SqliteBackend()
