"""Work for a network in several threads, some of it ahead of what is taken, with results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import TypeVar

import torch

from data.processes import usable_cpus

Job = TypeVar("Job")
Result = TypeVar("Result")


def gpu_lock(device: torch.device) -> AbstractContextManager[object]:
    """Return what a thread holds while it computes: on a GPU a lock, so that threads take turns; else nothing."""
    return nullcontext() if device.type == "cpu" else Lock()


def done_ahead(work: Callable[[Job], Result], jobs: Iterable[Job], ahead: int = 1) -> Iterator[Result]:
    """Do jobs in one thread for each processor, `ahead` jobs a thread ahead, and yield the results in order.

    In each thread torch computes with that thread alone: several threads for one small network would mostly wait for
    each other, and its sums would depend on their number in the last digit.
    """
    threads, workers = torch.get_num_threads(), usable_cpus()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            while waiting and (waiting[0].done() or len(waiting) > ahead * workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
