"""Architecture as a value: a frozen CNNConfig in, a network out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models import ModelError

Head = Literal["flatten", "gap"]
Kind = Literal["plain", "residual"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """One row of an architecture; every block ends with half the height and width."""

    kind: Kind = "plain"  # see BLOCKS
    filters: int  # output channels
    kernel_size: int = 3  # odd; of a plain block's convolution
    stride: int = 1  # of its first convolution


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """A convolutional network: blocks, then dense layers.

    With plain blocks of stride 1 and the head "flatten" these are the reference system's networks, down to the names
    and shapes in the state dict.
    """

    num_classes: int
    image_size: int  # pixels, height and width
    blocks: tuple[Block, ...]
    batch_norm: bool  # in plain blocks; residual ones always have it
    conv_dropout: float  # probability that a whole channel is dropped after a block
    dense_units: tuple[int, ...]  # may be empty
    dense_dropout: float
    head: Head = "flatten"  # "gap": global average pooling

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each block's first convolution."""
        return tuple(block.stride for block in self.blocks)


class CNN(nn.Module):
    """`features` (convolutions) and `classifier` (dense layers), both plain sequences."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential, head: Head) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images float [B, 3, H, W] -> logits [B, num_classes]."""
        maps = self.features(images)
        flat = maps.mean(dim=(2, 3)) if self.head == "gap" else maps.flatten(1)
        logits: Tensor = self.classifier(flat)
        return logits


def _plain(channels: int, block: Block, batch_norm: bool) -> list[nn.Module]:
    """Convolution and pooling, as in the reference."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, block.filters, block.kernel_size, stride=block.stride, padding=block.kernel_size // 2)
    ]
    if batch_norm:
        layers.append(nn.BatchNorm2d(block.filters))
    # Pooling before the ReLU gives the same numbers (both are monotonic) for a quarter of the ReLU's work.
    return [*layers, nn.MaxPool2d(2), nn.ReLU(inplace=True)]


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a skip around them (He et al. 2016)."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, filters, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters),
        )
        self.skip = nn.Sequential(nn.Conv2d(channels, filters, 1, stride=stride, bias=False), nn.BatchNorm2d(filters))

    def forward(self, maps: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, filters, H / stride, W / stride], before the ReLU."""
        found: Tensor = self.residual(maps) + self.skip(maps)
        return found


def _residual(channels: int, block: Block, batch_norm: bool) -> list[nn.Module]:
    return [Residual(channels, block.filters, block.stride), nn.MaxPool2d(2), nn.ReLU(inplace=True)]


BLOCKS: dict[Kind, Callable[[int, Block, bool], list[nn.Module]]] = {"plain": _plain, "residual": _residual}
"""Kind -> the layers of a block, from its input channels, its row, and whether there is batch normalisation."""
assert BLOCKS.keys() == set(get_args(Kind))


def plain_blocks(filters: Sequence[int], kernel_sizes: Sequence[int]) -> tuple[Block, ...]:
    """Rows of the reference's kind."""
    return tuple(Block(filters=wide, kernel_size=kernel) for wide, kernel in zip(filters, kernel_sizes, strict=True))


def side_after(image_size: int, strides: tuple[int, ...]) -> int:
    """Height and width of the maps after blocks of these strides; 0 where nothing is left."""
    side = image_size
    for stride in strides:
        side = -(-side // stride) // 2
    return side


def build_cnn(config: CNNConfig) -> CNN:
    """Build the network on the CPU with torch's default initialisation (draws from the default generator).

    Raises ModelError when pooling would leave nothing of the image.
    """
    side = side_after(config.image_size, config.strides)
    if side < 1:
        raise ModelError(f"{len(config.blocks)} blocks halve an image of {config.image_size} pixels to nothing")
    layers: list[nn.Module] = []
    channels = 3
    for block in config.blocks:
        layers += [*BLOCKS[block.kind](channels, block, config.batch_norm), nn.Dropout2d(config.conv_dropout)]
        channels = block.filters
    dense: list[nn.Module] = []
    units = channels if config.head == "gap" else channels * side * side
    for width in config.dense_units:
        dense += [nn.Linear(units, width), nn.ReLU(inplace=True), nn.Dropout(config.dense_dropout)]
        units = width
    dense.append(nn.Linear(units, config.num_classes))
    return CNN(nn.Sequential(*layers), nn.Sequential(*dense), config.head)


def last_maps(model: CNN) -> nn.Module:
    """The layer of `features` that convolves last, whatever it is made of."""
    return [layer for layer in model.features if any(isinstance(inner, nn.Conv2d) for inner in layer.modules())][-1]


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers in the network."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def prepare(model: CNN, device: torch.device) -> CNN:
    """Move to the device with channels last, the layout in which convolutions run fastest there."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
