"""The workspace of a study's trainings: images, parts, settings, device and folder."""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from data.batches import Batch, DeviceImages, Normalisation, eval_batches, images_at_once, to_device
from data.datasets import ImageSet
from data.splits import Parts
from models.architecture import Backbone
from models.backbones import Weights
from models.bundle.reference import IMAGENET
from models.scores.views import View, views_of
from models.training.checkpoint import Checkpoints
from study.config.schema import StudyConfig

EVAL_BATCH = 256
"""Number of images that are evaluated at once; of large ones fewer are."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Workspace that every training of a study needs, made once per process."""

    config: StudyConfig
    dataset: ImageSet
    parts: Parts
    pixels: DeviceImages
    device: torch.device
    folder: Path  # runs/<study name>
    weights: Mapping[Backbone, Weights] = field(default_factory=dict)  # of the pretrained networks in the space

    def index(self, *names: str) -> Tensor:
        """Return the image indices [n] of the named parts together, on the device."""
        return torch.cat([torch.from_numpy(getattr(self.parts, name)) for name in names]).to(self.device)

    @property
    def held_out(self) -> str:
        """Return the part that the final score comes from: the random protocol has no test part."""
        return "val" if self.config.protocol == "random" else "test"

    @property
    def leaky(self) -> bool:
        """Return whether every score is marked as leaky: images of one source may lie on both sides."""
        return self.config.leaky

    @property
    def views(self) -> tuple[View, ...]:
        """Return the views in which a final model sees each image when it is scored or used."""
        augment = self.config.augment
        return views_of(self.config.tta, hflip=augment.hflip, vflip=augment.vflip)

    def checkpoints(self, training: str, identity: str) -> Checkpoints:
        """Return the checkpoints of one training, which lie in a folder of their own."""
        return Checkpoints(self.checkpoint_folder / training, identity, self.config.checkpoint_seconds)

    @property
    def checkpoint_folder(self) -> Path:
        """Return the folder that holds one folder of checkpoints per training."""
        return self.folder / "checkpoints"

    def eval_batches(self, part: str) -> Iterator[Batch]:
        """Yield the images of a part in batches, each image once and in order."""
        return eval_batches(self.pixels, self.index(part), images_at_once(EVAL_BATCH, self.config.image_size))


def make_workspace(
    config: StudyConfig,
    dataset: ImageSet,
    parts: Parts,
    device: torch.device,
    folder: Path,
    weights: Mapping[Backbone, Weights] = MappingProxyType({}),
) -> Workspace:
    """Make the workspace: copy the images to the device, if they fit there."""
    pixels = to_device(dataset.images, dataset.labels, device, Normalisation(**IMAGENET))
    return Workspace(
        config=config, dataset=dataset, parts=parts, pixels=pixels, device=device, folder=folder, weights=weights
    )


def versions(device: torch.device) -> dict[str, str | int]:
    """Return what the exact numbers of a training depend on besides its configuration."""
    return {
        "archstudy": version("archstudy"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "optuna": version("optuna"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }
