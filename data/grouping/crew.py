"""Worker processes for work on many images, which end with their parent; shared by all code that compares images."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import cv2
from threadpoolctl import threadpool_limits

from data import processes
from data.processes import end_with_parent, usable_cpus

Map = Callable[[Callable[[Any], Any], Sequence[Any], int], Iterator[Any]]
"""A function map(function, items, chunk) that yields the results in order; `chunk` items are sent to a process at a
time."""


ALONE_SECONDS = 1.0
"""Seconds of work that are done in this process before others are started, since starting them takes longer."""


@contextmanager
def processes_map(processes: int | None, count: int) -> Iterator[Map]:
    """Provide a map over at most `processes` processes with one thread each; little work is done in this process alone.

    With None it uses one process per core, but works in this process until ALONE_SECONDS of work are done.
    """
    workers = min(processes or usable_cpus(), count // 32)
    alone = math.inf if workers <= 1 else 0.0 if processes else ALONE_SECONDS
    threads = cv2.getNumThreads()
    with ExitStack() as stack:
        pool: list[ProcessPoolExecutor] = []

        def mapping(function: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterator[Any]:
            nonlocal alone
            for number, item in enumerate(items):
                if alone <= 0:
                    pool.extend([] if pool else [stack.enter_context(_pool(workers))])
                    yield from pool[0].map(function, items[number:], chunksize=chunk)
                    return
                began = time.monotonic()
                found = function(item)
                alone -= time.monotonic() - began
                yield found

        try:
            cv2.setNumThreads(1)
            stack.enter_context(threadpool_limits(1))
            yield mapping
        finally:
            cv2.setNumThreads(threads)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    # The processes are not forked, because the threads of torch and BLAS do not survive that.
    started = processes.pool(workers, _start_worker)
    try:
        yield started
    finally:
        started.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Set up a worker process: it has one thread, leaves Ctrl-C to its parent, and dies if its parent is killed."""
    end_with_parent()
    cv2.setNumThreads(1)
    threadpool_limits(1)
