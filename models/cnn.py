"""From an architecture to a network: a frozen value in, a module out."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models import ModelError
from models.architecture import Architecture, BackboneConfig, Block, Head, Kind, check_sizes, side_after
from models.backbones import NETWORKS, frozen_layers, make_features


class CNN(nn.Module):
    """`features` (convolutions) and `classifier` (dense layers), both plain sequences."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential, head: Head, frozen: int = 0) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.head = head
        self.frozen = frozen  # so many of the first layers stay as they are
        self.features[:frozen].requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As in torch, but that frozen layers stay in evaluation: their batch norms do not move."""
        super().train(mode)
        self.features[: self.frozen].eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images float [B, 3, H, W] -> logits [B, num_classes]."""
        if self.frozen and torch.is_grad_enabled():
            with torch.no_grad():
                maps = self.features[: self.frozen](images)
            maps = self.features[self.frozen :](maps)
        else:
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
        # A 1x1 convolution with a stride sees every second pixel. oneDNN's, on a processor with AVX2 or AVX-512, writes
        # past its memory where there are fewer than 8 or 16 channels (uxlfoundation/oneDNN issue 6035): the pixels are
        # left out before it.
        self.stride = stride
        self.skip = nn.Sequential(nn.Conv2d(channels, filters, 1, bias=False), nn.BatchNorm2d(filters))

    def forward(self, maps: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, filters, H / stride, W / stride], before the ReLU."""
        found: Tensor = self.residual(maps) + self.skip(maps[:, :, :: self.stride, :: self.stride])
        return found


def _residual(channels: int, block: Block, batch_norm: bool) -> list[nn.Module]:
    return [Residual(channels, block.filters, block.stride), nn.MaxPool2d(2), nn.ReLU(inplace=True)]


BLOCKS: dict[Kind, Callable[[int, Block, bool], list[nn.Module]]] = {"plain": _plain, "residual": _residual}
"""Kind -> the layers of a block, from its input channels, its row, and whether there is batch normalisation."""
assert BLOCKS.keys() == set(get_args(Kind))


def fill(config: Architecture, state: Mapping[str, Tensor], stored_bytes: int) -> CNN:
    """The network of a configuration with weights from a file of so many bytes.

    Raises ModelError where they do not belong together; nothing is built before that is sure.
    """
    check_sizes(config)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        wanted = {name: tensor.shape for name, tensor in build_cnn(config).state_dict().items()}
    if differing := sorted(wanted.keys() ^ state.keys()):
        raise ModelError(f"its tensors are not those of its architecture: {differing[0]}")
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise ModelError(f"{name} has the shape {tuple(state[name].shape)}, its architecture {tuple(shape)}")
    if sum(shape.numel() for shape in wanted.values()) > stored_bytes:  # a tensor can claim more than it holds
        raise ModelError("its weights are not all there")
    model = build_cnn(config)
    model.load_state_dict(dict(state))
    model.frozen = 0  # it is trained no more
    return model.eval()


def build_cnn(config: Architecture) -> CNN:
    """Build the network on the CPU with torch's default initialisation (draws from the default generator).

    Raises ModelError when pooling would leave nothing of the image.
    """
    if isinstance(config, BackboneConfig):
        units, frozen = NETWORKS[config.backbone].units, frozen_layers(config.backbone, config.trained)
        last = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(units, config.num_classes))
        return CNN(make_features(config.backbone, config.image_size), last, "gap", frozen)
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


class _Halved(nn.Module):
    """MaxPool2d(2) in a third of the processor's time: the larger of two rows, then of two columns; keeps no index."""

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H // 2, W // 2]."""
        if maps.device.type != "cpu":
            return F.max_pool2d(maps, 2)
        height, width = (side // 2 * 2 for side in maps.shape[2:])
        rows = torch.maximum(maps[:, :, 0:height:2], maps[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


def fused(model: CNN) -> CNN:
    """A copy for prediction alone: each batch norm is part of the convolution before it, and pooling keeps no index.

    The model must be in eval mode; the copy gives the same numbers but for rounding.
    """
    copy = deepcopy(model)
    for layers in [layers for layers in copy.modules() if isinstance(layers, nn.Sequential)]:
        for place, (one, two) in enumerate(pairwise(layers)):
            if isinstance(one, nn.Conv2d) and isinstance(two, nn.BatchNorm2d):
                layers[place], layers[place + 1] = fuse_conv_bn_eval(one, two), nn.Identity()
            if isinstance(two, nn.MaxPool2d) and two.kernel_size == 2:
                layers[place + 1] = _Halved()
    return copy
