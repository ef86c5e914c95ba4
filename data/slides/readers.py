"""Child processes that open slides: one that crashes or hangs costs a tile, and none outlives its parent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

from data import DataError
from data.processes import Child, CrashError

T = TypeVar("T")

MOST_CRASHES = 5
"""Crashes of children after which a slide is given up."""
AHEAD = 4
"""Calls for each child that are done ahead of what is taken."""

Call = tuple[Any, ...]
"""Arguments of a call."""


class Readers:
    """Child processes that do calls for their parent; made by `readers`, which ends them."""

    def __init__(self, count: int) -> None:
        self._children = [Child() for _ in range(count)]
        self._spare: Child | None = None  # does single calls while the others work ahead
        self._crashes = 0

    def ask(self, function: Callable[..., T], *arguments: object) -> T:
        """Do one call in a child of its own. Raises DataError, CrashError among them."""
        self._spare = self._spare or Child()
        self._spare.send(function, arguments)
        answer: T = self._answer(self._spare)
        return answer

    def each(self, function: Callable[..., T], calls: Sequence[Call], instead: Callable[[Call], T]) -> Iterator[T]:
        """Do calls in all children and yield what they return, in order; `instead` is done where a child crashed.

        Raises DataError, also after MOST_CRASHES crashes.
        """
        done: dict[int, T] = {}
        working: dict[Child, int] = {}
        following = given = 0
        try:
            while given < len(calls):
                for child in self._children:
                    if child not in working and following < min(len(calls), given + AHEAD * len(self._children)):
                        child.send(function, calls[following])
                        working[child] = following
                        following += 1
                for child in self._ready(working):
                    number = working.pop(child)
                    try:
                        done[number] = self._answer(child)
                    except CrashError:
                        done[number] = instead(calls[number])
                while given in done:
                    yield done.pop(given)
                    given += 1
        finally:
            for child in working:  # nobody wants their answers any more
                child.restart()

    def _ready(self, working: dict[Child, int]) -> list[Child]:
        """Wait until a child has answered, has died, or is late."""
        first = min(child.deadline for child in working)
        wait([child.pipe for child in working], max(0.0, first - time.monotonic()))
        return [child for child in working if child.answers(0.0) or child.deadline <= time.monotonic()]

    def _answer(self, child: Child) -> Any:
        """Return what a child answers. Raises DataError for what it raised, CrashError if it died or is late."""
        try:
            return child.answer()
        except CrashError as error:
            self._crashes += 1
            if self._crashes >= MOST_CRASHES:
                raise DataError(f"OpenSlide crashed or hung {self._crashes} times on this slide") from error
            raise CrashError("OpenSlide crashed or hung here") from error

    def forgive(self) -> None:
        """Count crashes anew, for another slide."""
        self._crashes = 0

    def close(self) -> None:
        """End the children."""
        for child in (*self._children, *([self._spare] if self._spare else [])):
            child.end()


@contextmanager
def readers(count: int) -> Iterator[Readers]:
    """Provide `count` child processes that read slides."""
    found = Readers(count)
    try:
        yield found
    finally:
        found.close()
