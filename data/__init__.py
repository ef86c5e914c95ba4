"""Data: reading images, dividing them into parts, and making batches. Knows neither networks nor Optuna."""

from collections.abc import Callable
from pathlib import Path

Progress = Callable[[str, int, int], None]
"""A function that is called with (what is being done, work done, total work)."""


class DataError(ValueError):
    """User data that cannot be used as it is; the message says why, and what to do next."""


def at_home(path: str | Path) -> Path:
    """Return the path with ~ and ~user expanded. Raises DataError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: no user of that name on this machine (write the path in full)") from error


def counted(count: int, one: str, many: str = "") -> str:
    """Write a number before its noun: "1 image", "1,204 images"; `many` is the plural if it does not just add an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
