"""Locks on what only one process at a time may do for a study, on all machines that share its database."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from study.storage.lean import LeanStorage

FINAL, BEST = "final.lock", "best-lock"
"""Locks on training, scoring and exporting the final model, and on storing the mistakes of the best trial."""

LOCKS = ("lock", FINAL, BEST)
"""Files that the locks of a study leave behind in its folder."""


def alone(
    storage: LeanStorage, folder: Path, what: str = "lock", waiting: Callable[[], None] | None = None
) -> AbstractContextManager[Callable[[], None]]:
    """Hold the lock `what` of the study whose files lie in `folder`, on all machines that share the database.

    The lock ends with the process, however that ends. `waiting` is called when another process holds it. Yields a
    function that raises SQLAlchemyError when the lock was lost with the connection to the server.
    """
    return storage.backend.lock(storage.engine, folder, what, waiting)
