"""Writers of a SQLite file in line, one at a time, while the file is still the one that was opened."""

import atexit
import threading
from collections.abc import Callable
from pathlib import Path
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Connection, Engine, event

from study import StudyError
from study.storage.sqlite.copies import rescue
from study.storage.sqlite.file import PATIENCE, reader, when_free


def let_go(engine: Engine) -> None:
    """Close this process's connections to a database, so that the last process leaves one file that is whole."""
    if close := _ENDS.pop(engine, None):
        close()


_ENDS: "WeakKeyDictionary[Engine, Callable[[], None]]" = WeakKeyDictionary()
"""Functions that close the files of each engine still in use; all are called at the end of the process."""


@atexit.register
def _let_go_of_all() -> None:
    for engine in list(_ENDS):
        let_go(engine)


def wait_in_line(engine: Engine, file: Path) -> None:
    """Make every transaction of the engine start as a writer, however long another one takes.

    A transaction that reads first and writes later can lose its snapshot to another writer; taking the write lock at
    once makes the others wait instead. A file that was deleted or replaced is noticed before anything is written to
    a file that no longer has a name.
    """
    opened = _identity(file)
    anchor = reader(file)()
    anchor.execute("SELECT 1 FROM sqlite_master").fetchall()  # opens the file now, and sees this one for ever
    turn = threading.Lock()
    said: list[str] = []
    used = ref(engine)  # weak: the function that closes it does not keep it alive

    def close() -> None:
        """Close the anchor first: it may not write, and the last one to close brings the file up to date."""
        anchor.close()
        there = used()
        if there and _identity(file) == opened:  # else SQLite would remove the -wal of another file of that name
            there.dispose()

    _ENDS[engine] = close

    @event.listens_for(engine, "begin")
    def _immediate(connection: Connection) -> None:
        if _identity(file) != opened:
            with turn:  # the thread that notices first rescues what the file held
                said[:] = said or [rescue(anchor, file)]
            raise StudyError(f"the database {file} was deleted or replaced while the study ran{said[0]}")
        if connection.get_execution_options().get("reads"):
            connection.exec_driver_sql("BEGIN")
            return
        patience: float = connection.get_execution_options().get("patience", PATIENCE)
        when_free(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"), file, patience)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
