"""SQLite for many workers: one writer at a time, who waits for the lock, in a file that is still the one opened."""

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
"""Seconds of that spent inside SQLite at a time: Python hears no signal there."""
SAY_AFTER = 10.0
"""Seconds after which the user is told what is waited for."""

# Their locks do not reach other machines, or not in time: two workers would write at once.
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"}
)

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def check_file(file: Path, *, create: bool, write: bool = True) -> None:
    """Raise StudyError when the database cannot be there, or not be written."""
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
    real = Path(os.path.realpath(file))  # SQLite, too, keeps beside the file itself what lies beside it
    if odd := irregular(real):
        raise StudyError(f"{odd} is no file, and SQLite would wait for it (see what it is, then remove it)")
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
    """Raise StudyError for what would be obeyed, or be endless, in the place of one of Optuna's tables."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    try:
        with ended_after(connection, SECONDS):
            found = stranger(connection)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) not in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_ERROR):
            return  # locked, or no database: what is asked next says so
        found = f"tables cannot be looked at: {error}"
    if found:
        raise StudyError(f"{file} is no database of studies: its {found} (name another --storage)")


def file_system(file: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that a file is or would be on, such as ext4; "" where the system does not tell."""
    try:
        lines = os.fsdecode(mounts.read_bytes()).splitlines()
    except OSError:
        return ""
    place = Path(os.path.realpath(file))
    best, kind = -1, ""
    for line in lines:
        _, point, found, *_ = line.split(" ")
        folder = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point))  # a space is written as \040
        if place.is_relative_to(folder) and len(folder.parts) >= best:  # of two on one point, the later hides the first
            best, kind = len(folder.parts), found
    return kind


def writer(file: Path) -> Callable[[], sqlite3.Connection]:
    """Makes connections that write."""

    def connect() -> sqlite3.Connection:
        # No implicit transactions: the begin event opens each one as a writer.
        connection = sqlite3.connect(file, timeout=SLICE, isolation_level=None, check_same_thread=False)
        when_free(lambda: check_tables(connection, file), file)
        when_free(lambda: connection.execute("PRAGMA journal_mode=WAL"), file)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    return connect


def reader(file: Path) -> Callable[[], sqlite3.Connection]:
    """Makes connections that cannot write, and that no writer's lock keeps waiting."""

    def connect() -> sqlite3.Connection:
        real = file.resolve()  # what SQLite keeps beside it lies there
        address = f"{real.as_uri()}?mode=ro"
        if not os.access(real.parent, os.W_OK):  # SQLite wants to make files beside it, unless nothing can change
            _check_at_rest(real)
            address += "&immutable=1"
        connection = sqlite3.connect(address, uri=True, timeout=SLICE, check_same_thread=False)
        check_tables(connection, file)
        return connection

    return connect


def _check_at_rest(file: Path) -> None:
    """Raise StudyError where a database that cannot be written is not whole without what lies beside it."""
    for ending in ("-wal", "-journal"):
        beside = file.with_name(file.name + ending)
        if beside.exists() and beside.stat().st_size:
            raise StudyError(
                f"{file} cannot be read where nothing may be written: {beside.name} holds changes that are not in it "
                "yet (copy both into a folder that may be written)"
            )


def let_go(engine: Engine) -> None:
    """Close what this process has open of a database, so that the last process leaves one file that is whole."""
    if close := _ENDS.pop(engine, None):
        close()


_ENDS: "WeakKeyDictionary[Engine, Callable[[], None]]" = WeakKeyDictionary()
"""How the files of each engine that is still used are closed; at the end of the process it is done for all of them."""


@atexit.register
def _let_go_of_all() -> None:
    for engine in list(_ENDS):
        let_go(engine)


def wait_in_line(engine: Engine, file: Path) -> None:
    """Let every transaction of the engine start as a writer, however long another one takes.

    A transaction that reads first and writes later can lose its snapshot to another writer; taking the write lock at
    once makes the others wait instead. A file that was deleted or replaced is noticed before anything is written to
    what no longer has a name.
    """
    opened = _identity(file)
    anchor = reader(file)()
    anchor.execute("SELECT 1 FROM sqlite_master").fetchall()  # it is opened now, and sees this file for ever
    turn = threading.Lock()
    said: list[str] = []
    used = ref(engine)  # what closes it does not keep it

    def close() -> None:
        """The anchor first: it may not write, and whoever closes last brings the file up to date."""
        anchor.close()
        there = used()
        if there and _identity(file) == opened:  # else SQLite would remove what lies beside another one of that name
            there.dispose()

    _ENDS[engine] = close

    @event.listens_for(engine, "begin")
    def _immediate(connection: Connection) -> None:
        if _identity(file) != opened:
            with turn:  # whichever thread notices first
                said[:] = said or [_rescue(anchor, file)]
            raise StudyError(f"the database {file} was deleted or replaced while the study ran{said[0]}")
        if connection.get_execution_options().get("reads"):
            connection.exec_driver_sql("BEGIN")
            return
        patience: float = connection.get_execution_options().get("patience", PATIENCE)
        when_free(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"), file, patience)


def when_free(action: Callable[[], Result], file: Path, patience: float = PATIENCE) -> Result:
    """Try an action until no other program's lock is in its way; StudyError after `patience` seconds."""
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
    """Whether SQLite says that somebody else holds a lock (SQLITE_BUSY, SQLITE_LOCKED and their kin)."""
    codes = [getattr(getattr(one, "orig", one), "sqlite_errorcode", 0) for one in (error, error.__cause__)]
    return any(code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) for code in codes)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


RESCUED = 0x72657363
"""The application_id of what was rescued: it is the database whose name it bears, and no copy of it."""


def _rescue(origin: sqlite3.Connection, file: Path) -> str:
    """Save what an open connection still sees of a database that has lost its name; says what to do now.

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
    """False when the target exists with another content. Raises sqlite3.Error and OSError; then there is no target."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    copy = sqlite3.connect(part)
    copy.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    try:
        origin.backup(copy)  # all pages in one read: nobody's commit starts it over
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, that may be carried away as it is
        if copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'leases'").fetchone():
            copy.execute("DELETE FROM leases")  # those who work on the original do not work on the copy
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
    """Never over a file that is there, unless it is the same."""
    try:
        os.link(part, target)
    except FileExistsError:
        return filecmp.cmp(part, target, shallow=False)
    except OSError:  # a file system without links
        os.rename(part, target)
    return True
