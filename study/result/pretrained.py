"""The honest rival: what a network that was pretrained on photographs does without any search.

Its features stay as they are, and a logistic regression learns from them. Nothing is fetched here.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data import DataError
from data.batches import Normalisation, normalised
from data.images import decode, source_size
from models import ModelError
from models.backbones import INSTALL, Weights, at_hand, find_weights, load_features, make_features, torchvision_file
from models.bundle.reference import IMAGENET
from models.scores.evaluation import mean_recall
from study import StudyError
from study.training.workspace import Workspace

STRENGTHS = (0.001, 0.01, 0.1)
"""Of which val chooses the inverse penalty of the regression, on features of mean 0 and variance 1."""
BATCH = 64
SIDES = (224, 128)
"""Pixels that it sees instead of the winner's, where the files have them and the time is there."""
SHARE = 0.25
"""Of the search's seconds, that it may take to see more."""
FITTING = 1.5
"""What everything takes beside computing the features."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

logger = logging.getLogger(__name__)


class NoRivalError(Exception):
    """Why there is none."""


class Known:
    """A pretrained network's features, at any size of images."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.name, self.digest = weights.name, weights.digest
        self._state, self._device = weights.load(), device
        self._networks: dict[int, nn.Sequential] = {}  # by pixels of a side

    def features(self, pixels: Tensor) -> Tensor:
        """uint8 [N, S, S, 3] -> [N, D]."""
        side = pixels.shape[1]
        if side not in self._networks:
            network = make_features(self.name, side)
            load_features(network, self.name, self._state)
            network.eval().requires_grad_(False)
            self._networks[side] = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        maps: Tensor = self._networks[side](normalised(pixels, Normalisation(**IMAGENET)))
        return maps.mean(dim=(2, 3))


FETCHED = ("resnet18",)
"""What `study models fetch` fetches."""


def fetch(name: str) -> Path:
    """Fetch a network's weights into torchvision's cache, unless they are there. Raises StudyError."""
    if name not in FETCHED:
        raise StudyError(f"no network {name!r} (there are: {', '.join(FETCHED)})")
    file, url = torchvision_file(name)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = file.stem.rpartition("-")[2]  # torchvision's file names end in the hash of the content
        try:
            torch.hub.download_url_to_file(url, str(file), digest, progress=False)
        except (OSError, RuntimeError) as error:
            raise StudyError(f"cannot fetch {url}: {error}") from error
    return file


def find(device: torch.device) -> Known:
    """The pretrained network that is at hand. Raises NoRivalError with what is missing."""
    name = at_hand()
    if name is None:
        raise NoRivalError(f"no weights are at hand ({INSTALL})")
    try:
        return Known(find_weights(name), device)
    except ModelError as error:
        raise NoRivalError(str(error)) from error


@dataclass(frozen=True)
class Pretrained:
    """A fitted rival."""

    name: str
    side: int  # pixels that it sees
    digest: str  # of the weights, and of what the regression learned from
    labels: Callable[[Ints], Ints]  # what it says of some of the images [n]


def fit(
    work: Workspace, learn: Ints, choose: Ints, left: float, more: float = 0.0, side: int | None = None
) -> Pretrained:
    """Fit the regression to the features of images `learn`; the strength is chosen on `choose`, which it learns then.

    Without `choose` the strength is the middle one. `left`: seconds that it may take; `more`: that it may take to see
    the files in more pixels than the winner does. `side`: what was decided before. Raises NoRivalError.
    """
    backbone = find(work.device)
    if len(np.unique(work.dataset.labels[learn])) < 2:
        raise NoRivalError("the images to learn from are of one class")
    images = len(learn) + len(choose) + len(getattr(work.parts, work.held_out))
    side = side or _affordable(work, backbone, learn[:BATCH], images, left, more)
    see = partial(_features, work, backbone, side)
    features, labels = see(learn), work.dataset.labels
    strength = STRENGTHS[1]
    fitted = partial(_fitted, weights="balanced" if work.config.class_weights == "balanced" else None)
    if len(choose):
        others = see(choose)
        worth = mean_recall if work.config.metric == "balanced_accuracy" else _share_right
        found = [worth(fitted(features, labels[learn], one)(others), labels[choose]) for one in STRENGTHS]
        strength = STRENGTHS[int(np.argmax(found))]
        features, learn = np.concatenate([features, others]), np.concatenate([learn, choose])
    says = fitted(features, labels[learn], strength)
    learned = f"{backbone.digest} {work.parts.hash} {len(learn)} {side}"
    learned += " balanced" if work.config.class_weights == "balanced" else ""
    digest = hashlib.sha256(learned.encode()).hexdigest()
    return Pretrained(f"pretrained {backbone.name} at {side} px", side, digest, lambda index: says(see(index)))


def _affordable(work: Workspace, backbone: Known, some: Ints, images: int, left: float, more: float) -> int:
    """The most pixels a side that the files have, and the seconds hold; tried on some of the images."""
    known = source_size([work.dataset.root / work.dataset.paths[i] for i in some])
    size = work.config.image_size
    needed = 0.0
    _features(work, backbone, size, some)  # the first time takes longer
    for side in (*(one for one in SIDES if known and size < one <= min(known)), size):
        began = time.perf_counter()
        _features(work, backbone, side, some)
        needed = FITTING * (time.perf_counter() - began) * images / len(some)
        if needed <= (left if side == size else min(left, more)):
            return side
    there = max(0.0, left)
    raise NoRivalError(f"the hours do not hold it: it takes about {needed:.0f} s, and {there:.0f} s are left")


def _features(work: Workspace, backbone: Known, side: int, index: Ints) -> Floats:
    """Of the images as the winner sees them, or decoded anew with more pixels."""
    parts = []
    with torch.inference_mode(), ThreadPoolExecutor() as pool:
        for start in range(0, len(index), BATCH):
            some = index[start : start + BATCH]
            if side == work.config.image_size:
                pixels = np.ascontiguousarray(work.dataset.images[some])
            else:
                read = partial(decode, image_size=side, most=work.config.max_megapixels, ranges=work.dataset.ranges)
                files = [work.dataset.root / work.dataset.paths[i] for i in some]
                try:
                    pixels = np.stack(list(pool.map(read, files)))
                except DataError as error:
                    raise NoRivalError(f"an image cannot be read any more: {error}") from error
            parts.append(backbone.features(torch.from_numpy(pixels).to(work.device)).cpu().double().numpy())
    return np.concatenate(parts)


def _share_right(predicted: Ints, labels: Ints) -> float:
    return float((predicted == labels).mean())


def _fitted(features: Floats, labels: Ints, strength: float, weights: str | None) -> Callable[[Floats], Ints]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=strength, max_iter=300, class_weight=weights)
    model = make_pipeline(StandardScaler(), regression).fit(features, labels)
    return lambda some: np.asarray(model.predict(some))
