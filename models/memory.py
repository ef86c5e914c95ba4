"""Memory: what a training needs at least, what the device has, and whether an error means that there was none left."""

import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from models import ModelError
from models.architecture import Architecture
from models.cnn import build_cnn, count_parameters

WEIGHT_BYTES = 16
"""Per parameter: itself, its gradient, and two moments of Adam, all float32."""


class OutOfMemoryError(ModelError):
    """The network does not fit the device."""


NO_MEMORY = (
    "can't allocate memory",  # the processor's allocator
    "MPS backend out of memory",  # Apple's GPU
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine",  # cuDNN: no algorithm's workspace fitted
)
"""What torch says, in part, where memory is short and it raises a plain RuntimeError."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the processor's allocator, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY)


def activation_bytes(config: Architecture, number_bytes: int) -> int:
    """What one training image leaves behind for the backward pass, at least, as autograd keeps it."""
    return _kept(config, number_bytes)[1]


def training_bytes(config: Architecture, images: int, number_bytes: int) -> int:
    """What training with batches of so many images needs at least. Raises ModelError for an impossible network."""
    parameters, activations = _kept(config, number_bytes)
    return WEIGHT_BYTES * parameters + images * activations


def _kept(config: Architecture, number_bytes: int) -> tuple[int, int]:
    """(parameters, bytes that autograd keeps of one image), from the network itself, built without memory."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.ndim > 1:  # the statistics of batch normalisation are no image's
            each = number_bytes if tensor.is_floating_point() else tensor.element_size()
            place = tensor.untyped_storage()._cdata
            kept[place] = max(kept.get(place, 0), tensor.numel() * each)  # a part of a tensor keeps the whole
        return tensor

    with torch.device("meta"), torch.random.fork_rng(devices=[]):  # shapes only: nothing is allocated
        model = build_cnn(config)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            # Two images: batch normalisation of a single pixel needs more than one.
            logits = model(torch.empty(IMAGES, 3, config.image_size, config.image_size))
    del logits  # its graph held the tensors, so that no two of them had the same address
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    return count_parameters(model), sum(size for place, size in kept.items() if place not in weights) // IMAGES


IMAGES = 2
"""Of a trial run for counting."""


def total_bytes(device: torch.device) -> int:
    """Memory of the device; for the processor what the machine has, or what this process's control group may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits(Path("/sys/fs/cgroup")))


def _limits(root: Path) -> list[int]:
    """Limits of this process's control groups, of both versions; those that cannot be read are none."""
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
    """5 * 2**30 -> "5.0 GB"."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
