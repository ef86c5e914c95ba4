"""Interface of the engines, which start workers: on this machine (local.py), or on a Ray cluster (cluster.py)."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch


class Work(Protocol):
    """Function that a worker of an existing study runs; defined at the top of a module, so that it can be pickled."""

    def __call__(self, name: str, url: str, device: torch.device, threads: int | None) -> Iterator[Any]:
        """Open everything, do the work, yield news of it. `threads`: threads of torch; None leaves them as they are."""


class Engine(Protocol):
    """Engine that runs several workers of an existing study."""

    def __call__(self, name: str, url: str, devices: Sequence[str], work: Work) -> Iterator[Any]:
        """Yield the news of all workers until their work is done; end the workers if the caller stops early.

        `devices`: the device of each worker on this machine; a cluster only counts them, and chooses its own devices.
        Raises StudyError with a worker's error message, or if workers keep dying without any news.
        """
