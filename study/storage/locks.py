"""Locks on what only one process at a time may do for a study, on all machines that share its database."""

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy
from sqlalchemy import Connection, Engine

from study import StudyError
from study.storage.door import NO_ROOM
from study.storage.lean import LeanStorage
from study.storage.server import repeated

FINAL, BEST = "final.lock", "best-lock"
"""Locks on training, scoring and exporting the final model, and on storing the mistakes of the best trial."""

LOCKS = ("lock", FINAL, BEST)
"""Files that the locks of a study leave behind in its folder."""


@contextmanager
def alone(
    storage: LeanStorage, folder: Path, what: str = "lock", waiting: Callable[[], None] | None = None
) -> Iterator[Callable[[], None]]:
    """Hold the lock `what` of the study whose files lie in `folder`, on all machines that share the database.

    The lock ends with the process, however that ends. `waiting` is called when another process holds it. Yields a
    function that raises SQLAlchemyError when the lock was lost with the connection to the server.
    """
    if storage.engine.dialect.name == "sqlite":  # all workers are on this machine
        with _file_lock(folder, what, waiting):
            yield lambda: None
    else:
        with _database_lock(storage.engine, f"{folder.name}/{what}", waiting) as confirm:
            yield confirm


@contextmanager
def _file_lock(folder: Path, what: str, waiting: Callable[[], None] | None) -> Iterator[None]:
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
        yield


@contextmanager
def _database_lock(engine: Engine, name: str, waiting: Callable[[], None] | None) -> Iterator[Callable[[], None]]:
    """Hold an advisory lock of PostgreSQL, on a connection of its own; yields what `alone` yields."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with _locked(engine, key, waiting) as connection:
        try:
            yield lambda: connection.execute(sqlalchemy.text("SELECT 1")).close()
        finally:
            with suppress(sqlalchemy.exc.SQLAlchemyError):  # a connection that is lost holds no lock either
                connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": key})


@repeated
def _locked(engine: Engine, key: int, waiting: Callable[[], None] | None) -> Connection:
    """Wait for the lock, and return the connection that holds it."""
    ask = sqlalchemy.text("SELECT pg_try_advisory_lock(:key)")
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        while not connection.scalar(ask, {"key": key}):
            if waiting:
                waiting()
                waiting = None
            time.sleep(0.05)
    except BaseException:
        connection.close()
        raise
    return connection
