"""What starts workers: this machine (local.py), or a Ray cluster (cluster.py)."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from study.search.trial import TrialNews


class Engine(Protocol):
    """Runs the trials of an existing study by several workers, each of which does what worker.work_on does."""

    def __call__(self, name: str, url: str, devices: Sequence[str]) -> Iterator[TrialNews]:
        """Yield the news of all workers until the trials are done; end the workers when left early.

        `devices`: that of each worker, by its number on this machine; a cluster counts them and chooses its own.

        Raises StudyError with a worker's own complaint, or when workers die without getting anywhere.
        """
