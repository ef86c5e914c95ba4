"""The only place that opens a database of studies, with the few things that Optuna's API lacks."""

import errno
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import URL, make_url

from study import StudyError
from study.storage import views
from study.storage.lean import LeanStorage, readable
from study.storage.names import DEFAULT_URL
from study.storage.server import CONNECTIONS, repeated, wait_for_restarts
from study.storage.sqlite import check_file, reader, wait_in_line, when_free, writer

# Errors of a driver for a lock, a full disk, a lost connection, a damaged file; all its other errors are our bugs.
TROUBLE = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.DatabaseError)

# Error numbers of a disk that is full, or may no longer be written to.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def open_storage(url: str, *, create: bool, write: bool = True, kind: type[LeanStorage] = LeanStorage) -> LeanStorage:
    """Open the database of studies, made first where `create` says so; readers (`write` false) wait for nobody.

    Raises StudyError when it is not there, cannot be written, or is not a database.
    """
    place = parse_url(url)
    if place.get_backend_name() == "sqlite":
        return _open_sqlite(url, sqlite_file(place), create, write, kind)
    if place.get_backend_name() != "postgresql":
        raise StudyError(
            f"storage {masked(url)}: studies are kept in SQLite or PostgreSQL "
            f"({DEFAULT_URL} or postgresql+psycopg://USER@HOST/DATABASE)"
        )
    try:
        # Keepalive packets (psycopg): the connection that holds a lock is silent for a whole final training.
        alive = {"keepalives_idle": 60} if place.get_driver_name().startswith("psycopg") else {}
        storage = _made(kind, url, {**CONNECTIONS, "connect_args": alive})
        wait_for_restarts(storage.engine, masked(url))
        return storage
    except ImportError as error:  # raised by Optuna, which hides the driver's name
        driver = place.get_driver_name() or place.get_backend_name()
        raise StudyError(
            f"storage {masked(url)}: the driver {driver} is not installed "
            "(for PostgreSQL: pip install 'psycopg[binary]', and an address that starts with postgresql+psycopg://)"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        raise StudyError(f"cannot open the storage {masked(url)}: {_cause(error)}") from error
    except RuntimeError as error:
        raise _other_schema(url, error) from error


class OtherSchemaError(StudyError):
    """The tables were made by another version of Optuna."""

    def __init__(self, message: str, older: bool) -> None:
        super().__init__(message)
        self.older = older  # whether that version is older than the installed one


def wait_for_server(url: str) -> None:
    """Wait until a database that was there before answers. Raises StudyError after `server.PATIENCE` seconds."""
    if parse_url(url).get_backend_name() == "sqlite":
        return
    engine = sqlalchemy.create_engine(url)
    wait_for_restarts(engine, masked(url))
    engine.connect().close()
    engine.dispose()


def check_storage(url: str) -> None:
    """Raise StudyError when the database cannot be opened or made, and make nothing."""
    place = parse_url(url)
    if place.get_backend_name() == "sqlite" and not sqlite_file(place).exists():
        check_file(sqlite_file(place), create=True)
    else:
        open_storage(url, create=False).engine.dispose()


def parse_url(url: str) -> URL:
    """Parse a storage address into SQLAlchemy's URL. Raises StudyError when it is not one."""
    try:
        place = make_url(url)
        place.get_dialect()
        return place
    except ImportError:
        return place  # a driver that is not installed; opening says so
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        hidden = re.sub(r"//([^/@:]*):[^@]*@", r"//\1:***@", re.sub(r"(password=)[^&]*", r"\1***", url))
        raise StudyError(f"not a storage address: {hidden!r} (for example {DEFAULT_URL})") from error


def masked(url: str) -> str:
    """Mask the password of a storage address, wherever that stands in it."""
    return shown(parse_url(url))


def shown(place: URL) -> str:
    """Mask the password of a parsed URL."""
    return place.difference_update_query(["password", "sslpassword"]).render_as_string()


def sqlite_file(place: URL) -> Path:
    """Return the file of a SQLite address. Raises StudyError for a database in memory, which nothing could resume."""
    if not place.database or place.database == ":memory:":
        raise StudyError(f"a study in memory cannot be resumed: name a file, for example {DEFAULT_URL}")
    return Path(place.database)


def runs_folder(url: str, named: str | None = None) -> Path:
    """Return the studies' folder: runs/ beside a SQLite database, else `named`, or runs/ in the current folder."""
    place = parse_url(url)
    if place.get_backend_name() == "sqlite":
        return sqlite_file(place).parent / "runs"
    return Path(named or "runs")


def _open_sqlite(url: str, file: Path, create: bool, write: bool, kind: type[LeanStorage]) -> LeanStorage:
    check_file(file, create=create, write=write)
    connect = writer(file) if write else reader(file)
    try:
        storage = when_free(lambda: _made(kind, url, {"creator": connect}, tables=write), file)
    except (sqlalchemy.exc.DatabaseError, sqlite3.Error, StorageInternalError) as error:
        if not write and "no such table" in _cause(error):
            raise StudyError(f"no studies in {file} (start one with: study run)") from error
        if not write and "readonly" in _cause(error):  # Optuna adds a table to those of its versions before 1.2
            raise _other_schema(url, RuntimeError(f"{file} was made before Optuna 1.2. See storage upgrade")) from error
        raise StudyError(f"cannot open {file} as a SQLite database: {_cause(error)}") from error
    except RuntimeError as error:
        raise _other_schema(url, error) from error
    if write:
        wait_in_line(storage.engine, file)
    return storage


@repeated
def _made(kind: type[LeanStorage], url: str, engine: dict[str, Any], *, tables: bool = True) -> LeanStorage:
    """Open Optuna's storage; two processes may create the same tables at once, so the one that fails tries again."""
    for pause in (0.1, 0.5):
        with suppress(sqlalchemy.exc.OperationalError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):
            return kind(url, engine_kwargs=engine, skip_table_creation=not tables)
        time.sleep(pause)
    return kind(url, engine_kwargs=engine, skip_table_creation=not tables)


def _other_schema(url: str, error: RuntimeError) -> StudyError:
    """Return the error for another version's tables; our views are dropped where the tables are to be upgraded."""
    older = "storage upgrade" in str(error)  # Optuna's text names this command only for older tables
    what = str(error).partition(". ")[0]
    if older:
        with suppress(sqlalchemy.exc.SQLAlchemyError):  # our views would make Optuna's own upgrade fail half-way
            engine = sqlalchemy.create_engine(url)
            with engine.begin() as connection:
                views.drop(connection)
            engine.dispose()
    upgrade = f"what brings it up to date: study db upgrade --storage {quote(masked(url))}"
    return OtherSchemaError(f"{what} ({upgrade if older else 'a newer one made it: pip install -U optuna'})", older)


def _cause(error: BaseException) -> str:
    inner = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return str(getattr(inner, "orig", None) or inner).splitlines()[0]


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
        raise StudyError(f"the database {place} returned an error: {_cause(error)} ({again})") from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise StudyError(f"cannot write {error.filename or 'a file'}: {error.strerror} ({again})") from error


def make_durable(storage: LeanStorage) -> None:
    """Make what was committed so far survive a power cut too (SQLite's commits alone survive only a kill)."""
    if storage.engine.dialect.name == "sqlite":
        with storage.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # this flushes the log before it copies from it


def study_names(storage: LeanStorage) -> list[str]:
    """Return the names of all studies in the database."""
    return storage.study_names()


def load_study(storage: LeanStorage, name: str) -> optuna.Study:
    """Load an existing study (without its sampler and pruner). Raises StudyError, which names the studies there are."""
    try:
        with readable(f"the study {name!r}"):
            return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        names = study_names(storage)
        there = f"there are: {', '.join(names)}" if names else "there are none; start one with: study run"
        raise StudyError(f"no study named {name!r} in this database ({there})") from error
