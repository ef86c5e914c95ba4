"""How exactly a network multiplies."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch

_ALONE = RLock()  # the setting is the whole process's


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply in float32 on CUDA too, where convolutions otherwise round their factors to TF32 (10 bits).

    In one thread at a time there; on other devices there is nothing to do.
    """
    if device.type != "cuda":
        yield
        return
    with _ALONE, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
