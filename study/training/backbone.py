"""Pretrained networks among those that are searched: their weights, and their features where no layer is trained."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
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
from models.precision import full_precision
from models.scores.transforms import seen_so
from study import StudyError
from study.config.schema import StudyConfig
from study.config.space import backbones
from study.training.workspace import Workspace

BATCH = 64
"""Images whose features are computed together: always the same number, so that features are equal to the last bit."""
MOST_BYTES = 2**30
"""Bytes of a study's features at most: views beyond that are left out, all but the image itself."""
HEAD_BATCH = 1024
"""Images that are validated together."""


def weights_for(config: StudyConfig) -> dict[Backbone, Weights]:
    """Find the weights of all networks that a study's space may begin from. Raises StudyError with what to type."""
    given = None if config.weights is None else at_home(config.weights)
    try:
        return {name: find_weights(name, given) for name in backbones(config.space)}
    except ModelError as error:
        raise StudyError(f"space.backbone: {error}") from error


def load_backbone(model: CNN, architecture: BackboneConfig, weights: Mapping[Backbone, Weights]) -> None:
    """Put the pretrained weights into a network that is about to be trained. Raises StudyError."""
    found = weights[architecture.backbone]
    try:
        load_features(model.features, found.name, found.load())
    except ModelError as error:
        raise StudyError(str(error)) from error


def is_frozen(architecture: BackboneConfig) -> bool:
    """Return whether the new layer alone is trained."""
    return frozen_layers(architecture.backbone, architecture.trained) == frozen_layers(architecture.backbone, 0.0)


class Features:
    """Features of the images of train, val and other parts in each view [V, N, D]: means of a network's last maps.

    They are computed once for a study and kept in a file that carries its own hash, so that a study that goes on has
    the same numbers.
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
        values = _read(work.folder / "features", key)
        if values is None:
            values = _computed(work, index, model, tell)
            values = _kept(work.folder / "features", key, values)
        self._values = values.to(work.device)

    def train_batches(self, index: Tensor, size: int) -> Iterator[Batch]:
        """Yield one epoch over an index [n] in random order, each image in one of its views; see data.batches."""
        order = index[torch.randperm(len(index), device=index.device)]
        views = torch.randint(len(self._values), (len(order),), device=index.device)
        for start in range(0, len(order) // size * size, size):
            some = slice(start, start + size)
            yield self._values[views[some], self._row[order[some]]], self._labels[order[some]]

    def eval_batches(self, index: Tensor) -> Iterator[Batch]:
        """Yield every image of an index [n] once, in order, as it is."""
        for some in torch.split(index, HEAD_BATCH):
            yield self._values[0, self._row[some]], self._labels[some]


def _computed(work: Workspace, index: Tensor, model: CNN, tell: Callable[[int, int], None]) -> Tensor:
    units = next(layer for layer in model.classifier.modules() if isinstance(layer, torch.nn.Linear)).in_features
    most = max(1, MOST_BYTES // (4 * units * len(index)))
    views = work.views[:most]
    found = torch.empty(len(views), len(index), units)
    batches = -(-len(index) // BATCH)
    layers = model.features.eval()
    with torch.inference_mode(), full_precision(work.device):
        for number, (images, _) in enumerate(eval_batches(work.pixels, index, BATCH)):
            for place, view in enumerate(views):
                seen = layers(seen_so(images, view).contiguous(memory_format=torch.channels_last))
                found[place, number * BATCH : number * BATCH + len(images)] = seen.mean(dim=(2, 3)).float().cpu()
            tell(number + 1, batches)
    return found


def _read(folder: Path, key: str) -> Tensor | None:
    """Read the features that were kept under a key; None where there is no whole file of them."""
    for file in sorted(folder.glob(f"{key}-*.safetensors")):
        content = file.read_bytes()
        if file.stem == f"{key}-{hashlib.sha256(content).hexdigest()}":
            with suppress(SafetensorError, KeyError):
                return load(content)["features"]
    return None


def _kept(folder: Path, key: str, values: Tensor) -> Tensor:
    """Keep features and return them, or those of another worker that was faster."""
    content = save({"features": values})
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / f"{key}-{hashlib.sha256(content).hexdigest()}.safetensors", content)
    return values if (first := _read(folder, key)) is None else first
