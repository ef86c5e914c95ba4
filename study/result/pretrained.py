"""The pretrained rival: a logistic regression on the features of a network that was trained on photographs.

It needs no search, and the network stays as it is. Only `fetch` downloads anything.
"""

import hashlib
import logging
import math
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
from data.batches import Normalisation, normalise
from data.images import decode, source_size
from models import ModelError
from models.backbones import (
    INSTALL,
    Weights,
    find_weights,
    load_features,
    make_features,
    preferred_local_network,
    torchvision_file,
)
from models.bundle.reference import IMAGENET
from models.scores.evaluation import mean_recall
from study import StudyError
from study.training.workspace import Workspace

STRENGTHS = (0.001, 0.01, 0.1)
"""Inverse penalties of the regression (on features of mean 0 and variance 1), of which val chooses one."""
BATCH = 64
SIDES = (224, 128)
"""Image sizes, in pixels, that the rival may use instead of the winner's, if files are that large and time allows."""
SHARE = 0.25
"""Share of the search's seconds that the rival may take with one of these sizes."""
FITTING = 1.5
"""Ratio of the time for everything to the time for computing the features."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

logger = logging.getLogger(__name__)


class NoRivalError(Exception):
    """Error that says why there is no pretrained rival."""


class FeatureExtractor:
    """Pretrained network that computes features of images of any size."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.name, self.digest = weights.name, weights.digest
        self._state, self._device = weights.load(), device
        self._networks: dict[int, nn.Sequential] = {}  # image size -> network

    def features(self, pixels: Tensor) -> Tensor:
        """Compute the features [N, D] of pixels [N, S, S, 3], uint8: the mean of each of the network's maps."""
        side = pixels.shape[1]
        if side not in self._networks:
            network = make_features(self.name, side)
            load_features(network, self.name, self._state)
            network.eval().requires_grad_(False)
            self._networks[side] = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        maps: Tensor = self._networks[side](normalise(pixels, Normalisation(**IMAGENET)))
        return maps.mean(dim=(2, 3))


FETCHED = ("resnet18",)
"""Networks that `study models fetch` can fetch."""


def fetch(name: str) -> Path:
    """Download a network's weights into torchvision's cache, unless they are there. Raises StudyError."""
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


def find(device: torch.device) -> FeatureExtractor:
    """Return the pretrained network whose weights are on this machine. Raises NoRivalError if there is none."""
    name = preferred_local_network()
    if name is None:
        raise NoRivalError(f"no weights are at hand ({INSTALL})")
    try:
        return FeatureExtractor(find_weights(name), device)
    except ModelError as error:
        raise NoRivalError(str(error)) from error


@dataclass(frozen=True)
class FittedRival:
    """Rival that has been fitted: a pretrained network's features, and a regression on them."""

    name: str
    side: int  # image size that it sees, in pixels
    digest: str  # hash of the weights and of what the regression learned from
    labels: Callable[[Ints], Ints]  # indices of images [n] -> the classes that it names [n]


def fit(
    work: Workspace, learn: Ints, choose: Ints, left: float, more: float = 0.0, side: int | None = None
) -> FittedRival:
    """Fit the regression to the features of the images `learn`.

    Its strength is chosen on the images `choose`, from which it then learns, too; without them it is the middle one.
    `left`: seconds that it may take. `more`: seconds that it may take with larger images than the winner's. `side`: the
    image size, if it was decided before; then it may take any time. Raises NoRivalError.
    """
    end = math.inf if side else time.perf_counter() + left  # a size that was decided before is used again
    backbone = find(work.device)
    if len(np.unique(work.dataset.labels[learn])) < 2:
        raise NoRivalError("the images to learn from are of one class")
    images = len(learn) + len(choose) + len(getattr(work.parts, work.held_out))
    side = side or _affordable(work, backbone, learn[:BATCH], images, left, more)
    see = partial(_features, work, backbone, side, end=end)
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
    name = f"pretrained {backbone.name} at {side} px"
    return FittedRival(name, side, digest, lambda index: says(see(index, end=math.inf)))


def _affordable(work: Workspace, backbone: FeatureExtractor, some: Ints, images: int, left: float, more: float) -> int:
    """Return the largest image size that files and time allow, timed on some images, or raise NoRivalError."""
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


def _features(work: Workspace, backbone: FeatureExtractor, side: int, index: Ints, *, end: float = math.inf) -> Floats:
    """Compute features [n, D] of images `index` [n] at size `side`. Raises NoRivalError when the time is past `end`."""
    parts = []
    with torch.inference_mode(), ThreadPoolExecutor() as pool:
        for start in range(0, len(index), BATCH):
            if time.perf_counter() > end:
                raise NoRivalError("the hours were over before it had seen all images")
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
