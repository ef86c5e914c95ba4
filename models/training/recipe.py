"""The training settings of a network as a plain value; seeds, learning rates and batch sizes as pure functions."""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine", "onecycle", "plateau"]
DecayedParameters = Literal["all", "weights"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the training of a network."""

    epochs: int
    learning_rate: float
    optimizer: Optimizer = "adam"
    weight_decay: float = 1e-4
    decayed: DecayedParameters = "all"  # which parameters decay; "weights": all but norms and biases
    schedule: Schedule = "constant"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None  # weight of the images of each class in the loss; None: all equal
    backbone_rate: float = 1.0  # learning rate of the features, as a share of the classifier's


def derive_seed(*parts: int | str) -> int:
    """Derive a seed (63 bits) from the parts: the same parts give the same seed, other parts an unrelated one."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def rate_factor(schedule: Schedule, progress: float) -> float:
    """Return the factor on the base learning rate at `progress` (0 to 1) of all training steps.

    cosine: 5 % linear warm-up, then half a cosine to 0 (Loshchilov and Hutter 2017, without restarts).
    onecycle: 30 % linear rise, then half a cosine to 0 (Smith and Topin 2018).
    """
    rise = {"cosine": 0.05, "onecycle": 0.3}.get(schedule)
    if rise is None:
        return 1.0
    if progress < rise:
        return 0.04 + 0.96 * progress / rise
    return 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise)))


def batch_for(images: int) -> int:
    """Return the batch size for a number of training images: the largest power of two from 16 to 256, which fills a
    device best, that still leaves 50 steps per epoch; 16 if none does."""
    return max(16, min(256, 1 << (max(1, images // 50).bit_length() - 1)))


def balanced_weights(labels: NDArray[np.int64], classes: int) -> tuple[float, ...]:
    """Return class weights with which each class counts the same and an image 1 on average (scikit-learn's "balanced").

    `labels` [N] are the class numbers of the images. A class without images gets weight 0.
    """
    counts = np.bincount(labels, minlength=classes)
    there = int((counts > 0).sum())
    return tuple(len(labels) / (there * count) if count else 0.0 for count in counts.tolist())


def rate_for_batch(rate: float, optimizer: Optimizer, batch: int, meant_for: int) -> float:
    """Scale a learning rate that is meant for batches of `meant_for` images to batches of `batch` images.

    The rate is scaled in proportion to the batch size for SGD (Goyal et al. 2017), and to its square root for Adam and
    AdamW (Malladi et al. 2022, whose rule also changes the betas; here they stay).
    """
    ratio = batch / meant_for
    return rate * (ratio if optimizer == "sgd" else math.sqrt(ratio))
