"""What starts workers: local processes today, a cluster's engine some day."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from study.search.trial import TrialNews


class Engine(Protocol):
    """Runs the trials of an existing study by several workers, each of which does what worker.work_on does."""

    def __call__(self, name: str, url: str, devices: Sequence[str]) -> Iterator[TrialNews]:
        """Yield the news of all workers until the trials are done; end the workers when left early.

        `devices`: that of each worker; a CUDA device has its number on this machine.

        Raises StudyError with a worker's own complaint, or when workers die without getting anywhere.
        """
