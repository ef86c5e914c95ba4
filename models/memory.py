"""Memory: what a training needs at least, what the device has, and whether an error means that there was none left."""

import os
from contextlib import suppress
from pathlib import Path

import torch

from models import ModelError
from models.cnn import CNNConfig, build_cnn, count_parameters

WEIGHT_BYTES = 16
"""Per parameter: itself, its gradient, and two moments of Adam, all float32."""
INDEX_BYTES = 8
"""Per pooled number: where its maximum came from (int64)."""


class OutOfMemoryError(ModelError):
    """The network does not fit the device."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the processor's allocator, had no memory left (torch has a class for devices only)."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def activation_bytes(config: CNNConfig, number_bytes: int) -> int:
    """What one training image leaves behind for the backward pass, at least; the dense layers are left out."""
    side, channels, found = config.image_size, 3, 0
    for width in config.filters:
        whole, pooled = width * side * side, width * (side // 2) ** 2
        found += number_bytes * (channels * side * side + whole * (2 if config.batch_norm else 1) + pooled)
        found += INDEX_BYTES * pooled
        side, channels = side // 2, width
    return found


def training_bytes(config: CNNConfig, images: int, number_bytes: int) -> int:
    """What training with batches of so many images needs at least. Raises ModelError for an impossible network."""
    with torch.device("meta"):  # shapes only: nothing is allocated
        parameters = count_parameters(build_cnn(config))
    return WEIGHT_BYTES * parameters + images * activation_bytes(config, number_bytes)


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
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    for line in lines:  # 0::/user.slice/session, or 9:memory:/docker/...
        _, kinds, place = line.split(":", 2)
        inside = root / place.lstrip("/") if not kinds else root / "memory" / place.lstrip("/")
        for folder in (inside, *inside.parents):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with suppress(OSError, ValueError):  # "max" is no number
                    found.append(int((folder / name).read_text()))
            if folder == root:
                break
    return found


def in_words(count: int) -> str:
    """5 * 2**30 -> "5.0 GB"."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
