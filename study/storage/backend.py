"""The seam between this program and databases: what it asks of a kind of database.

Each kind is a folder beside this file, named as SQLAlchemy names it, whose `backend.py` has a BACKEND.
"""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import sqlalchemy.exc
from optuna.storages import RDBStorage
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from study import StudyError
from study.storage.address import shown
from study.storage.names import DEFAULT_URL

KINDS = ("sqlite", "postgresql")

Storage = TypeVar("Storage", bound=RDBStorage)


class RefusedError(StudyError):
    """Error that a database does not answer a query; `action`: the forbidden action that was the reason, if it was."""

    def __init__(self, message: str, action: str | None = None) -> None:
        super().__init__(message)
        self.action = action


class Expressions(ABC):
    """SQL expressions of the views that databases write differently."""

    param_text: str  # the readable value of p, a row of trial_params
    param_number: str  # the same as a number; NULL for a word

    @abstractmethod
    def param(self, kind: str) -> str:
        """Return the value of p in the type of its column."""

    @abstractmethod
    def user(self, key: str, kind: str) -> str:
        """Return a user attribute of the trial t; NULL where it is missing or of another kind."""

    @abstractmethod
    def field(self, place: str, key: str, kind: str) -> str:
        """Return one field of the JSON object in `place`; NULL where it is missing or `place` is not JSON."""

    @abstractmethod
    def each(self, place: str) -> str:
        """Return the items of the JSON list in `place`, as rows with a column `value`."""

    @abstractmethod
    def value(self, number: str, kind: str) -> str:
        """Return the value that Optuna stores as a number and its type; NULL for what is not a number."""

    @abstractmethod
    def between(self, start: str, end: str) -> str:
        """Return the seconds between two times."""


class Backend(ABC):
    """A kind of database: how it is opened, locked, written, looked at and copied.

    A method that is not abstract has what suits most kinds.
    """

    one_machine: bool  # whether all workers on a database are on one machine
    one_state: ClassVar[dict[str, Any]]  # options of a connection that sees one state, whoever writes meanwhile
    expressions: Expressions

    def file(self, place: URL) -> Path | None:
        """Return the file of a database, None for a server's. Raises StudyError for one that nothing could resume."""
        return None

    def is_there(self, place: URL) -> bool:
        """Return whether a database is there. Raises StudyError where it cannot be written, or is not there and cannot
        be made."""
        return True

    @abstractmethod
    def open(
        self, place: URL, make: Callable[[dict[str, Any], bool], Storage], *, create: bool, write: bool
    ) -> Storage:
        """Open a database, and make its connections wait for others as this kind of database needs it.

        `make` opens Optuna's storage, given settings of SQLAlchemy's engine and whether tables are made. Raises
        StudyError when the database is not there, cannot be written, or is none.
        """

    def close(self, engine: Engine) -> None:
        """Close this process's connections, so that the last process leaves a file that is whole."""
        engine.dispose()

    def wait(self, place: URL) -> None:
        """Wait until a database that was there before answers. Raises StudyError when it does not for long."""
        return

    @abstractmethod
    def lock(
        self, engine: Engine, folder: Path, what: str, waiting: Callable[[], None] | None
    ) -> AbstractContextManager[Callable[[], None]]:
        """Hold a lock; see `locks.alone`."""

    @abstractmethod
    def identity(self, connection: Connection) -> str:
        """Return what tells a database from its copies: the name of a file, or words with a slash for a server."""

    def keep_copy(self, place: URL, version: str) -> Path | None:
        """Copy a file beside itself before its tables change from `version`; None for a server, which is not copied."""
        return None

    def flush(self, engine: Engine) -> None:
        """Make what was committed so far survive a power cut too."""
        return

    @abstractmethod
    def views(self, connection: Connection) -> dict[str, str]:
        """Return the SELECT of each view as it was when the view was made."""

    def make_view(self, connection: Connection, name: str, select: str) -> None:
        """Make a view, whose text `views` returns."""
        execute(connection, f"CREATE VIEW {name} AS {select}")

    def in_turn(self, connection: Connection) -> None:
        """Make other processes that call this wait until the transaction of `connection` ends."""
        return

    @abstractmethod
    def ask(
        self, place: URL, sql: str, seconds: float, prepare: Callable[[Connection], None], warn: Callable[[str], None]
    ) -> Iterator[Any]:
        """Yield the column names of a query, then its rows; whatever the query says, it can only read.

        `prepare` is called on the connection first. Raises StudyError, RefusedError for what the query says.
        """


def backend_of(place: URL) -> Backend:
    """Return the kind of a database. Raises StudyError for one that is not known."""
    kind = place.get_backend_name()
    if kind not in KINDS:
        raise StudyError(
            f"storage {shown(place)}: studies are kept in SQLite or PostgreSQL "
            f"({DEFAULT_URL} or postgresql+psycopg://USER@HOST/DATABASE)"
        )
    found: Backend = import_module(f"study.storage.{kind}.backend").BACKEND
    return found


VIEWS = ("trials_flat", "epochs", "params", "rungs", "studies_overview", "models")
"""Names of the views that show the history (see study/history/views.py)."""


def drop_views(connection: Connection) -> None:
    """Remove the views: Optuna's migrations break half-way on tables that a view reads."""
    for name in VIEWS:
        with ignore_failure(connection):  # a table of that name is somebody else's
            connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")


@contextmanager
def ignore_failure(connection: Connection) -> Iterator[None]:
    """Run statements that may fail, and then have no effect."""
    with suppress(sqlalchemy.exc.DBAPIError, sqlite3.Error), connection.begin_nested():
        yield


def execute(connection: Connection, statement: str) -> None:
    """Run a statement as it is; otherwise SQLAlchemy and the driver would look for parameters in it."""
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True}).close()
