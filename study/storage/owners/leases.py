"""Leases, one on each running trial: which process runs it.

On one machine that process can be checked; elsewhere its heartbeat is watched, and no clock is ever compared with
another machine's.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import sqlalchemy
from optuna.storages._rdb import models as tables
from optuna.trial import TrialState
from sqlalchemy import BigInteger, Column, Engine, Integer, MetaData, String, Table

from study import StudyError
from study.signals import stop_behind
from study.storage.lean import LeanStorage
from study.storage.owners.processes import (
    HeartbeatWatch,
    LifeSign,
    Process,
    is_alive,
    is_anyone_alive,
    now,
    this_process,
)
from study.storage.trouble import repeated, was_cut_off

BEAT_SECONDS = 10.0
GAP_SECONDS = 5.0
"""Most seconds by which one pause between two looks ages a heartbeat: while nobody can write, none is written."""
DEATHS = 3
"""Number of workers that died at one place of a trial, from which on it is given up."""
RELEASE_PATIENCE = 1.0
"""Seconds that an ending process waits for the database: first for the lease it leaves, then for all its leases."""

LEASES = Table(
    "leases",
    MetaData(),
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("worker", String(32)),  # NULL: given back
    Column("host", String(255)),
    Column("boot", String(64)),
    Column("namespace", String(64)),
    Column("pid", Integer),
    Column("started", BigInteger),  # clock ticks after boot, so that a reused pid is noticed
    Column("beat", BigInteger, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("steps", Integer, nullable=False),  # reported by the trial when the lease was taken
)

TRIALS = tables.TrialModel


class LeaseLostError(Exception):
    """Another worker has taken the trial, so this one must write nothing more about it."""


class Leases:
    """The leases that one worker takes, takes over and gives back in a database."""

    def __init__(self, storage: LeanStorage) -> None:
        self._engine = storage.engine
        self._one_machine = storage.backend.one_machine
        self._worker = uuid4().hex
        self._watched: dict[int, HeartbeatWatch] = {}

    @repeated
    def prepare(self) -> None:
        """Create the table, and drop the leases of trials that have ended or were deleted."""
        # Two PostgreSQL sessions may both find it missing; the slower one is told that it is there by now.
        with suppress(sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            LEASES.metadata.create_all(self._engine)
        running = sqlalchemy.select(TRIALS.trial_id).where(TRIALS.state == TrialState.RUNNING)
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.delete(LEASES).where(LEASES.c.trial_id.not_in(running)))

    def take_new(self, trial_id: int) -> "Lease":
        """Take a lease on a trial that this worker has just asked for."""
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.delete(LEASES).where(LEASES.c.trial_id == trial_id))  # an older trial's
            connection.execute(sqlalchemy.insert(LEASES).values(self._row(trial_id, deaths=0, steps=0)))
        return Lease(self._engine, trial_id, self._worker, deaths=0)

    def adopt(self, trial_id: int, steps: int) -> "Lease | None":
        """Take over a trial with `steps` reported steps; None while another worker holds it, or when it has ended.

        A lease of this worker itself is taken over too: what should have ended it was cut off as well.
        """
        with self._engine.begin() as connection:
            row = connection.execute(sqlalchemy.select(LEASES).where(LEASES.c.trial_id == trial_id)).first()
            # The lease is read before the trial's state, because it ends after its trial.
            state = connection.scalar(sqlalchemy.select(TRIALS.state).where(TRIALS.trial_id == trial_id))
            if state != TrialState.RUNNING:
                return None
            if row is None:  # a trial of plain Optuna or an older version, or of a worker killed before it took a lease
                connection.execute(sqlalchemy.insert(LEASES).values(self._row(trial_id, deaths=0, steps=steps)))
                return Lease(self._engine, trial_id, self._worker, deaths=0)
            left = row.worker in (None, self._worker)
            watch = self._watched.setdefault(trial_id, HeartbeatWatch(GAP_SECONDS))
            if not left and not watch.is_gone(((row.worker, row.beat), _process(row)), self._one_machine):
                return None
            deaths = (0 if steps > row.steps else row.deaths) + (not left)  # since the trial last got further
            taken = connection.execute(
                sqlalchemy.update(LEASES)
                .where(LEASES.c.trial_id == trial_id, LEASES.c.worker == row.worker, LEASES.c.beat == row.beat)
                .values(self._row(trial_id, deaths=deaths, steps=steps))
            )
            return Lease(self._engine, trial_id, self._worker, deaths=deaths) if taken.rowcount else None

    def give_back(self) -> None:
        """Give back all leases of this worker, before it ends."""
        mine = sqlalchemy.update(LEASES).where(LEASES.c.worker == self._worker).values(worker=None)
        with suppress(sqlalchemy.exc.SQLAlchemyError, StudyError):  # then they are taken over as after an accident
            _write(self._engine, mine, RELEASE_PATIENCE)

    def somebody_works_on(self, trial_ids: Collection[int], watching: Callable[[], None]) -> bool:
        """Return whether a living process holds one of these trials; see `is_anyone_alive`."""
        return is_anyone_alive(lambda: lease_holders(self._engine, trial_ids), self._one_machine, watching)

    def _row(self, trial_id: int, *, deaths: int, steps: int) -> dict[str, str | int | None]:
        return {
            "trial_id": trial_id,
            "worker": self._worker,
            **asdict(this_process()),
            "beat": 0,
            "deaths": deaths,
            "steps": steps,
        }


def _process(row: Any) -> Process:
    return Process(row.host, row.boot, row.namespace, row.pid, row.started)


class Lease:
    """The right to run a trial, kept alive by a heartbeat inside `with`.

    Leaving `with` ends the lease when all went well, gives the trial back when this process was told to stop or lost
    its connection, and marks it as an accident otherwise.
    """

    def __init__(self, engine: Engine, trial_id: int, worker: str, *, deaths: int) -> None:
        self.deaths = deaths  # earlier workers that died since the trial last got further
        self._engine = engine
        self._mine = (LEASES.c.trial_id == trial_id) & (LEASES.c.worker == worker)
        self._confirmed = now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, daemon=True, name=f"heartbeat of trial {trial_id}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if kind is None:
            _write(self._engine, sqlalchemy.delete(LEASES).where(self._mine))
        elif not issubclass(kind, LeaseLostError):
            told = issubclass(kind, (KeyboardInterrupt, GeneratorExit)) or stop_behind(error)
            stopped = told or was_cut_off(error)
            change: dict[str, int | None] = {"worker": None} if stopped else {"pid": 0}  # no process has that number
            with suppress(sqlalchemy.exc.SQLAlchemyError, StudyError):  # the first error is the one to report
                _write(self._engine, sqlalchemy.update(LEASES).where(self._mine).values(change), RELEASE_PATIENCE)

    def confirm(self, within: float = 0.0) -> None:
        """Write one more heartbeat now, unless the last confirmation is less than `within` seconds ago.

        Raises LeaseLostError when another worker has the trial.
        """
        if within and now() - self._confirmed < within:
            return
        if not _write(self._engine, sqlalchemy.update(LEASES).where(self._mine).values(beat=LEASES.c.beat + 1)):
            raise LeaseLostError
        self._confirmed = now()

    def _heartbeat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(sqlalchemy.exc.SQLAlchemyError, StudyError):  # a lock, a lost connection: the next one counts
                _write(self._engine, sqlalchemy.update(LEASES).where(self._mine).values(beat=LEASES.c.beat + 1))


def _write(engine: Engine, statement: sqlalchemy.Update | sqlalchemy.Delete, patience: float | None = None) -> int:
    """Run a statement, and return the number of rows it changed."""
    with engine.connect().execution_options(patience=patience) as connection, connection.begin():
        return connection.execute(statement).rowcount


def lease_holders(engine: Engine, trial_ids: Collection[int] | None = None) -> list[LifeSign]:
    """Return the holders of leased trials (None: of all that run), alive or not; also in tables of another Optuna."""
    running = sqlalchemy.select(TRIALS.trial_id).where(TRIALS.state == TrialState.RUNNING)
    which = LEASES.c.trial_id.in_(running if trial_ids is None else trial_ids) & LEASES.c.worker.is_not(None)
    return [((row.trial_id, row.worker, row.beat), _process(row)) for row in _leased(engine, which)]


def holders_in_words(storage: LeanStorage) -> dict[int, str]:
    """Return in words who holds each leased trial, by trial id; a storage opened to read is enough."""
    found, one_machine = {}, storage.backend.one_machine
    for row in _leased(storage.engine, sqlalchemy.true()):
        alive = is_alive(_process(row), one_machine) if row.worker else False
        found[row.trial_id] = "waits to be continued" if alive is False else f"run by process {row.pid} on {row.host}"
    return found


def _leased(engine: Engine, which: sqlalchemy.ColumnElement[bool]) -> Sequence[Any]:
    with engine.connect().execution_options(reads=True) as connection:
        if not sqlalchemy.inspect(connection).has_table(LEASES.name):
            return []
        return connection.execute(sqlalchemy.select(LEASES).where(which)).all()
