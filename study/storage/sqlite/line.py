"""Writers of a SQLite file in line, one at a time, while the file is still the one that was opened."""

import threading
from pathlib import Path
from weakref import WeakKeyDictionary, finalize, ref

from sqlalchemy import Connection, Engine, event

from study import StudyError
from study.storage.sqlite.copies import rescue
from study.storage.sqlite.file import PATIENCE, reader, when_free

ENDS: "WeakKeyDictionary[Engine, finalize[..., Engine]]" = WeakKeyDictionary()
"""Functions that close the file of each engine, called at the end of the process at the latest."""


def wait_in_line(engine: Engine, file: Path) -> None:
    """Make every transaction of the engine start as a writer, however long another one takes.

    A transaction that reads first and writes later can lose its snapshot to another writer; taking the write lock at
    once makes the others wait instead. A file that was deleted or replaced is noticed before anything is written to
    a file that no longer has a name.
    """
    opened = _identity(file)
    anchor = reader(file)
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

    ENDS[engine] = finalize(engine, close)

    @event.listens_for(engine, "begin")
    def _immediate(connection: Connection) -> None:
        if _identity(file) != opened:
            with turn:  # the thread that notices first rescues what the file held
                said[:] = said or [rescue(anchor, file)]
            raise StudyError(f"the database {file} was deleted or replaced while the study ran{said[0]}")
        if connection.get_execution_options().get("reads"):
            connection.exec_driver_sql("BEGIN")
            return
        patience: float = connection.get_execution_options().get("patience") or PATIENCE
        when_free(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"), file, patience)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
