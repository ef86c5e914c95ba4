"""The numerical precision in which a network computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch

_ALONE = RLock()  # the setting applies to the whole process


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute convolutions in full float32 inside this context, also on CUDA, which otherwise rounds to TF32 (10 bits).

    On CUDA only one thread at a time can be inside; on other devices nothing has to be done.
    """
    if device.type != "cuda":
        yield
        return
    with _ALONE, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
