"""Tables of an older Optuna brought to those of this one, with our own views out of the way and back afterwards."""

import re
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy
from optuna.storages import RDBStorage

from study import StudyError
from study.storage import views
from study.storage.door import masked, open_storage, parse_url, sqlite_file
from study.storage.leases import LEFT, holders
from study.storage.sqlite import check_file, copy_file


@dataclass(frozen=True)
class Upgraded:
    """What was done."""

    before: str  # Optuna's names of the tables' versions
    after: str
    copy: Path | None  # of the SQLite file as it was; None where nothing was changed


def upgrade(url: str) -> Upgraded:
    """Do what `optuna storage upgrade` does, on a SQLite file after copying it beside itself.

    Raises StudyError, having changed nothing, when the database is none of Optuna's, or a newer one's, or when a
    worker is there; and when Optuna's migration fails, with the place of the copy.
    """
    place = parse_url(url)
    file = sqlite_file(place) if place.get_backend_name() == "sqlite" else None
    if file:
        check_file(file, create=False)
    _refuse_others(url)
    storage = RDBStorage(url, skip_compatibility_check=True, skip_table_creation=True)
    try:
        before, after = _versions(storage, url)
        if before == after:
            return Upgraded(before, after, None)
        if working := [words for words in holders(storage).values() if words != LEFT]:
            raise StudyError(f"a trial is {working[0]} (stop it first: kill -TERM, or Ctrl-C there)")
        copy = _copied(file, before)
        _migrate(storage, copy)
    finally:
        storage.engine.dispose()
    views.refresh(open_storage(url, create=False).engine)
    return Upgraded(before, after, copy)


def _refuse_others(url: str) -> None:
    """Before Optuna looks at it, which writes its own version into what it takes for a new database."""
    engine = sqlalchemy.create_engine(url)
    try:
        there = set(sqlalchemy.inspect(engine).get_table_names())
    except sqlalchemy.exc.SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise StudyError(f"cannot read {masked(url)}: {str(cause).splitlines()[0]}") from error
    finally:
        engine.dispose()
    if not {"studies", "trials", "version_info"} <= there:
        raise StudyError(f"{masked(url)} holds no studies of Optuna")


def _versions(storage: RDBStorage, url: str) -> tuple[str, str]:
    """Of the tables as they are, and as this Optuna wants them."""
    before, after = storage.get_current_version(), storage.get_head_version()
    if before not in storage.get_all_versions():
        known = f"tables {before}, known up to {after}"
        raise StudyError(f"{masked(url)} was made by a newer Optuna ({known}): install that one")
    return before, after


def _copied(file: Path | None, version: str) -> Path | None:
    if file is None:
        return None
    copy = file.with_name(f"{file.name}.{re.sub(r'[^0-9A-Za-z.]', '', version)}")
    copy_file(file, copy)
    return copy


def _migrate(storage: RDBStorage, copy: Path | None) -> None:
    with storage.engine.begin() as connection:
        views.drop(connection)
    try:
        storage.upgrade()
    except Exception as error:  # a migration raises whatever strange contents make it raise
        as_it_was = f" (it is as it was in {copy})" if copy else ""
        raise StudyError(f"Optuna could not upgrade the tables: {str(error).splitlines()[0]}{as_it_was}") from error
