"""The architecture of a network as a plain value, from which `models.cnn` builds it.

Importing this module is cheap, because it does not need torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from models import ModelError

Head = Literal["flatten", "gap"]
Kind = Literal["plain", "residual"]
Backbone = Literal["efficientnet-lite0", "resnet18"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """One convolutional block of an architecture; its last step halves the height and width."""

    kind: Kind = "plain"  # see models.cnn.BLOCKS
    filters: int  # output channels
    kernel_size: int = 3  # size of the kernel of a plain block's convolution, an odd number
    stride: int = 1  # stride of the block's first convolution


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """Architecture of a convolutional network: blocks, then dense layers.

    With plain blocks of stride 1 and the head "flatten" it is a network of the reference system, with the same names
    and shapes in the state dict.
    """

    num_classes: int
    image_size: int  # pixels, height and width
    blocks: tuple[Block, ...]
    batch_norm: bool  # whether plain blocks have batch normalisation; residual ones always have it
    conv_dropout: float  # probability that a whole channel is dropped after a block
    dense_units: tuple[int, ...]  # width of each hidden dense layer; may be empty
    dense_dropout: float  # probability that a unit is dropped after a hidden dense layer
    head: Head = "flatten"  # how the last maps become a vector; "gap" is global average pooling

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each block's first convolution."""
        return tuple(block.stride for block in self.blocks)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Architecture of a pretrained network (models.backbones) with one new dense layer after global average pooling."""

    num_classes: int
    image_size: int  # pixels, height and width
    backbone: Backbone
    trained: float  # share of its layers that are trained, counted from the last; the new layer is always trained
    dropout: float  # probability that a feature is dropped before the new layer


Architecture = CNNConfig | BackboneConfig

SMALLEST = 32
"""Smallest height and width, in pixels, at which a pretrained network sees images; smaller images are enlarged for it,
or its strides would leave nothing of them."""


def plain_blocks(filters: Sequence[int], kernel_sizes: Sequence[int]) -> tuple[Block, ...]:
    """Return one plain block, as in the reference system, for each pair of filters and kernel size."""
    return tuple(Block(filters=wide, kernel_size=kernel) for wide, kernel in zip(filters, kernel_sizes, strict=True))


def side_after(image_size: int, strides: tuple[int, ...]) -> int:
    """Return the height and width of the maps after blocks with these strides; 0 if nothing is left."""
    side = image_size
    for stride in strides:
        side = -(-side // stride) // 2
    return side


MOST_BLOCKS, MOST_DENSE, MOST_WIDTH, MOST_PIXELS = 16, 32, 2_000_000, 1024
"""Upper limits for networks that are read from a file: far beyond what any study proposes, but still quick to check."""


def check_sizes(config: Architecture) -> None:
    """Raise ModelError if an architecture is invalid, or so large that merely building it could exhaust the machine."""
    if isinstance(config, BackboneConfig):
        _check_backbone(config)
        return
    widths = (*(block.filters for block in config.blocks), *config.dense_units, config.num_classes)
    kernels = [block.kernel_size for block in config.blocks]
    for what, right in (
        (f"{len(config.blocks)} blocks", 1 <= len(config.blocks) <= MOST_BLOCKS),
        (f"{len(config.dense_units)} dense layers", len(config.dense_units) <= MOST_DENSE),
        (f"a layer of {max(widths)} or {min(widths)}", min(widths) >= 1 and max(widths) <= MOST_WIDTH),
        (f"kernel sizes {kernels}", all(size in (1, 3, 5, 7, 9) for size in kernels)),
        (f"strides {config.strides}", all(stride in (1, 2) for stride in config.strides)),
        (f"images of {config.image_size} pixels", 1 <= config.image_size <= MOST_PIXELS),
        (f"dropout {config.conv_dropout}", 0 <= config.conv_dropout < 1),
        (f"dropout {config.dense_dropout}", 0 <= config.dense_dropout < 1),
    ):
        if not right:
            raise ModelError(f"not a network that this program builds: {what}")


def _check_backbone(config: BackboneConfig) -> None:
    for what, right in (
        (f"a backbone {config.backbone!r}", config.backbone in get_args(Backbone)),
        (f"{config.num_classes} classes", 1 <= config.num_classes <= MOST_WIDTH),
        (f"images of {config.image_size} pixels", 1 <= config.image_size <= MOST_PIXELS),
        (f"a trained share of {config.trained}", 0 <= config.trained <= 1),
        (f"dropout {config.dropout}", 0 <= config.dropout < 1),
    ):
        if not right:
            raise ModelError(f"not a network that this program builds: {what}")
