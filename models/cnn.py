"""Building a network (a torch module) from its architecture (a frozen value)."""

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
    """A convolutional network of `features` (convolutions) and `classifier` (dense layers), both plain sequences."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential, head: Head, frozen: int = 0) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.head = head
        self.frozen = frozen  # number of first layers that training does not change
        self.features[:frozen].requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode as torch does, but keep frozen layers in eval mode: batch norms do not change."""
        super().train(mode)
        self.features[: self.frozen].eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, num_classes] of normalised images, float [B, 3, H, W]."""
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
    """Return the layers of a plain block: convolution and pooling, as in the reference system."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, block.filters, block.kernel_size, stride=block.stride, padding=block.kernel_size // 2)
    ]
    if batch_norm:
        layers.append(nn.BatchNorm2d(block.filters))
    # Pooling before the ReLU gives the same numbers (both are monotonic) and leaves the ReLU a quarter of the work.
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
        # A 1x1 convolution with stride 2 reads every second pixel. oneDNN's implementation for AVX2 and AVX-512 writes
        # past its memory if there are fewer than 8 or 16 channels (uxlfoundation/oneDNN issue 6035). So the pixels are
        # selected before a convolution without a stride.
        self.stride = stride
        self.skip = nn.Sequential(nn.Conv2d(channels, filters, 1, bias=False), nn.BatchNorm2d(filters))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [B, filters, H / stride, W / stride], before the ReLU, from maps [B, channels, H, W]."""
        found: Tensor = self.residual(maps) + self.skip(maps[:, :, :: self.stride, :: self.stride])
        return found


def _residual(channels: int, block: Block, batch_norm: bool) -> list[nn.Module]:
    return [Residual(channels, block.filters, block.stride), nn.MaxPool2d(2), nn.ReLU(inplace=True)]


BLOCKS: dict[Kind, Callable[[int, Block, bool], list[nn.Module]]] = {"plain": _plain, "residual": _residual}
"""For each kind of block, the function that makes its layers from its input channels, its `Block`, and whether there is
batch normalisation."""
assert BLOCKS.keys() == set(get_args(Kind))


def fill(config: Architecture, state: Mapping[str, Tensor], stored_bytes: int) -> CNN:
    """Build the network of an architecture with weights that were read from a file of `stored_bytes` bytes.

    Raises ModelError if the weights do not fit the architecture; no memory is allocated before that is checked.
    """
    check_sizes(config)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        wanted = {name: tensor.shape for name, tensor in build_cnn(config).state_dict().items()}
    if differing := sorted(wanted.keys() ^ state.keys()):
        raise ModelError(f"its tensors are not those of its architecture: {differing[0]}")
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise ModelError(f"{name} has the shape {tuple(state[name].shape)}, its architecture {tuple(shape)}")
    if sum(shape.numel() for shape in wanted.values()) > stored_bytes:  # a tensor's shape can claim more than is stored
        raise ModelError("its weights are not all there")
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise ModelError("its weights are not all numbers")
    model = build_cnn(config)
    model.load_state_dict(dict(state))
    model.frozen = 0  # it is not trained any more
    return model.eval()


def build_cnn(config: Architecture) -> CNN:
    """Build the network on the CPU with torch's default initialisation, drawn from the default generator.

    Raises ModelError if pooling would leave nothing of the image.
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
    """Return the last layer of `features` that contains a convolution."""
    return [layer for layer in model.features if any(isinstance(inner, nn.Conv2d) for inner in layer.modules())][-1]


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def prepare(model: CNN, device: torch.device) -> CNN:
    """Move a network to a device in the channels-last layout, in which convolutions run fastest there."""
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class _HalvingPool(nn.Module):
    """MaxPool2d(2) in a third of the time on the CPU: the maximum of two rows, then of two columns; keeps no index."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [B, C, H // 2, W // 2] from maps [B, C, H, W]."""
        if maps.device.type != "cpu":
            return F.max_pool2d(maps, 2)
        height, width = (side // 2 * 2 for side in maps.shape[2:])
        rows = torch.maximum(maps[:, :, 0:height:2], maps[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


def fuse_for_prediction(model: CNN) -> CNN:
    """Return a faster copy for prediction only: batch norms are fused into convolutions, and pooling keeps no index.

    The model must be in eval mode. The copy gives the same numbers except for rounding.
    """
    copy = deepcopy(model)
    for layers in [layers for layers in copy.modules() if isinstance(layers, nn.Sequential)]:
        for place, (one, two) in enumerate(pairwise(layers)):
            if isinstance(one, nn.Conv2d) and isinstance(two, nn.BatchNorm2d):
                layers[place], layers[place + 1] = fuse_conv_bn_eval(one, two), nn.Identity()
            if isinstance(two, nn.MaxPool2d) and two.kernel_size == 2:
                layers[place + 1] = _HalvingPool()
    return copy
