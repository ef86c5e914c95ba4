"""SQLite for many workers: one writer at a time, each waiting for the lock, in a file that is still the one opened."""

import atexit
import filecmp
import itertools
import logging
import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import TypeVar
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Connection, Engine, event

from study import StudyError
from study.storage.tables import BESIDE, LONGEST_VALUE, SECONDS, ended_after, irregular, stranger

PATIENCE = 600.0
"""Seconds to wait for another program's lock before giving up."""
SLICE = 1.0
"""Seconds of that spent inside SQLite at a time, where Python receives no signal."""
SAY_AFTER = 10.0
"""Seconds of waiting after which the user is told what for."""

NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "afs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.rclone",
        "fuse.gcsfuse",
    }
)
"""File systems whose locks do not reach other machines, or not in time: two workers would write at once."""

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def check_file(file: Path, *, create: bool, write: bool = True) -> None:
    """Raise StudyError when the file cannot be a database, or (with `write`) cannot be written."""
    if not file.exists():
        if not create:
            raise StudyError(f"no database at {file} (start a study with: study run; or name it with --storage)")
        if not file.parent.is_dir():
            raise StudyError(f"cannot make {file}: there is no folder {file.parent}")
        try:
            tempfile.TemporaryFile(dir=file.parent).close()
        except OSError as error:
            raise StudyError(f"cannot make {file}: {error.strerror} (name another with --storage)") from error
    elif not file.is_file():
        if file.is_dir():
            raise StudyError(f"{file} is a folder, not a database (name a file in it, such as {file / 'optuna.db'})")
        raise StudyError(f"{file} is a device or a pipe, not a database (name a file with --storage sqlite:///FILE)")
    real = Path(os.path.realpath(file))  # SQLite, too, keeps its -wal beside the file itself, not beside a link
    if odd := irregular(real):
        raise StudyError(f"{odd} is not a regular file, and SQLite would hang on it (see what it is, then remove it)")
    if not write:
        return
    kind = file_system(file)
    if kind in NETWORK:
        raise StudyError(
            f"{file} lies on a network file system ({kind}), where SQLite's locks cannot be trusted (put it on a local "
            "disk with --storage sqlite:////PLACE/optuna.db, or use PostgreSQL: --storage postgresql+psycopg://...)"
        )
    target = real if real.exists() else real.parent
    if not os.access(target, os.W_OK) or not os.access(real.parent, os.W_OK):
        raise StudyError(f"cannot write {file}: no permission (name another place with --storage sqlite:///FILE)")


def check_tables(connection: sqlite3.Connection, file: Path) -> None:
    """Raise StudyError for a trigger, or for something other than a plain table in the place of one of Optuna's."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    try:
        with ended_after(connection, SECONDS):
            found = stranger(connection)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) not in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_ERROR):
            return  # locked, or no database: the next statement says so
        found = f"tables cannot be looked at: {error}"
    if found:
        raise StudyError(f"{file} is no database of studies: its {found} (name another --storage)")


def file_system(file: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the type of the file system that a file is or would be on, such as ext4; "" where that is not told."""
    try:
        lines = os.fsdecode(mounts.read_bytes()).splitlines()
    except OSError:
        return ""
    place = Path(os.path.realpath(file))
    best, kind = -1, ""
    for line in lines:
        _, point, found, *_ = line.split(" ")
        folder = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point))  # a space is written as \040
        # Of two mounts on one point, the later hides the first.
        if place.is_relative_to(folder) and len(folder.parts) >= best:
            best, kind = len(folder.parts), found
    return kind


def writer(file: Path) -> Callable[[], sqlite3.Connection]:
    """Return a function that makes connections that write."""

    def connect() -> sqlite3.Connection:
        # No implicit transactions: the begin event opens each one as a writer.
        connection = sqlite3.connect(file, timeout=SLICE, isolation_level=None, check_same_thread=False)
        when_free(lambda: check_tables(connection, file), file)
        when_free(lambda: connection.execute("PRAGMA journal_mode=WAL"), file)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    return connect


def reader(file: Path) -> Callable[[], sqlite3.Connection]:
    """Return a function that makes connections that cannot write, and that no writer's lock keeps waiting."""

    def connect() -> sqlite3.Connection:
        real = file.resolve()  # SQLite keeps its -wal beside it, not beside a link
        address = f"{real.as_uri()}?mode=ro"
        if not os.access(real.parent, os.W_OK):  # SQLite wants to make files beside it, unless nothing can change
            _check_at_rest(real)
            address += "&immutable=1"
        connection = sqlite3.connect(address, uri=True, timeout=SLICE, check_same_thread=False)
        check_tables(connection, file)
        return connection

    return connect


def _check_at_rest(file: Path) -> None:
    """Raise StudyError where a database in a read-only folder is not whole without the -wal or -journal beside it."""
    for ending in ("-wal", "-journal"):
        beside = file.with_name(file.name + ending)
        if beside.exists() and beside.stat().st_size:
            raise StudyError(
                f"{file} cannot be read where nothing may be written: {beside.name} holds changes that are not in it "
                "yet (copy both into a folder that may be written)"
            )


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
                said[:] = said or [_rescue(anchor, file)]
            raise StudyError(f"the database {file} was deleted or replaced while the study ran{said[0]}")
        if connection.get_execution_options().get("reads"):
            connection.exec_driver_sql("BEGIN")
            return
        patience: float = connection.get_execution_options().get("patience", PATIENCE)
        when_free(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"), file, patience)


def when_free(action: Callable[[], Result], file: Path, patience: float = PATIENCE) -> Result:
    """Try an action until no other program's lock is in its way. Raises StudyError after `patience` seconds."""
    start, said = time.monotonic(), False
    while True:
        try:
            return action()
        except Exception as error:
            if not is_locked(error):
                raise
            waited = time.monotonic() - start
            if waited > patience:
                raise StudyError(
                    f"the database {file} has been locked by another program for {waited:.0f} seconds (end that "
                    "program, then give the same command)"
                ) from error
            if waited > SAY_AFTER and not said:
                said = True
                logger.warning(f"the database {file} is locked by another program; waiting for it")
            time.sleep(0.05)


def is_locked(error: Exception) -> bool:
    """Return whether SQLite says that somebody else holds a lock (SQLITE_BUSY, SQLITE_LOCKED and their kin)."""
    codes = [getattr(getattr(one, "orig", one), "sqlite_errorcode", 0) for one in (error, error.__cause__)]
    return any(code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) for code in codes)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


RESCUED = 0x72657363
"""SQLite's application_id of a rescued file: it counts as the database whose name it bears, not as a copy of it."""


def _rescue(origin: sqlite3.Connection, file: Path) -> str:
    """Save what an open connection still sees of a database that has lost its name; return what to do now, in words.

    Every worker does so; an older rescue, which somebody may have gone on with, stays as it is.
    """
    try:
        for number in itertools.count(1):
            rescued = file.with_name(f"{file.name}.rescued{f'-{number}' if number > 1 else ''}")
            if _copy(origin, rescued, mark=RESCUED):
                return f" (what it held is in {rescued}: go on with --storage {quote(f'sqlite:///{rescued}')})"
    except (sqlite3.Error, OSError):
        pass
    return " (put it back with its -wal file, then give the same command)"


def copy_file(source: Path, target: Path) -> None:
    """Copy a database while others write to it: SQLite's online backup, checked, then renamed.

    Raises StudyError when the target exists or the copy is not whole.
    """
    check_file(source, create=False, write=False)
    if target.exists() or target.is_symlink():
        raise StudyError(f"{target} exists already (name another place, or remove it first)")
    for left in [target.with_name(target.name + ending) for ending in BESIDE]:
        if left.exists():
            raise StudyError(
                f"{left} is left of another database, and SQLite would take it for a part of {target} (see that nobody "
                f"uses that database, then remove it: rm {quote(str(left))}; or name another place)"
            )
    check_file(target, create=True)
    origin = reader(source)()
    try:
        if not when_free(lambda: _copy(origin, target), source):
            raise StudyError(f"{target} was made by another program meanwhile")
    except sqlite3.Error as error:
        raise StudyError(f"cannot copy {source} to {target}: {error}") from error
    finally:
        origin.close()


def _copy(origin: sqlite3.Connection, target: Path, mark: int | None = None) -> bool:
    """Copy a whole database to `target`; return False when that exists with another content.

    `mark`: its application_id. Raises sqlite3.Error and OSError; then nothing was made.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    copy = sqlite3.connect(part)
    copy.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    try:
        origin.backup(copy)  # all pages in one read: nobody's commit starts it over
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, that may be carried away as it is
        if copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'leases'").fetchone():
            copy.execute("DELETE FROM leases")  # workers on the original do not work on the copy
            copy.commit()
        if mark is not None:
            copy.execute(f"PRAGMA application_id = {mark}")
        (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"it is damaged: {verdict}")
        copy.close()
        with part.open("rb+") as handle:
            os.fsync(handle.fileno())
        return _renamed(part, target)
    finally:
        copy.close()
        part.unlink(missing_ok=True)


def _renamed(part: Path, target: Path) -> bool:
    """Give a finished file the name `target`; return False, with nothing replaced, where that has another content."""
    try:
        os.link(part, target)
    except FileExistsError:
        return filecmp.cmp(part, target, shallow=False)
    except OSError:  # a file system without links
        os.rename(part, target)
    return True
