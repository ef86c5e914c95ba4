"""The cost of a network, counted from its layers and never timed, so that it is the same on every machine."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from models import ModelError
from models.architecture import Architecture, check_sizes

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass of one image through the network."""

    flops: int  # multiplications and additions in convolutions and dense layers
    numbers: int  # activations that all layers write
    params: int  # trainable parameters
    frozen_flops: int = 0  # the part of `flops` in frozen layers, which training does not change
    frozen_numbers: int = 0  # the part of `numbers` in frozen layers
    layers: int = 0  # layers that run one after the other

    @property
    def gflops(self) -> float:
        """Operations, in units of 10^9."""
        return self.flops / 1e9

    @property
    def megabytes(self) -> float:
        """Size of the activations in single precision, in units of 10^6 bytes."""
        return 4 * self.numbers / 1e6


@lru_cache(maxsize=4096)
def cost(config: Architecture) -> Cost:
    """Count the cost of one image, on a network that is built without allocating memory (torch's meta device).

    Raises ModelError for an impossible architecture.
    """
    import torch  # imported late: it takes seconds, and most commands count nothing
    from torch import Tensor, nn

    from models.cnn import build_cnn, count_parameters

    flops, numbers, layers = [0, 0], [0, 0], 0  # the lists: total, and the part in frozen layers

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal layers
        layers += 1
        each = 0
        if isinstance(layer, nn.Conv2d):
            inner = layer.in_channels // layer.groups
            each = 2 * output.numel() * inner * layer.kernel_size[0] * layer.kernel_size[1]
        elif isinstance(layer, nn.Linear):
            each = 2 * output.numel() * layer.in_features
        for place in (0, 1) if layer in frozen else (0,):
            numbers[place] += output.numel()
            flops[place] += each

    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model = build_cnn(config).eval()
        frozen = set(model.features[: model.frozen].modules())
        for layer in model.modules():
            if not list(layer.children()):
                layer.register_forward_hook(count)
            if isinstance(layer, (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Dropout, nn.Dropout2d)):
                # Its output has the shape of its input, and meta tensors hold nothing else.
                layer.forward = _unchanged  # type: ignore[method-assign, assignment]
        with torch.inference_mode():
            model(torch.empty(1, 3, config.image_size, config.image_size))
    return Cost(flops[0], numbers[0], count_parameters(model), flops[1], numbers[1], layers)


def _unchanged(values: T) -> T:
    return values


MOST_MEGABYTES = 32_000
"""Memory that all layers of a network from a file may take for one image; no study's machine trains a larger one."""


def check_cost(config: Architecture) -> None:
    """Raise ModelError for a network from a file that could take all memory for a single image, or is impossible."""
    check_sizes(config)
    if (needed := cost(config).megabytes) > MOST_MEGABYTES:
        raise ModelError(f"its network's layers take {needed / 1000:.0f} GB for one image")
