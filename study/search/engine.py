"""What starts workers: this machine (local.py), or a Ray cluster (cluster.py)."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch


class Work(Protocol):
    """What a worker of an existing study does: a function of a module, so that it can be named to another process."""

    def __call__(self, name: str, url: str, device: torch.device, threads: int | None) -> Iterator[Any]:
        """Open everything, do the work, yield news of it. `threads`: of torch, as many as it has where None."""


class Engine(Protocol):
    """Runs several workers of an existing study."""

    def __call__(self, name: str, url: str, devices: Sequence[str], work: Work) -> Iterator[Any]:
        """Yield the news of all workers until their work is done; end the workers when left early.

        `devices`: that of each worker, by its number on this machine; a cluster counts them and chooses its own.

        Raises StudyError with a worker's own complaint, or when workers die without getting anywhere.
        """
