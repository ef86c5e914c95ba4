"""The study's clock: time during which at least one process works on a study, counted once.

It stands in an attribute of the study. One living process holds it and adds to it every few seconds, so that a kill
loses little; pauses do not count, and of several workers one counts. When the holder is gone, the next process goes on.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated
from uuid import uuid4

import sqlalchemy
from pydantic import BaseModel, Field, JsonValue

from study import StudyError
from study.attributes import CLOCK, kept
from study.storage.lean import LeanStorage
from study.storage.processes import Process, Watch, is_alive, now, this_process

TICK_SECONDS = 10.0
"""Between two additions; a kill loses at most that."""
GRACE_SECONDS = 60.0
"""A holder that cannot be looked at is gone when it has added nothing for so long."""
LAST_PATIENCE = 1.0
"""Seconds that a process which ends waits for the database."""
MOST_AT_ONCE = 3 * TICK_SECONDS
"""What one addition may add: more means that this process stood still, or waited for the database."""


class Holder(BaseModel):
    """The process that adds to the clock."""

    clock: str  # which of that process's clocks
    process: Process
    beat: int = 0

    def is_gone(self, one_machine: bool, watch: Watch) -> bool:
        """Whether another process may go on."""
        there = is_alive(self.process, one_machine)
        if there is None:  # on another machine: its beat is watched
            return watch.still_for((self.clock, self.beat), MOST_AT_ONCE) >= GRACE_SECONDS
        return not there


class Standing(BaseModel):
    """What the attribute holds."""

    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    holder: Holder | None = None


class Clock:
    """A study's clock as this process sees it; while it is `running`, a thread adds to it unless another one does."""

    def __init__(self, storage: LeanStorage, study_id: int) -> None:
        self._storage = storage
        self._study_id = study_id
        self._id = uuid4().hex
        self._watch = Watch()
        self._lock = threading.Lock()
        self._standing: Standing | None = None  # None while it is not running here
        self._at = now()
        self._already = 0.0
        self._uncounted = 0.0  # seconds of work while another process held the clock

    @contextmanager
    def running(self, since: float, already: float = 0.0) -> Iterator[None]:
        """This process works on the study, and has done so since then (see processes.now): imports and images count.

        `already`: seconds of a study that was made before there was a clock.
        """
        self._already = already
        self._at = since
        self._tick(first=True)
        ended = threading.Event()

        def go() -> None:
            while not ended.wait(TICK_SECONDS):
                with suppress(sqlalchemy.exc.SQLAlchemyError, StudyError, KeyError):  # a lock: the next one adds both
                    self._tick()

        threading.Thread(target=go, daemon=True, name="the study's clock").start()
        try:
            yield
        finally:
            ended.set()
            with suppress(sqlalchemy.exc.SQLAlchemyError, StudyError, KeyError):  # another error is to be heard of
                self._tick(last=True)

    def is_held(self) -> bool:
        """Whether a process works on the study, as far as one can see from here."""
        holder = self._kept().holder
        one_machine = self._storage.engine.dialect.name == "sqlite"
        return holder is not None and is_alive(holder.process, one_machine) is not False

    def spent(self) -> float:
        """Seconds so far, by all processes."""
        with self._lock:
            if self._standing is None:
                return self._kept().seconds
            return self._standing.seconds + min(now() - self._at, MOST_AT_ONCE)

    def _kept(self) -> Standing:
        return kept(self._storage.get_study_user_attrs(self._study_id), CLOCK, Standing) or Standing()

    def _tick(self, *, first: bool = False, last: bool = False) -> None:
        with self._lock:
            changed = self._storage.change_study_attribute(
                self._study_id,
                CLOCK,
                lambda before: self._changed(self._standing_of(before), first, last),
                LAST_PATIENCE if last else None,
            )
            self._standing, self._at = Standing.model_validate(changed or {}), now()

    def _standing_of(self, before: JsonValue) -> Standing:
        attributes = {} if before is None else {CLOCK: before}
        return kept(attributes, CLOCK, Standing) or Standing(seconds=self._already)

    def _changed(self, there: Standing, first: bool, last: bool) -> JsonValue:
        """What the attribute becomes; None where it is another's."""
        ours = there.holder is not None and there.holder.clock == self._id
        one_machine = self._storage.engine.dialect.name == "sqlite"
        passed = now() - self._at if first else min(now() - self._at, MOST_AT_ONCE)  # however long the images took
        if there.holder is not None and not ours and not there.holder.is_gone(one_machine, self._watch):
            gained = 0.0 if self._standing is None else there.seconds - self._standing.seconds
            self._uncounted = max(0.0, self._uncounted + passed - gained)  # a holder that is gone adds nothing
            return None
        there.seconds += passed + self._uncounted
        self._uncounted = 0.0
        beat = there.holder.beat + 1 if ours and there.holder else 0
        there.holder = None if last else Holder(clock=self._id, process=this_process(), beat=beat)
        return there.model_dump(mode="json")
