"""The only door to the database: how it is opened, and the few things Optuna's API lacks."""

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.storages import RDBStorage
from optuna.storages._rdb import models as tables
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url

from study import StudyError

DEFAULT_URL = "sqlite:///optuna.db"

BUSY_SECONDS = 60
"""How long a statement waits for another process's lock."""


def open_storage(url: str, *, create: bool) -> RDBStorage:
    """Open the database of studies, making it when asked to.

    Raises StudyError when it is not there, cannot be written, or is no database.
    """
    place = parse_url(url)
    if place.get_backend_name() == "sqlite":
        return _open_sqlite(url, sqlite_file(place), create)
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "pool_size": 2})
    except ImportError as error:  # Optuna's own, which hides the driver's name
        driver = place.get_driver_name() or place.get_backend_name()
        raise StudyError(
            f"storage {place.render_as_string()}: the driver {driver} is not installed "
            "(for PostgreSQL: pip install 'psycopg[binary]', and an address that starts with postgresql+psycopg://)"
        ) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise StudyError(f"cannot open the storage {place.render_as_string()}: {_cause(error)}") from error


def parse_url(url: str) -> URL:
    """SQLAlchemy's view of a storage address; StudyError when it is none."""
    try:
        place = make_url(url)
        place.get_dialect()
        return place
    except ImportError:
        return place  # a driver that is not installed; opening says so
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise StudyError(f"not a storage address: {url!r} (for example {DEFAULT_URL})") from error


def sqlite_file(place: URL) -> Path:
    """The file of a SQLite address; StudyError for a database in memory, which nothing could resume."""
    if not place.database or place.database == ":memory:":
        raise StudyError(f"a study in memory cannot be resumed: name a file, for example {DEFAULT_URL}")
    return Path(place.database)


def runs_folder(url: str) -> Path:
    """Where the files of studies lie: runs/ beside a SQLite database, else in the current folder."""
    place = parse_url(url)
    return (sqlite_file(place).parent if place.get_backend_name() == "sqlite" else Path()) / "runs"


def _open_sqlite(url: str, file: Path, create: bool) -> RDBStorage:
    _check_file(file, create)

    def connect() -> sqlite3.Connection:
        # No implicit transactions: SQLAlchemy's begin event below opens each one as a writer.
        connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    try:
        storage = _made(url, {"creator": connect})
    except (sqlalchemy.exc.DatabaseError, sqlite3.Error) as error:
        raise StudyError(f"cannot open {file} as a SQLite database: {_cause(error)}") from error

    # A transaction that reads first and writes later can lose its snapshot to another writer; taking the write lock
    # at once makes the others wait instead.
    @event.listens_for(storage.engine, "begin")
    def _immediate(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return storage


def _made(url: str, engine: dict[str, Any]) -> RDBStorage:
    """Optuna's storage; two processes may create the same tables at once, so one loser tries again."""
    with suppress(sqlalchemy.exc.OperationalError, sqlalchemy.exc.IntegrityError):
        return RDBStorage(url, engine_kwargs=engine)
    time.sleep(0.5)
    return RDBStorage(url, engine_kwargs=engine)


def _check_file(file: Path, create: bool) -> None:
    if not file.exists():
        if not create:
            raise StudyError(f"no database at {file} (start a study with: study run; or name it with --storage)")
        if not file.parent.is_dir():
            raise StudyError(f"cannot make {file}: there is no folder {file.parent}")
    target = file if file.exists() else file.parent
    if not os.access(target, os.W_OK) or not os.access(file.parent, os.W_OK):
        raise StudyError(f"cannot write {file}: no permission (name another place with --storage sqlite:///FILE)")


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def study_names(storage: RDBStorage) -> list[str]:
    """Names of all studies in the database."""
    return sorted(optuna.get_all_study_names(storage))


def load_study(storage: RDBStorage, name: str) -> optuna.Study:
    """An existing study (without its sampler and pruner); StudyError names what there is."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        names = study_names(storage)
        there = f"there are: {', '.join(names)}" if names else "there are none; start one with: study run"
        raise StudyError(f"no study named {name!r} in this database ({there})") from error


def forget_rung(storage: RDBStorage, trial_id: int, rung: int) -> None:
    """Take back a trial's entry in a rung, so that its last report can be judged again.

    Optuna writes the entry before it decides; a worker that died in between would leave a trial that passed without
    a verdict. Optuna's API has no way to remove an attribute.
    """
    attributes = tables.TrialSystemAttributeModel
    with storage.engine.begin() as connection:
        connection.execute(
            sqlalchemy.delete(attributes).where(
                attributes.trial_id == trial_id, attributes.key == f"completed_rung_{rung}"
            )
        )
