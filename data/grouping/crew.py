"""Work on many images in several processes, which follow their parent: shared by whoever looks at pixels."""

import ctypes
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import parent_process
from typing import Any

import cv2
from threadpoolctl import threadpool_limits

from data import processes
from data.processes import usable_cpus

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal that a process gets when its parent dies."""

Map = Callable[[Callable[[Any], Any], Sequence[Any], int], Iterator[Any]]
"""map(function, items, chunk), in order."""


ALONE_SECONDS = 1.0
"""Seconds of work that are done in this process before others are started, which takes longer than that."""


@contextmanager
def processes_map(processes: int | None, count: int) -> Iterator[Map]:
    """A map over so many processes, one thread in each.

    None: over one for each core, but in this one until `ALONE_SECONDS` of work are done: little work ends sooner so.
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
    # Not forked: the threads of torch and BLAS do not survive it.
    started = processes.pool(workers, _start_worker)
    try:
        yield started
    finally:
        started.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """One thread; the keyboard's interrupt is the parent's business; nobody outlives a parent that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = parent_process()
    if parent is not None and not parent.is_alive():  # it died before we could ask to follow it
        os._exit(1)
    cv2.setNumThreads(1)
    threadpool_limits(1)
