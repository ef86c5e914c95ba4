"""Load of the machine: how much other programs slow this process down, as Linux counts it."""

import os
from contextlib import suppress
from pathlib import Path

import torch

from data.processes import usable_cpus

TASKS = Path("/proc/self/task")


def take_threads(before: int | None = None) -> None:
    """Let torch use as many threads as a study had `before`, else at most one for each processor of this process.

    If OMP_NUM_THREADS is set, nothing is changed.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(before or min(torch.get_num_threads(), usable_cpus()))


class Load:
    """Meter of how long the threads of this process wait for a processor, compared with how long they run."""

    def __init__(self) -> None:
        self._before = _counted()

    def times_slower(self) -> float:
        """Return how many times as long everything took since the last call: 1 if quiet, or if Linux does not count."""
        now, before = _counted(), self._before
        self._before = now
        ran = sum(ran - before.get(task, (0, 0))[0] for task, (ran, _) in now.items())
        waited = sum(waited - before.get(task, (0, 0))[1] for task, (_, waited) in now.items())
        return (ran + waited) / ran if ran > 0 else 1.0


def _counted() -> dict[str, tuple[int, int]]:
    """Return for each living thread the nanoseconds that it has run, and has waited for a processor."""
    found = {}
    for task in TASKS.iterdir() if TASKS.is_dir() else ():
        with suppress(OSError, ValueError):  # no such count, or a thread that has just ended
            ran, waited, _ = (task / "schedstat").read_text(encoding="ascii").split()
            found[task.name] = int(ran), int(waited)
    return found
