"""Upgrade of an older Optuna's tables to those of this one, with our own views out of the way and back afterwards."""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages._rdb import models as tables

from study import StudyError
from study.attributes import CLOCK
from study.storage.address import masked, parse_url
from study.storage.backend import backend_of, drop_views
from study.storage.door import OtherSchemaError, open_storage
from study.storage.lean import readable
from study.storage.owners.clock import ClockState
from study.storage.owners.leases import lease_holders
from study.storage.owners.processes import LifeSign, is_anyone_alive
from study.storage.trouble import cause_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpgradeResult:
    """The result of an upgrade: the versions of the tables, and a copy of what was there before."""

    before: str  # Optuna's names of the tables' versions
    after: str
    copy: Path | None  # of the SQLite file as it was; None where nothing was changed


def upgrade(url: str) -> UpgradeResult:
    """Do what `optuna storage upgrade` does, on a SQLite file after copying it beside itself.

    Raises StudyError, having changed nothing, when the database is not one of Optuna's, or of a newer Optuna, or when
    a process works on one of its studies; and when Optuna's migration fails, with the place of the copy.
    """
    try:
        ready = open_storage(url, create=False, write=False)  # refuses what is not Optuna's, or of another version
        version = ready.get_current_version()
        ready.close()
        return UpgradeResult(version, version, None)
    except OtherSchemaError as error:
        if not error.older:
            raise
    place = parse_url(url)
    backend_of(place).is_there(place)  # refuses a file that cannot be written
    storage = RDBStorage(url, skip_compatibility_check=True, skip_table_creation=True)
    try:
        before, after = storage.get_current_version(), storage.get_head_version()
        if somebody_is_at_work(storage):
            raise StudyError(f"a process works on a study in {masked(url)} (stop it first: Ctrl-C, or kill -TERM)")
        copy = backend_of(place).keep_copy(place, re.sub(r"[^0-9A-Za-z.]", "", before))
        _migrate(storage, copy)
    finally:
        storage.engine.dispose()
    return UpgradeResult(before, after, copy)


def somebody_is_at_work(storage: RDBStorage) -> bool:
    """Return whether a living process adds to a study's clock, or holds a running trial (versions without a clock)."""
    attribute = tables.StudyUserAttributeModel

    def look() -> list[LifeSign]:
        with storage.engine.connect() as connection:
            texts = connection.scalars(sqlalchemy.select(attribute.value_json).where(attribute.key == CLOCK)).all()
        with readable("a study's clock"):
            holders = [ClockState.model_validate(json.loads(text)).holder for text in texts]
        return [*(one.sign for one in holders if one), *lease_holders(storage.engine)]

    def watching() -> None:
        logger.warning("a process that cannot be seen from here worked on a study; watching it for a minute")

    return is_anyone_alive(look, backend_of(storage.engine.url).one_machine, watching)


def _migrate(storage: RDBStorage, copy: Path | None) -> None:
    with storage.engine.begin() as connection:
        drop_views(connection)
    try:
        storage.upgrade()
    except Exception as error:  # a migration may raise anything on strange contents
        as_it_was = f" (it is as it was in {copy})" if copy else ""
        raise StudyError(f"Optuna could not upgrade the tables: {cause_of(error)}{as_it_was}") from error
