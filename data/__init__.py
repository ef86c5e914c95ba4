"""Images in, parts and batches out. Knows nothing of networks or of Optuna."""

from collections.abc import Callable
from pathlib import Path

Progress = Callable[[str, int, int], None]
"""Called with (what is done, work done, work in all)."""


class DataError(ValueError):
    """The user's data cannot be used as it is; the message says what, and what to do next."""


def at_home(path: str | Path) -> Path:
    """The path with ~ and ~user written out. Raises DataError for somebody who is not there."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: nobody of that name has a home here (write the path out)") from error


def counted(count: int, one: str, many: str = "") -> str:
    """Write a number before its noun: "1 image", "1,204 images"; `many` where it does not just end in s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
