"""Copies of studies in another database of either kind: row by row in one transaction, compared before it ends."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import sqlalchemy
from optuna.storages._rdb import models as tables
from sqlalchemy import Connection, Table

from study import StudyError
from study.storage.lean import AT_ONCE, PARTS, TRIALS, LeanStorage
from study.storage.trouble import cause_of

STUDIES: Table = tables.StudyModel.__table__
OF_STUDIES: tuple[Table, ...] = (
    tables.StudyDirectionModel.__table__,
    tables.StudyUserAttributeModel.__table__,
    tables.StudySystemAttributeModel.__table__,
)
OF_TRIALS: tuple[Table, ...] = (*PARTS, tables.TrialHeartbeatModel.__table__)

Row = dict[str, Any]
Keys = dict[str, dict[int, int]]
"""For each column with keys of rows: the key in the source -> the key in the target."""


def transfer(source: LeanStorage, target: LeanStorage) -> list[tuple[str, int]]:
    """Copy every study, all or nothing; return the name of each and its number of trials.

    Numbers, states, parameters, values, attributes, times and their order stay; rows get new keys, and leases are left
    out: a worker on the original does not work on the copy. Raises StudyError where the target has a study of the same
    name already, where a row cannot be kept in the target, and where it reads differently there.
    """
    with source.reading() as read, target.engine.begin() as write:
        names = {row.study_id: row.study_name for row in read.execute(sqlalchemy.select(STUDIES))}
        there = set(write.scalars(sqlalchemy.select(STUDIES.c.study_name)))
        if both := sorted(str(name) for name in names.values() if name in there):
            raise StudyError(f"there are studies of these names already: {', '.join(both)} (nothing was copied)")
        try:
            keys: Keys = {}
            for table in (STUDIES, TRIALS, *OF_STUDIES, *OF_TRIALS):
                _copy(read, write, table, keys)
        except (sqlalchemy.exc.DBAPIError, LookupError, ValueError, TypeError) as error:
            reason = cause_of(error)[:300]
            raise StudyError(f"a row cannot be copied: {type(error).__name__}: {reason} (nothing was)") from error
        counted = sqlalchemy.select(TRIALS.c.study_id, sqlalchemy.func.count()).group_by(TRIALS.c.study_id)
        counts = {row[0]: row[1] for row in read.execute(counted)}
    return [(str(name), counts.get(number, 0)) for number, name in names.items()]


def _copy(read: Connection, write: Connection, table: Table, keys: Keys) -> None:
    """Copy the rows of a table, and add new keys to `keys` where other tables name them.

    Raises ValueError where a row reads differently from what was written.
    """
    (key,) = table.primary_key
    rows = _rows(read, table, keys)
    made: dict[int, int] = {}
    while some := list(islice(rows, AT_ONCE)):
        old = [row.pop(key.name) for row in some]
        new = _inserted(write, table, some)
        there = write.execute(sqlalchemy.select(table).where(key.in_(new)).order_by(key)).mappings()
        for row, number, other in zip(some, new, map(dict, there), strict=True):
            if {**row, key.name: number} != other:
                raise ValueError(f"a row of {table.name} reads differently: {row}, there {other}")
        made |= zip(old, new, strict=True)
    keys[key.name] = made


def _inserted(write: Connection, table: Table, rows: list[Row]) -> list[int]:
    """Insert rows; return the key of each."""
    (key,) = table.primary_key
    if write.dialect.insert_executemany_returning_sort_by_parameter_order:
        return list(write.scalars(sqlalchemy.insert(table).returning(key, sort_by_parameter_order=True), rows))
    added = [write.execute(sqlalchemy.insert(table), row).inserted_primary_key for row in rows]  # SQLite before 3.35
    return [one[0] for one in added if one]


def _rows(connection: Connection, table: Table, keys: Keys) -> Iterator[Row]:
    """Yield the rows of a table in the order they were made, the keys of others that they name replaced.

    Rows that name a key which `keys` lacks are left out: they belong to nothing in the target.
    """
    query = sqlalchemy.select(table).order_by(*table.primary_key)
    here = {name: known for name, known in keys.items() if name in table.c}
    for row in connection.execute(query, execution_options={"yield_per": AT_ONCE}).mappings():
        if all(row[name] in known for name, known in here.items()):
            yield {**row, **{name: known[row[name]] for name, known in here.items()}}
