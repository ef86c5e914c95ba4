"""Child processes that open slides: one that crashes or hangs costs a tile, and none outlives its parent."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import cv2

from data import DataError
from data.processes import FORK_SERVER, end_with_parent

T = TypeVar("T")

CALL_SECONDS = 120.0
"""Longest time for one call in a child; one that takes longer counts as hanging."""
MOST_MEMORY = 2 << 30
"""Most bytes of address space of a child, beyond what it has at its start."""
MOST_CRASHES = 5
"""Crashes of children after which a slide is given up."""
AHEAD = 4
"""Calls for each child that are done ahead of what is taken."""

Call = tuple[Any, ...]
"""Arguments of a call."""


class CrashError(DataError):
    """Error that a child crashed or hung while it did a call."""


class Readers:
    """Child processes that do calls for their parent; made by `readers`, which ends them."""

    def __init__(self, count: int) -> None:
        self._children = [_Child() for _ in range(count)]
        self._spare: _Child | None = None  # does single calls while the others work ahead
        self._crashes = 0

    def ask(self, function: Callable[..., T], *arguments: object) -> T:
        """Do one call in a child of its own. Raises DataError, CrashError among them."""
        self._spare = self._spare or _Child()
        self._spare.send(function, arguments)
        self._spare.answers(CALL_SECONDS)
        answer: T = self._answer(self._spare)
        return answer

    def each(self, function: Callable[..., T], calls: Sequence[Call], instead: Callable[[Call], T]) -> Iterator[T]:
        """Do calls in all children and yield what they return, in order; `instead` is done where a child crashed.

        Raises DataError, also after MOST_CRASHES crashes.
        """
        done: dict[int, T] = {}
        working: dict[_Child, int] = {}
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

    def _ready(self, working: dict[_Child, int]) -> list[_Child]:
        """Wait until a child has answered, has died, or is late."""
        first = min(child.deadline for child in working)
        wait([child.pipe for child in working], max(0.0, first - time.monotonic()))
        return [child for child in working if child.answers(0.0) or child.deadline <= time.monotonic()]

    def _answer(self, child: _Child) -> Any:
        """Return what a child answers. Raises DataError for what it raised, CrashError if it died or is late."""
        try:
            if not child.answers(0.0):
                raise EOFError
            good, answer = child.pipe.recv()
        except (EOFError, OSError) as error:
            self._crashes += 1
            child.restart()
            if self._crashes >= MOST_CRASHES:
                raise DataError(f"OpenSlide crashed or hung {self._crashes} times on this slide") from error
            raise CrashError("OpenSlide crashed or hung here") from error
        if not good:
            raise DataError(str(answer))
        return answer

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


class _Child:
    """One child process and the pipe to it."""

    def __init__(self) -> None:
        self.deadline = 0.0
        self._begin()

    def _begin(self) -> None:
        self.pipe, theirs = FORK_SERVER.Pipe()
        self._process = FORK_SERVER.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, function: Callable[..., object], arguments: Sequence[object]) -> None:
        """Begin a call."""
        self.deadline = time.monotonic() + CALL_SECONDS
        with suppress(OSError):  # if it has died since, its answer will say so
            self.pipe.send((function, arguments))

    def answers(self, seconds: float) -> bool:
        """Return whether an answer, or the end of the child, is there within some seconds."""
        try:
            return self.pipe.poll(max(0.0, seconds))
        except OSError:
            return True

    def restart(self) -> None:
        """Kill the child and begin another."""
        self.end()
        self._begin()

    def end(self) -> None:
        """End the child at once."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection) -> None:
    """Do calls until the parent closes the pipe or dies; answer (True, result) or (False, words of a DataError)."""
    end_with_parent()
    if sys.platform == "linux":
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + MOST_MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cv2.setNumThreads(1)
    while True:
        try:
            function, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[bool, object] = (True, function(*arguments))
        except DataError as error:
            answer = (False, str(error))
        except MemoryError:
            answer = (False, "too little memory for this slide")
        pipe.send(answer)
