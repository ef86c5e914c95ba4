"""Memory: how much training needs at least, how much a device has, and which errors mean that it ran out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from models import ModelError
from models.architecture import Architecture
from models.cnn import build_cnn, count_parameters

WEIGHT_BYTES = 16
"""Bytes per trained parameter: its value, its gradient and the two moments of Adam, each in float32."""


class OutOfMemoryError(ModelError):
    """Error for a network that does not fit into the memory of the device."""


NO_MEMORY = (
    "can't allocate memory",  # the processor's allocator
    "MPS backend out of memory",  # Apple's GPU
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine",  # cuDNN: no algorithm's workspace fitted
)
"""Parts of the messages of plain RuntimeErrors that torch raises when memory runs out."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means that a GPU, or the allocator of the CPU, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY)


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Turn an error of torch that means a lack of memory into OutOfMemoryError; `what` the device does not hold."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"out of memory: the device does not hold {what} ({str(error).splitlines()[0]})"
        ) from error


def activation_bytes(config: Architecture, number_bytes: int) -> int:
    """Return the least bytes that autograd keeps per training image; `number_bytes`: bytes of one activation."""
    return _kept(config, number_bytes)[1]


def training_bytes(config: Architecture, images: int, number_bytes: int) -> int:
    """Return the least memory, in bytes, that training with batches of `images` images needs.

    Raises ModelError for an impossible architecture.
    """
    parameters, activations = _kept(config, number_bytes)
    return WEIGHT_BYTES * parameters + images * activations


def _kept(config: Architecture, number_bytes: int) -> tuple[int, int]:
    """Return (trainable parameters, bytes that autograd keeps per image), counted on a network that allocates nothing.

    `number_bytes`: bytes of one activation.
    """
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.ndim > 1:  # the statistics of batch normalisation do not belong to an image
            each = number_bytes if tensor.is_floating_point() else tensor.element_size()
            place = tensor.untyped_storage()._cdata
            kept[place] = max(kept.get(place, 0), tensor.numel() * each)  # views of one storage count once
        return tensor

    with torch.device("meta"), torch.random.fork_rng(devices=[]):  # shapes only: nothing is allocated
        model = build_cnn(config)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            # Two images, because batch normalisation of maps of a single pixel needs more than one value.
            logits = model(torch.empty(IMAGES, 3, config.image_size, config.image_size))
    del logits  # until here its graph held all tensors, so that no two of them shared an address
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    return count_parameters(model), sum(size for place, size in kept.items() if place not in weights) // IMAGES


IMAGES = 2
"""Number of images in the forward pass that is made for counting."""


def total_bytes(device: torch.device) -> int:
    """Return the memory of a device in bytes.

    For the CPU it is the memory of the machine, or what this process's control group may use if that is less.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits(Path("/sys/fs/cgroup")))


def _limits(root: Path) -> list[int]:
    """Return the memory limits, in bytes, of this process's control groups (versions 1 and 2), and 2^63.

    Limits that cannot be read are left out.
    """
    found = [2**63]
    lines: list[str] = []
    with suppress(OSError):
        lines = os.fsdecode(Path("/proc/self/cgroup").read_bytes()).splitlines()
    for line in lines:  # 0::/user.slice/session, or 9:memory:/docker/...
        _, kinds, place = line.split(":", 2)
        inside = root / place.lstrip("/") if not kinds else root / "memory" / place.lstrip("/")
        for folder in (inside, *inside.parents):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with suppress(OSError, ValueError):  # "max" is no number
                    found.append(int((folder / name).read_text(encoding="ascii")))
            if folder == root:
                break
    return found


def in_words(count: int) -> str:
    """Write a number of bytes with its unit: 5 * 2**30 -> "5.0 GB"."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
