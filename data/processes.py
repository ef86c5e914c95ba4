"""Child processes that import neither the main module of their parent nor modules from the current folder.

They start as Python starts them, without two things that Python does. It imports the parent's main module again in each
child, so a script without `if __name__ == "__main__"` would start itself again there. And it looks for modules in the
current folder first, so a file called `random.py` among somebody's images would be run.
"""

import ctypes
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

from data import DataError

CGROUPS = Path("/sys/fs/cgroup")
"""Folder of the kernel's control groups (version 2)."""


def usable_cpus() -> int:
    """Count the CPUs that this process may use: those it is bound to, but no more than the quota of its container."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(bound, math.ceil(_quota())))


def _quota() -> float:
    """Return the CPU quota, in CPUs: the least of this process's control group (version 2) and of those around it."""
    least = math.inf
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
        place = CGROUPS / (own or "")
        for group in (place, *(parent for parent in place.parents if parent.is_relative_to(CGROUPS))):
            if (file := group / "cpu.max").is_file():
                quota, period = file.read_text(encoding="ascii").split()
                least = least if quota == "max" else min(least, int(quota) / int(period))
    except (OSError, ValueError):  # this system has no such control groups
        pass
    return least if least < math.inf else os.cpu_count() or 1


PR_SET_PDEATHSIG = 1
"""Option number from linux/prctl.h that sets the signal that a process gets when its parent dies."""


def end_with_parent() -> None:
    """Let this child process leave Ctrl-C to its parent, and die if its parent is killed (on Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = parent_process()
    if parent is not None and not parent.is_alive():  # the parent died before the call above
        os._exit(1)


_ALONE = RLock()  # what a child inherits belongs to the whole process


@contextmanager
def apart() -> Iterator[None]:
    """Keep each Python that is started in this context from importing our main module, or from the current folder."""
    with _ALONE:
        main, path, safe = sys.modules["__main__"], sys.path[:], os.environ.get("PYTHONSAFEPATH")
        sys.modules["__main__"] = ModuleType("__main__")
        sys.path[:] = [place for place in path if place]
        os.environ["PYTHONSAFEPATH"] = "1"
        try:
            yield
        finally:
            sys.modules["__main__"], sys.path[:] = main, path
            if safe is None:
                del os.environ["PYTHONSAFEPATH"]
            else:
                os.environ["PYTHONSAFEPATH"] = safe


class _SpawnedProcess(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802 - Python's name
        with apart():
            return SpawnProcess._Popen(process_obj)


class _ForkedProcess(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802
        with apart():
            return ForkServerProcess._Popen(process_obj)


class _Spawn(SpawnContext):
    Process = _SpawnedProcess


class _ForkServer(ForkServerContext):
    Process = _ForkedProcess


FORK_SERVER = _ForkServer()
"""Context whose processes are forked from a server process: `multiprocessing.get_context("forkserver")`, but started
inside `apart`."""


def pool(workers: int, begin: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """Make a pool of processes, each a fresh Python; `begin` is called first in each of them."""
    with apart():
        resource_tracker.ensure_running()  # also a Python, which the first lock of a pool would start
    return ProcessPoolExecutor(workers, _Spawn(), begin)


CALL_SECONDS = 120.0
"""Longest time for one call in a `Child`; one that takes longer counts as hanging."""
MOST_MEMORY = 2 << 30
"""Most bytes of address space of a `Child`, beyond what it has at its start."""


class CrashError(DataError):
    """Error that a child crashed or hung while it did a call."""


class Child:
    """A child process that does calls of C libraries, which a malicious file may crash; one that does is replaced."""

    def __init__(self) -> None:
        self.deadline = 0.0
        self._begin()

    def _begin(self) -> None:
        self.pipe, theirs = FORK_SERVER.Pipe()
        self._process = FORK_SERVER.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, function: Callable[..., object], arguments: Sequence[object]) -> None:
        """Begin a call, in a new child if this one has died since its last answer."""
        if not self._process.is_alive():
            self.restart()
        self.deadline = time.monotonic() + CALL_SECONDS
        with suppress(OSError):  # if it has died since, its answer will say so
            self.pipe.send((function, arguments))

    def answers(self, seconds: float) -> bool:
        """Return whether an answer, or the end of the child, is there within some seconds."""
        try:
            return self.pipe.poll(max(0.0, seconds))
        except OSError:
            return True

    def answer(self) -> Any:
        """Wait for the answer. Raises DataError for what the call raised, CrashError if the child died or is late."""
        try:
            if not self.answers(self.deadline - time.monotonic()):
                raise EOFError
            good, answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.restart()
            raise CrashError("the library that reads this file crashed or hung") from error
        except BaseException:  # Ctrl-C: the answer that is still to come must not be taken for that of another call
            self.restart()
            raise
        if not good:
            raise DataError(str(answer))
        return answer

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
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = taken + MOST_MEMORY if hard == resource.RLIM_INFINITY else min(taken + MOST_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            function, arguments = pipe.recv()
        except (EOFError, OSError, MemoryError):
            return
        try:
            answer: tuple[bool, object] = (True, function(*arguments))
        except DataError as error:
            answer = (False, str(error))
        except MemoryError:
            answer = (False, "too little memory for this file")
        try:
            pipe.send(answer)
        except (OSError, MemoryError):
            return
