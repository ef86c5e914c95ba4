"""Architecture as a value: a frozen CNNConfig in, a network out."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models import ModelError

Head = Literal["flatten", "gap"]


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """A plain convolutional network: blocks of convolution and pooling, then dense layers.

    With the head "flatten" these are the reference system's networks, down to the names and shapes in the state dict.
    """

    num_classes: int
    image_size: int  # pixels, height and width
    filters: tuple[int, ...]  # output channels of each block
    kernel_sizes: tuple[int, ...]  # odd; one per block
    batch_norm: bool
    conv_dropout: float  # probability that a whole channel is dropped after a block
    dense_units: tuple[int, ...]  # may be empty
    dense_dropout: float
    head: Head = "flatten"  # "gap": global average pooling


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


def build_cnn(config: CNNConfig) -> CNN:
    """Build the network on the CPU with torch's default initialisation (draws from the default generator).

    Raises ModelError when pooling would leave nothing of the image.
    """
    blocks = len(config.filters)
    side = config.image_size >> blocks
    if side < 1:
        raise ModelError(
            f"{blocks} blocks halve an image of {config.image_size} pixels to nothing "
            f"(at least {1 << blocks} pixels are needed)"
        )
    layers: list[nn.Module] = []
    channels = 3
    for width, kernel in zip(config.filters, config.kernel_sizes, strict=True):
        layers.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2))
        if config.batch_norm:
            layers.append(nn.BatchNorm2d(width))
        # Pooling before the ReLU gives the same numbers (both are monotonic) for a quarter of the ReLU's work.
        layers += [nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.Dropout2d(config.conv_dropout)]
        channels = width
    dense: list[nn.Module] = []
    units = channels if config.head == "gap" else channels * side * side
    for width in config.dense_units:
        dense += [nn.Linear(units, width), nn.ReLU(inplace=True), nn.Dropout(config.dense_dropout)]
        units = width
    dense.append(nn.Linear(units, config.num_classes))
    return CNN(nn.Sequential(*layers), nn.Sequential(*dense), config.head)


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers in the network."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def prepare(model: CNN, device: torch.device) -> CNN:
    """Move to the device with channels last, the layout in which convolutions run fastest there."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
