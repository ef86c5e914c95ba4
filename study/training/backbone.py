"""Pretrained networks of a search space: their weights, and their stored features if no layer of theirs is trained."""

import fcntl
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from data import at_home
from data.batches import Batch, eval_batches
from models import ModelError, files
from models.architecture import Backbone, BackboneConfig
from models.backbones import Weights, find_weights, frozen_layers, load_features
from models.cnn import CNN
from models.memory import memory_for
from models.precision import full_precision
from models.scores.transforms import apply_view
from study import StudyError
from study.config.schema import StudyConfig
from study.config.space import backbones
from study.training.workspace import Workspace

BATCH = 64
"""Number of images whose features are computed at once; it is fixed, so that features are equal to the last bit."""
MOST_BYTES = 2**30
"""Largest size of the features in one file, in bytes; further views are left out, but never the image itself."""
HEAD_BATCH = 1024
"""Number of images in a validation batch."""


def weights_for(config: StudyConfig) -> dict[Backbone, Weights]:
    """Find the weights of all pretrained networks in a study's space. Raises StudyError that says what to type."""
    given = None if config.weights is None else at_home(config.weights)
    try:
        return {name: find_weights(name, given) for name in backbones(config.space)}
    except ModelError as error:
        raise StudyError(f"space.backbone: {error}") from error


def load_backbone(model: CNN, architecture: BackboneConfig, weights: Mapping[Backbone, Weights]) -> None:
    """Load the pretrained weights into a new network. Raises StudyError if they cannot be read or do not fit."""
    found = weights[architecture.backbone]
    try:
        load_features(model.features, found.name, found.load())
    except ModelError as error:
        raise StudyError(str(error)) from error


def is_frozen(architecture: BackboneConfig) -> bool:
    """Return whether only the new last layer is trained."""
    return frozen_layers(architecture.backbone, architecture.trained) == frozen_layers(architecture.backbone, 0.0)


class Features:
    """Features [V, N, D] of the images of train, val and further parts in each view: means of a network's last maps.

    They are computed once for a study and kept in a file whose name holds its hash, so that a resumed study has the
    same numbers. `tell` is called with (batches done, batches) while they are computed.
    """

    def __init__(
        self,
        work: Workspace,
        weights: Weights,
        model: CNN,
        parts: Collection[str],
        tell: Callable[[int, int], None],
    ) -> None:
        seen = ("train", "val", *(part for part in parts if part not in ("train", "val")))
        index = work.index(*seen)
        self._row = torch.full((len(work.dataset.labels),), -1, dtype=torch.int64, device=index.device)
        self._row[index] = torch.arange(len(index), device=index.device)
        self._labels = work.pixels.labels
        images = f"{work.dataset.fingerprint} {work.parts.hash} {seen} {work.config.image_size} {work.views}"
        name = f"{images} {weights.digest}"
        key = f"{weights.name}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        folder = work.folder / "features"
        values = _read(folder, key)
        if values is None:
            with _in_turn(folder):  # of several workers one computes them
                values = _read(folder, key)
                if values is None:
                    values = _kept(folder, key, _computed(work, index, model, tell))
        with memory_for("the stored features"):
            self._values = values.to(work.device)

    def train_batches(self, index: Tensor, size: int) -> Iterator[Batch]:
        """Yield the features of one epoch over `index` [n], in random order and random views; see data.batches."""
        order = index[torch.randperm(len(index), device=index.device)]
        views = torch.randint(len(self._values), (len(order),), device=index.device)
        for start in range(0, len(order) // size * size, size):
            some = slice(start, start + size)
            yield self._values[views[some], self._row[order[some]]], self._labels[order[some]]

    def eval_batches(self, index: Tensor) -> Iterator[Batch]:
        """Yield the features of each image of `index` [n] once, in order, without mirroring or turning."""
        for some in torch.split(index, HEAD_BATCH):
            yield self._values[0, self._row[some]], self._labels[some]


def _computed(work: Workspace, index: Tensor, model: CNN, tell: Callable[[int, int], None]) -> Tensor:
    units = next(layer for layer in model.classifier.modules() if isinstance(layer, torch.nn.Linear)).in_features
    most = max(1, MOST_BYTES // (4 * units * len(index)))
    views = work.views[:most]
    found = torch.empty(len(views), len(index), units)
    batches = -(-len(index) // BATCH)
    layers = model.features.eval()
    with memory_for("the features of a batch"), torch.inference_mode(), full_precision(work.device):
        for number, (images, _) in enumerate(eval_batches(work.pixels, index, BATCH)):
            for place, view in enumerate(views):
                seen = layers(apply_view(images, view).contiguous(memory_format=torch.channels_last))
                found[place, number * BATCH : number * BATCH + len(images)] = seen.mean(dim=(2, 3)).float().cpu()
            tell(number + 1, batches)
    return found


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which is made first; without effect on a file system that has no locks."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as handle:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _read(folder: Path, key: str) -> Tensor | None:
    """Read the features that were kept under a key; None if there is no intact file of them."""
    for file in sorted(folder.glob(f"{key}-*.safetensors")):
        content = file.read_bytes()
        if file.stem == f"{key}-{hashlib.sha256(content).hexdigest()}":
            with suppress(SafetensorError, KeyError):
                return load(content)["features"]
    return None


def _kept(folder: Path, key: str, values: Tensor) -> Tensor:
    """Write features to a file; return them, or those that another worker wrote."""
    content = save({"features": values})
    files.write(folder / f"{key}-{hashlib.sha256(content).hexdigest()}.safetensors", content)
    return values if (first := _read(folder, key)) is None else first
