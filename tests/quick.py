"""What makes hundreds of small studies affordable, and changes nothing that any of them gives.

Torch reads its 500 ONNX functions anew for each export: here once a process, and forked children inherit them. A
card's speeds are measured for an instant.
"""

import functools
from typing import Any

from torch.onnx._internal.exporter import _registration

from models.bundle import export

SECONDS = 0.005
"""Of measuring each speed."""


def make() -> None:
    """In this process, and in those that are forked from it."""
    export.SECONDS = SECONDS
    registry: Any = _registration.ONNXRegistry
    read = functools.cache(registry.from_torchlib)
    read(opset_version=export.OPSET)  # now, so that children find it
    registry.from_torchlib = staticmethod(read)  # called on an instance, too
