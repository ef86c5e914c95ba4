"""Identity of processes on all machines, and whether one is alive; no clock is compared with another machine's."""

import os
import socket
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GRACE_SECONDS = 60.0
"""Seconds without a heartbeat after which a process that cannot be checked from here counts as dead."""
WATCH_SECONDS = 1.0
"""Seconds between two looks at a heartbeat."""


@dataclass(frozen=True)
class Process:
    """The identity of a process among all that ever ran on any machine; `started` is None if unknown."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: int | None


def this_process() -> Process:
    """Return the process that runs this code."""
    return Process(socket.gethostname(), _boot(), _namespace(), os.getpid(), _started(os.getpid()))


def is_alive(process: Process, one_machine: bool) -> bool | None:
    """Return whether a process runs; None when that cannot be seen. `one_machine`: all workers share this machine."""
    if process.started is None or not _boot() or not _namespace():
        return None
    if process.boot != _boot():
        return False if one_machine else None  # a process from before the last start, or of another machine
    if process.namespace != _namespace():
        return None  # in another container
    return _started(process.pid) == process.started


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _started(pid: int) -> int | None:
    """Return when a process started, in clock ticks after boot; None when there is none, or it is a zombie."""
    with suppress(OSError, ValueError, IndexError):
        content = Path(f"/proc/{pid}/stat").read_bytes()  # the process's name may hold anything
        fields = os.fsdecode(content).rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    return None


def now() -> float:
    """Return seconds on a clock that nobody sets, and that goes on while the machine sleeps (on Linux)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


LifeSign = tuple[Hashable, Process]
"""A sign of life, which changes while its process lives, and the process."""


class HeartbeatWatch:
    """A measure of how long a heartbeat has stood still, by this process's own monotonic clock.

    `gap`: most seconds by which one pause between two looks ages the heartbeat.
    """

    def __init__(self, gap: float) -> None:
        self._gap = gap
        self._seen: Hashable = None
        self._at = 0.0
        self._still = 0.0

    def is_gone(self, sign: LifeSign, one_machine: bool) -> bool:
        """Return whether a process is gone; one that cannot be checked from here is when its heartbeat stands still."""
        beat, process = sign
        at = now()
        self._still = self._still + min(at - self._at, self._gap) if beat == self._seen else 0.0
        self._seen, self._at = beat, at
        alive = is_alive(process, one_machine)
        return self._still >= GRACE_SECONDS if alive is None else not alive


def is_anyone_alive(look: Callable[[], list[LifeSign]], one_machine: bool, watching: Callable[[], None]) -> bool:
    """Return whether one of the processes that `look` finds is alive.

    One that cannot be checked (another machine, another container) is watched for up to a minute; `watching` is called
    before that.
    """
    before: set[Hashable] | None = None
    end = now() + GRACE_SECONDS
    while True:
        found = look()
        alive = [is_alive(process, one_machine) for _, process in found]
        seen = {sign for (sign, _), there in zip(found, alive, strict=True) if there is None}
        if any(alive) or (before is not None and not seen <= before):
            return True
        if not seen or now() >= end:
            return False
        if before is None:
            watching()
        before = seen
        time.sleep(WATCH_SECONDS)
