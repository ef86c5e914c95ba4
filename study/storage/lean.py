"""Optuna's storage with what it lacks: same tables, same contents.

Optuna reads trials through SQLAlchemy's object mapper; here a look at trials is six plain SELECTs, which wait for no
writer: 1.5 s instead of 7.5 s for a history of 10,000 trials (`scripts/bench/overhead.py` has what a trial costs).
"""

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from itertools import groupby
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models as tables
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table

from study import StudyError
from study.storage.backend import Backend, backend_of
from study.storage.trouble import repeated

AT_ONCE = 500
"""Number of trials whose rows one statement fetches; SQLite allows some thousand parameters in a statement."""

TRIALS: Table = tables.TrialModel.__table__
REPORTS: Table = tables.TrialIntermediateValueModel.__table__
USER_ATTRIBUTES: Table = tables.TrialUserAttributeModel.__table__
SYSTEM_ATTRIBUTES: Table = tables.TrialSystemAttributeModel.__table__
PARAMS: Table = tables.TrialParamModel.__table__
VALUES: Table = tables.TrialValueModel.__table__

PARTS = (PARAMS, VALUES, USER_ATTRIBUTES, SYSTEM_ATTRIBUTES, REPORTS)
"""Tables whose rows belong to a trial; ROWS reads each in the order in which its rows were written."""

# Built once: putting a statement together takes longer than running it.
IDS: Any = sqlalchemy.bindparam("ids", expanding=True)
ROWS = [
    sqlalchemy.select(table).where(table.c.trial_id.in_(IDS)).order_by(table.c.trial_id, *table.primary_key)
    for table in PARTS
]
STATE = sqlalchemy.select(TRIALS.c.state).where(TRIALS.c.trial_id == sqlalchemy.bindparam("id"))
ONE = sqlalchemy.select(TRIALS).where(TRIALS.c.trial_id == sqlalchemy.bindparam("id"))
NEW = (
    sqlalchemy.select(TRIALS)
    .where(TRIALS.c.study_id == sqlalchemy.bindparam("study"))
    .where((TRIALS.c.trial_id > sqlalchemy.bindparam("last")) | TRIALS.c.trial_id.in_(IDS))
    .order_by(TRIALS.c.trial_id)
)
STUDY = sqlalchemy.select(tables.StudyModel.study_id).where(tables.StudyModel.study_id == sqlalchemy.bindparam("id"))


NOT_FINITE = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}


UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
"""Errors that Optuna and Python raise on rows that another program has changed: anything may stand in them."""


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn UNREADABLE errors, which altered rows cause, into StudyError; Optuna's "no such record" is passed on.

    `what`: words for what was to be read.
    """
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, StudyError) or error.args == (tables.NOT_FOUND_MSG,):
            raise
        first = (str(error).splitlines() or [""])[0]
        raise StudyError(
            f"{what} cannot be read: another program has changed it ({type(error).__name__}: {first})"
        ) from error


class LeanStorage(RDBStorage):
    """RDBStorage that reads a long history in a fifth of the time, and repeats what a lost connection interrupted.

    It adds what Optuna has no single step for: several attributes or parameters at once, an attribute that is changed,
    a rung that is forgotten.
    """

    def __getstate__(self) -> dict[Any, Any]:
        """Raise StudyError: a pickled copy would lose the hook that makes writers wait in line."""
        raise StudyError("a storage cannot be pickled: open it again from its address, in the other process")

    @property
    def backend(self) -> Backend:
        """The kind of the database."""
        return backend_of(self.engine.url)

    def close(self) -> None:
        """Close this process's connections to the database."""
        self.backend.close(self.engine)

    @repeated
    def study_names(self) -> list[str]:
        """Return the sorted names of all studies; one that is not text is skipped, so that it cannot break the list."""
        with self.reading() as connection:
            found = connection.scalars(sqlalchemy.select(tables.StudyModel.study_name))
            return sorted(name for name in found if isinstance(name, str))

    @repeated
    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial. Raises KeyError when there is no such trial."""
        with self.reading() as connection, readable("a trial"):
            found = _read(connection, connection.execute(ONE, {"id": trial_id}).all())
        if not found:
            raise KeyError(tables.NOT_FOUND_MSG)
        return found[0]

    @repeated
    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        which = {"study": study_id, "last": trial_id_greater_than, "ids": list(included_trial_ids)}
        with self.reading() as connection, readable("a trial"):
            trials = connection.execute(NEW, which).all()
            if not trials and connection.scalar(STUDY, {"id": study_id}) is None:
                raise KeyError(tables.NOT_FOUND_MSG)
            return _read(connection, [trial for trial in trials if states is None or trial.state in states])

    @repeated
    def change_study_attribute(
        self, study_id: int, key: str, change: Callable[[Any], Any], patience: float | None = None
    ) -> Any:
        """Replace an attribute of a study by the result of `change` on it, in one transaction; return that.

        `change` is given None where the attribute is missing; where it returns None, the attribute stays as it is.
        `patience`: seconds to wait for another program's lock. Where the connection is cut off as it commits, `change`
        may be given its own earlier result. Raises KeyError when there is no such study.
        """
        table: Table = tables.StudyUserAttributeModel.__table__
        mine = (table.c.study_id == study_id) & (table.c.key == key)
        with self.engine.connect().execution_options(patience=patience) as connection, connection.begin():
            if connection.scalar(STUDY.with_for_update(), {"id": study_id}) is None:
                raise KeyError(tables.NOT_FOUND_MSG)
            found = connection.scalar(sqlalchemy.select(table.c.value_json).where(mine))
            with readable(f"the study's attribute {key!r}"):
                before = None if found is None else json.loads(found)
            after = change(before)
            if after is None:
                return before
            self._write(connection, table, [{"study_id": study_id, "key": key, "value_json": json.dumps(after)}])
            return after

    @repeated
    def set_attributes(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Write several user attributes of a trial in one transaction.

        Raises KeyError for a missing trial, UpdateFinishedTrialError for one that has ended.
        """
        rows = [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()
        ]
        with self._updating(trial_id) as connection:
            self._write(connection, USER_ATTRIBUTES, rows)

    @repeated
    def set_params(self, trial_id: int, params: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> None:
        """Write several parameters of a trial in one transaction; raises as set_attributes does.

        The contract of the study ensures that a parameter has one distribution in all trials.
        """
        rows = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": space[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(space[name]),
            }
            for name, value in params.items()
        ]
        with self._updating(trial_id) as connection:
            self._write(connection, PARAMS, rows)

    @repeated
    def forget_rung(self, trial_id: int, rung: int) -> None:
        """Remove a trial's entry in a rung, so that its last report can be judged again.

        A kill between SuccessiveHalvingPruner's note that a rung was reached and the end of the trial would lose the
        verdict. Optuna's API has no way to remove an attribute.
        """
        attributes = SYSTEM_ATTRIBUTES.c
        entry = (attributes.trial_id == trial_id) & (attributes.key == f"completed_rung_{rung}")
        with self._updating(trial_id) as connection:
            connection.execute(sqlalchemy.delete(SYSTEM_ATTRIBUTES).where(entry))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction for reading, which waits for nobody and sees one state, whoever writes meanwhile."""
        with self.engine.connect().execution_options(**self.backend.one_state) as connection, connection.begin():
            yield connection

    @contextmanager
    def _updating(self, trial_id: int) -> Iterator[Connection]:
        """Open a transaction that changes a trial, which must not have ended."""
        with self.engine.begin() as connection:
            state = connection.scalar(STATE, {"id": trial_id})
            if state is None:
                raise KeyError(tables.NOT_FOUND_MSG)
            self.check_trial_is_updatable(trial_id, state)
            yield connection

    def _write(self, connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
        """Insert rows of a trial or a study, or change those with the same key.

        All go in one statement: for a list of rows psycopg uses the pipeline mode of libpq, in which a connection that
        is cut off can stay for good.
        """
        if rows:
            connection.execute(_upsert(table, self.engine.name).values(rows))


for name in (
    *("set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr", "set_study_user_attr"),
    "get_study_id_from_name",
):  # these do no harm when done twice
    setattr(LeanStorage, name, repeated(getattr(RDBStorage, name)))
for name in ("get_study_user_attrs", "get_study_system_attrs"):
    setattr(LeanStorage, name, repeated(readable("an attribute of a study")(getattr(RDBStorage, name))))


def _read(connection: Connection, trials: Sequence[Any]) -> list[FrozenTrial]:
    """Build the trials of these rows, with everything that belongs to them."""
    found = []
    for start in range(0, len(trials), AT_ONCE):
        some = trials[start : start + AT_ONCE]
        ids = [trial.trial_id for trial in some]
        params, values, user, system, reports = (_by_trial(connection.execute(query, {"ids": ids})) for query in ROWS)
        for row in some:
            mine = row.trial_id
            trial = FrozenTrial(
                number=row.number,
                state=row.state,
                value=None,
                values=[_number(one.value, one.value_type) for one in values.get(mine, [])] or None,
                datetime_start=_local(row.datetime_start),
                datetime_complete=_local(row.datetime_complete),
                params={},
                distributions={one.param_name: _distribution(one.distribution_json) for one in params.get(mine, [])},
                user_attrs={one.key: json.loads(one.value_json) for one in user.get(mine, [])},
                system_attrs={one.key: json.loads(one.value_json) for one in system.get(mine, [])},
                intermediate_values={
                    one.step: _number(one.intermediate_value, one.intermediate_value_type)
                    for one in reports.get(mine, [])
                },
                trial_id=mine,
            )
            kinds = trial.distributions
            trial.params = {
                one.param_name: kinds[one.param_name].to_external_repr(one.param_value) for one in params.get(mine, [])
            }
            found.append(trial)
    return found


_distribution = cache(json_to_distribution)  # many trials have the same few, and nobody changes them


def _number(value: float | None, kind: Any) -> float:
    """Return the value that Optuna stores as a number and its type, since not every database has infinity and NaN."""
    return NOT_FINITE[kind.name] if value is None else value


def _local(utc: datetime | None) -> datetime | None:
    return utc and utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


@cache
def _upsert(table: Table, kind: str) -> Any:
    """Build the statement that inserts a row, or changes the one with the same key, for a kind of database."""
    statement = import_module(f"sqlalchemy.dialects.{kind}").insert(table)
    new = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    (key,) = (one for one in table.constraints if isinstance(one, sqlalchemy.UniqueConstraint))
    return statement.on_conflict_do_update(index_elements=key.columns, set_=new)


def _by_trial(rows: Iterable[Any]) -> dict[int, list[Any]]:
    """Group rows, which are sorted by trial, by the trial's id."""
    return {trial_id: list(some) for trial_id, some in groupby(rows, key=lambda row: row.trial_id)}
