"""One training step: forward pass, backward pass, update; in smaller parts if the device is short of memory."""

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.memory import OutOfMemoryError, is_out_of_memory
from models.training.learner import Learner
from models.training.recipe import TrainConfig

Batch = tuple[Tensor, Tensor]
"""A batch: normalised images, float [B, 3, H, W], and labels, int64 [B], both on the network's device."""


def train_step(learner: Learner, config: TrainConfig, x: Tensor, y: Tensor, micro: int) -> Tensor:
    """Make one optimiser step on a batch, `micro` images at a time; return the sums of loss and hits, float [2]."""
    learner.optimizer.zero_grad(set_to_none=True)
    sums = []
    for images, labels in zip(torch.split(x, micro), torch.split(y, micro), strict=True):
        with autocast(x.device):
            logits = learner.model(images)
            loss = loss_of(logits, labels, config)
        (loss * (len(labels) / len(y))).backward()  # type: ignore[no-untyped-call]
        hits = (logits.argmax(dim=1) == labels).sum()
        sums.append(torch.stack([exact(loss.detach()) * len(labels), exact(hits)]))
    learner.optimizer.step()
    return torch.stack(sums).sum(dim=0)


def loss_of(logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    """Return the mean cross-entropy. With class weights the weighted sum is divided by the number of images, not by the
    sum of their weights, so that parts of a batch add up to the whole."""
    if config.class_weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    each = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing, reduction="none")
    return (each * _on_device(config.class_weights, each.device)[labels]).mean()


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return the values as a tensor [K] on the device, made once per device because each copy makes a GPU wait."""
    return torch.tensor(values).to(device)


def fitting(
    learner: Learner, x: Tensor, work: Callable[[int], Tensor], number: Literal["micro_batch", "eval_batch"]
) -> Tensor:
    """Return work(number of images at once), halving the number until the work fits into the device's memory.

    The learner keeps the number that fits, in its field `number`. Raises OutOfMemoryError if a single image does not
    fit.
    """
    fresh = not learner.optimizer.state
    while True:
        micro = min(getattr(learner, number) or len(x), len(x))
        try:
            return work(micro)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if micro == 1:
                words = "out of memory: the device does not hold the network and a single image"
                raise OutOfMemoryError(f"{words} ({str(error).splitlines()[0]})") from error
        # Outside the `except`: the exception keeps the tensors of the failed attempt alive.
        setattr(learner, number, (micro + 1) // 2)
        learner.optimizer.zero_grad(set_to_none=True)
        if fresh:
            learner.optimizer.state.clear()  # it may be half made, and torch would take it for whole
        if x.device.type == "cuda":
            torch.cuda.empty_cache()


def exact(sum_: Tensor) -> Tensor:
    """Convert a sum to double precision, or to single precision on devices without it (MPS)."""
    return sum_.float() if sum_.device.type == "mps" else sum_.double()


def autocast(device: torch.device) -> torch.autocast:
    """Return a context that computes in bfloat16 on CUDA, where it is faster, and in float32 on other devices."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
