"""Processes beside this one, which import neither the program that starts them nor what lies in the current folder.

Python's own start is kept, but for two things. A child would import the parent's main module again: a script without
`if __name__ == "__main__"` would start itself anew in each. And it would look for modules in the current folder first,
so that a file called `random.py` among somebody's images would be run.
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from threading import RLock
from types import ModuleType
from typing import Any

_ALONE = RLock()  # what a child inherits is the whole process's


@contextmanager
def apart() -> Iterator[None]:
    """While this lasts, a Python that is started is told of no main module, and of no current folder to import from."""
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


class _Spawned(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802 - Python's name
        with apart():
            return SpawnProcess._Popen(process_obj)


class _Forked(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802
        with apart():
            return ForkServerProcess._Popen(process_obj)


class _Spawn(SpawnContext):
    Process = _Spawned


class _ForkServer(ForkServerContext):
    Process = _Forked


FORK_SERVER = _ForkServer()
"""Processes forked from one that has imported everything: `multiprocessing.get_context("forkserver")`, but apart."""


def pool(workers: int, begin: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """Processes that are a fresh Python each; `begin` is called first in each of them."""
    with apart():
        resource_tracker.ensure_running()  # a Python too, which the first lock of a pool would start
    return ProcessPoolExecutor(workers, _Spawn(), begin)
