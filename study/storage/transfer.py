"""Copies of studies in another database of either kind: row by row in one transaction, compared before it ends."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, zip_longest
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
NewKeys = Mapping[int, int]
"""Key of each row in the source -> its key in the target."""


def transfer(source: LeanStorage, target: LeanStorage) -> list[tuple[str, int]]:
    """Copy every study, all or nothing; return the name of each and its number of trials.

    Numbers, states, parameters, values, attributes, times and their order stay; rows get new keys, and leases are left
    out: a worker on the original does not work on the copy. Raises StudyError where the target has a study of the same
    name already, where a row cannot be kept in the target, and where it reads differently there.
    """
    with source.backend.snapshot(source.engine) as read, target.engine.connect() as write, write.begin():
        names = {row.study_id: row.study_name for row in read.execute(sqlalchemy.select(STUDIES))}
        there = set(write.scalars(sqlalchemy.select(STUDIES.c.study_name)))
        if both := sorted(str(name) for name in names.values() if name in there):
            raise StudyError(f"there are studies of these names already: {', '.join(both)} (nothing was copied)")
        try:
            studies = _with_keys(read, write, STUDIES, {}, "study_name")
            trials = _with_keys(read, write, TRIALS, {"study_id": studies}, "study_id", "number")
            for table in OF_STUDIES:
                _copy(read, write, table, "study_id", studies)
            for table in OF_TRIALS:
                _copy(read, write, table, "trial_id", trials)
        except (sqlalchemy.exc.DBAPIError, LookupError, ValueError, TypeError) as error:
            reason = cause_of(error)[:300]
            raise StudyError(f"a row cannot be copied: {type(error).__name__}: {reason} (nothing was)") from error
        counted = sqlalchemy.select(TRIALS.c.study_id, sqlalchemy.func.count()).group_by(TRIALS.c.study_id)
        counts = {row[0]: row[1] for row in read.execute(counted)}
    return [(str(name), counts.get(number, 0)) for number, name in names.items()]


def _with_keys(
    read: Connection, write: Connection, table: Table, new: Mapping[str, NewKeys], *names: str
) -> dict[int, int]:
    """Copy a table whose rows others refer to; return old key -> new key, matched by the columns `names`."""
    (key,) = table.primary_key
    columns = [table.c[name] for name in names]
    found: dict[int, int] = {}
    for some in _chunks(_rows(read, table, new, keys=True)):
        old = {tuple(row[name] for name in names): row.pop(key.name) for row in some}
        if len(old) < len(some):
            raise ValueError(f"two rows of {table.name} have the same {' and '.join(names)}")
        write.execute(sqlalchemy.insert(table), some)
        made = write.execute(sqlalchemy.select(key, *columns).where(sqlalchemy.tuple_(*columns).in_(list(old))))
        found |= {old[tuple(row[1:])]: row[0] for row in made}
    own = {one: one for one in found.values()}
    there = {name: {one: one for one in known.values()} for name, known in new.items()}
    _compare(
        table,
        ({**row, key.name: found[row[key.name]]} for row in _rows(read, table, new, keys=True)),
        _rows(write, table, {key.name: own, **there}, keys=True),
    )
    return found


def _copy(read: Connection, write: Connection, table: Table, key: str, new: NewKeys) -> None:
    for some in _chunks(_rows(read, table, {key: new})):
        write.execute(sqlalchemy.insert(table), some)
    _compare(table, _rows(read, table, {key: new}), _rows(write, table, {key: {one: one for one in new.values()}}))


def _rows(connection: Connection, table: Table, new: Mapping[str, NewKeys], keys: bool = False) -> Iterator[Row]:
    """Yield the rows of a table in the order they were made, their foreign keys (columns of `new`) replaced.

    Their primary keys are left out unless `keys`. Rows that belong to nothing in the target are left out.
    """
    (key,) = table.primary_key
    columns = [column for column in table.columns if keys or column is not key]
    query = sqlalchemy.select(*columns).order_by(key)
    for row in connection.execute(query, execution_options={"yield_per": AT_ONCE}).mappings():
        if all(row[name] in known for name, known in new.items()):
            yield {**row, **{name: known[row[name]] for name, known in new.items()}}


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rest = iter(rows)
    while some := list(islice(rest, AT_ONCE)):
        yield some


def _compare(table: Table, wanted: Iterator[Row], found: Iterator[Row]) -> None:
    """Raise ValueError at the first row that is not as wanted."""
    for one, other in zip_longest(wanted, found):
        if one != other:
            raise ValueError(f"a row of {table.name} reads differently: {one}, there {other}")
