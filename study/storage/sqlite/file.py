"""The file of a SQLite database: whether it can be used, and connections to it that wait for other programs' locks."""

import logging
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from study import StudyError
from study.storage.sqlite.tables import SECONDS, foreign_object, irregular_file, limit_reading

PATIENCE = 600.0
"""Seconds to wait for another program's lock before giving up."""
SLICE = 1.0
"""Seconds of PATIENCE that are spent in one call of SQLite, during which Python receives no signal."""
SAY_AFTER = 10.0
"""Seconds of waiting after which the user is told what for."""

NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"),
    )
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
    if odd := irregular_file(real):
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
    try:
        with limit_reading(connection, SECONDS):
            found = foreign_object(connection)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) not in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_ERROR):
            return  # locked, or no database: the next statement says so
        found = f"tables cannot be looked at: {error}"
    if found:
        raise StudyError(f"{file} is no database of studies: its {found} (name another --storage)")


def file_system(file: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the type of the file system that a file is or would be on, such as ext4; "" if unknown."""
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


def writer(file: Path) -> sqlite3.Connection:
    """Make a connection that writes."""
    # No implicit transactions: the begin event opens each one as a writer.
    connection = sqlite3.connect(file, timeout=SLICE, isolation_level=None, check_same_thread=False)
    when_free(lambda: check_tables(connection, file), file)
    when_free(lambda: connection.execute("PRAGMA journal_mode=WAL"), file)
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def reader(file: Path) -> sqlite3.Connection:
    """Make a connection that cannot write, and that no writer's lock keeps waiting."""
    real = file.resolve()  # SQLite keeps its -wal beside it, not beside a link
    address = f"{real.as_uri()}?mode=ro"
    if not os.access(real.parent, os.W_OK):  # SQLite wants to make files beside it, unless nothing can change
        _check_at_rest(real)
        address += "&immutable=1"
    connection = sqlite3.connect(address, uri=True, timeout=SLICE, isolation_level=None, check_same_thread=False)
    check_tables(connection, file)
    return connection


def _check_at_rest(file: Path) -> None:
    """Raise StudyError where a database in a read-only folder is not whole without the -wal or -journal beside it."""
    for ending in ("-wal", "-journal"):
        beside = file.with_name(file.name + ending)
        if beside.exists() and beside.stat().st_size:
            raise StudyError(
                f"{file} cannot be read where nothing may be written: {beside.name} holds changes that are not in it "
                "yet (copy both into a folder that may be written)"
            )


def when_free(action: Callable[[], Result], file: Path, patience: float = PATIENCE) -> Result:
    """Try an action until no other program's lock is in its way. Raises StudyError after `patience` seconds."""
    start, said = time.monotonic(), False
    while True:
        try:
            return action()
        except Exception as error:
            codes = [getattr(getattr(one, "orig", one), "sqlite_errorcode", 0) for one in (error, error.__cause__)]
            if not any(code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) for code in codes):
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
