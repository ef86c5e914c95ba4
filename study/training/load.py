"""How much slower this process is for others that use the machine as well, as Linux counts it."""

from pathlib import Path

TASKS = Path("/proc/self/task")


class Load:
    """A watch on the time that this process's threads wait for a processor, beside the time that they run."""

    def __init__(self) -> None:
        self._before = _counted()

    def times_slower(self) -> float:
        """How many times as long everything took since the last look: 1 on a quiet machine, or where nobody counts."""
        now, before = _counted(), self._before
        self._before = now
        ran = sum(ran - before.get(task, (0, 0))[0] for task, (ran, _) in now.items())
        waited = sum(waited - before.get(task, (0, 0))[1] for task, (_, waited) in now.items())
        return (ran + waited) / ran if ran > 0 else 1.0


def _counted() -> dict[str, tuple[int, int]]:
    """Nanoseconds that each living thread has run, and has waited for a processor."""
    found = {}
    try:
        for task in TASKS.iterdir():
            ran, waited, _ = (task / "schedstat").read_text(encoding="ascii").split()
            found[task.name] = int(ran), int(waited)
    except (OSError, ValueError):  # no Linux, no such count, or a thread that has just ended
        pass
    return found
