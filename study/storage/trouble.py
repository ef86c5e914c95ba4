"""Trouble with databases: which errors mean a lost connection or a full disk, what is repeated, and what users read."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from study import StudyError
from study.storage.address import masked

TROUBLE = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.DatabaseError)
"""Errors of a driver for a lock, a full disk, a lost connection, a damaged file; all its other errors are our bugs."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Error numbers of a disk that is full, or may no longer be written to."""
CUT_OFF = ("08", "57P")
"""Beginnings of the SQLSTATE of a connection that was lost, or ended by its server; SQLAlchemy does not see it while a
connection is being made."""
CUTS = 10
"""Number of lost connections in a row that no restart explains: each time the operation itself is the likely cause."""

Given = ParamSpec("Given")
Found = TypeVar("Found")


def cause_of(error: BaseException) -> str:
    """Return what a driver said, in one line, out of the errors that Optuna and SQLAlchemy wrap it in."""
    inner = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return (str(getattr(inner, "orig", None) or inner).splitlines() or [type(inner).__name__])[0]


@contextmanager
def storage_trouble(url: str) -> Iterator[None]:
    """Turn errors of a disk or a database into StudyError: one line, and what to do about it."""
    place = masked(url)
    again = "what is saved stays; put it right, then give the same command"
    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.DBAPIError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        if type(cause) not in TROUBLE:
            raise
        raise StudyError(f"the database {place} returned an error: {cause_of(error)} ({again})") from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise StudyError(f"cannot write {error.filename or 'a file'}: {error.strerror} ({again})") from error


def was_cut_off(error: BaseException | None) -> bool:
    """Return whether a connection was lost in the middle of an operation, which may or may not have been done."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if not isinstance(cause, sqlalchemy.exc.DBAPIError):
        return False
    return cause.connection_invalidated or str(getattr(cause.orig, "sqlstate", "")).startswith(CUT_OFF)


def repeated(operation: Callable[Given, Found]) -> Callable[Given, Found]:
    """Decorate an operation that does no harm when done twice: it is repeated when its connection was cut off."""

    @wraps(operation)
    def patient(*args: Given.args, **options: Given.kwargs) -> Found:
        for _ in range(CUTS):
            try:
                return operation(*args, **options)
            except (sqlalchemy.exc.DBAPIError, StorageInternalError) as error:
                if not was_cut_off(error):
                    raise
        return operation(*args, **options)

    return patient
