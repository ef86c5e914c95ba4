"""How a network is trained, as a value; seeds, learning rates and batch sizes as pure functions."""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine", "onecycle", "plateau"]
Decayed = Literal["all", "weights"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained."""

    epochs: int
    learning_rate: float
    optimizer: Optimizer = "adam"
    weight_decay: float = 1e-4
    decayed: Decayed = "all"  # or "weights": not norms and biases
    schedule: Schedule = "constant"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None  # of each class's images in the loss; None: all count the same
    backbone_rate: float = 1.0  # the learning rate of the features, as a share of the classifier's


def derive_seed(*parts: int | str) -> int:
    """A seed (63 bits) that is a pure function of its parts, unrelated for unequal parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def rate_factor(schedule: Schedule, progress: float) -> float:
    """Share of the base learning rate at `progress` (0 to 1) of all training steps.

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
    """Images per step: the power of two from 16 to 256 that fills a device best and still leaves 50 steps an epoch."""
    return max(16, min(256, 1 << (max(1, images // 50).bit_length() - 1)))


def balanced_weights(labels: NDArray[np.int64], classes: int) -> tuple[float, ...]:
    """Weights with which each class counts the same and an image 1 on average (scikit-learn's "balanced").

    labels: [N]. A class without images gets weight 0.
    """
    counts = np.bincount(labels, minlength=classes)
    there = int((counts > 0).sum())
    return tuple(len(labels) / (there * count) if count else 0.0 for count in counts.tolist())


def rate_for_batch(rate: float, optimizer: Optimizer, batch: int, meant_for: int) -> float:
    """A learning rate for batches of another size, such that training takes the same way.

    In proportion to the batch for SGD (Goyal et al. 2017), to its square root for Adam and AdamW (Malladi et al. 2022,
    whose rule also moves the betas; here they stay).
    """
    ratio = batch / meant_for
    return rate * (ratio if optimizer == "sgd" else math.sqrt(ratio))
