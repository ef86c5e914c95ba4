"""Who may run a study's trials: for now one process at a time, by a lock that dies with it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study import StudyError


@contextmanager
def only_runner(folder: Path, name: str) -> Iterator[None]:
    """Hold the study's lock file; the kernel frees it when the process ends, however it ends.

    So whoever holds it knows that every RUNNING trial is an orphan. Raises StudyError when another process runs the
    study.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / "lock").open("a+")
    except OSError as error:
        raise StudyError(f"cannot write {folder}: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise StudyError(
                f"the study {name!r} is being run by process {handle.read().strip() or 'unknown'} "
                "(wait for it, or stop it; it can be resumed)"
            ) from error
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield
