"""The study's clock: time during which at least one process works on a study, counted once.

It is kept in an attribute of the study. One living process holds it and adds to it every few seconds, so that a kill
loses little; pauses do not count, and time that several workers share counts once. When the holder is gone, the next
process goes on.
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
from study.storage.owners.processes import HeartbeatWatch, LifeSign, Process, is_alive, now, this_process

TICK_SECONDS = 10.0
"""Seconds between two additions; a kill loses at most that."""
LAST_PATIENCE = 1.0
"""Seconds that an ending process waits for the database."""
MOST_AT_ONCE = 3 * TICK_SECONDS
"""Seconds that one addition adds at most: more means that this process stood still, or waited for the database."""


class Holder(BaseModel):
    """The process that adds to the clock."""

    clock: str  # id of that process's clock
    process: Process
    beat: int = 0

    @property
    def sign(self) -> LifeSign:
        """The holder's sign of life."""
        return (self.clock, self.beat), self.process


class ClockState(BaseModel):
    """The content of the study's attribute: the seconds so far, and the process that adds to them."""

    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    holder: Holder | None = None


class Clock:
    """The clock as this process sees it; while it is `running`, a thread adds to it unless another process does."""

    def __init__(self, storage: LeanStorage, study_id: int) -> None:
        self._storage = storage
        self._study_id = study_id
        self._id = uuid4().hex
        self._watch = HeartbeatWatch(MOST_AT_ONCE)
        self._lock = threading.Lock()  # for one addition at a time; whoever asks for the time does not wait for it
        self._seen: tuple[ClockState | None, float] = None, now()  # state (None: not running here), and when it was so
        self._already = 0.0
        # Seconds of work not counted yet: while another process held the clock, and before the first tick. The latter
        # count if the holder turns out to have been dead.
        self._waiting = self._after = (0.0, 0.0)  # now, and once the change that is being made is written
        self._made: JsonValue = None  # that change

    @contextmanager
    def running(self, since: float, already: float = 0.0) -> Iterator[None]:
        """Count the time inside `with`, and the time from `since` on (see processes.now): imports and images count too.

        `already`: seconds to begin with, for a study that was made before there was a clock.
        """
        self._already = already
        self._seen = None, since
        self._tick(first=True)
        ended = threading.Event()

        def go() -> None:
            while not ended.wait(TICK_SECONDS):
                with suppress(sqlalchemy.exc.SQLAlchemyError, StudyError, KeyError):  # a lock: the next tick adds both
                    self._tick()

        threading.Thread(target=go, daemon=True, name="the study's clock").start()
        try:
            yield
        finally:
            ended.set()
            with suppress(sqlalchemy.exc.SQLAlchemyError, StudyError, KeyError):  # must not hide an error of the work
                self._tick(last=True)

    def is_held(self) -> bool:
        """Return whether a process works on the study, as far as one can see from here."""
        holder = self._kept().holder
        one_machine = self._storage.backend.one_machine
        return holder is not None and is_alive(holder.process, one_machine) is not False

    def spent(self) -> float:
        """Return the seconds so far, by all processes."""
        state, at = self._seen
        return self._kept().seconds if state is None else state.seconds + min(now() - at, MOST_AT_ONCE)

    def _kept(self) -> ClockState:
        return kept(self._storage.get_study_user_attrs(self._study_id), CLOCK, ClockState) or ClockState()

    def _tick(self, *, first: bool = False, last: bool = False) -> None:
        with self._lock:
            self._made = None
            changed = self._storage.change_study_attribute(
                self._study_id,
                CLOCK,
                lambda found: self._changed(found, first, last),
                LAST_PATIENCE if last else None,
            )
            self._seen, self._waiting = (ClockState.model_validate(changed or {}), now()), self._after

    def _changed(self, found: JsonValue, first: bool, last: bool) -> JsonValue:
        """Return the new content of the attribute; None while another process holds the clock."""
        if self._made is not None and found == self._made:
            return found  # the connection was cut off when it was written already
        there = kept({} if found is None else {CLOCK: found}, CLOCK, ClockState) or ClockState(seconds=self._already)
        ours = there.holder is not None and there.holder.clock == self._id
        one_machine = self._storage.backend.one_machine
        (before, at), (uncounted, start) = self._seen, self._waiting
        passed = now() - at if first else min(now() - at, MOST_AT_ONCE)  # first: images were read
        if before is not None and there.seconds > before.seconds:
            start = 0.0  # the holder was at work, and has counted this time
        if there.holder is not None and not ours and not self._watch.is_gone(there.holder.sign, one_machine):
            if before is None:
                start = passed
            else:  # a holder that is gone adds nothing
                uncounted = max(0.0, uncounted + passed - (there.seconds - before.seconds))
            self._after = uncounted, start
            return None
        there.seconds += passed + uncounted + start
        self._after = 0.0, 0.0
        beat = there.holder.beat + 1 if ours and there.holder else 0
        there.holder = None if last else Holder(clock=self._id, process=this_process(), beat=beat)
        self._made = there.model_dump(mode="json")
        return self._made
