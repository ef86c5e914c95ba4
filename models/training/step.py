"""One step of training: forward, backward, update; in smaller parts where the device is short of memory."""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.memory import OutOfMemoryError, is_out_of_memory
from models.training.learner import Learner
from models.training.recipe import TrainConfig

Batch = tuple[Tensor, Tensor]
"""Normalised images float [B, 3, H, W] and labels int64 [B], both on the network's device."""


def train_step(learner: Learner, config: TrainConfig, x: Tensor, y: Tensor, micro: int) -> Tensor:
    """One step of the optimiser on a batch, `micro` images at a time; returns the sums of loss and hits."""
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
    """Mean cross-entropy; with weights the sum over images is divided by their number, as halves of a batch need it."""
    if config.class_weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    each = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing, reduction="none")
    return (each * _on_device(config.class_weights, each.device)[labels]).mean()


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A copy [K], made once per device: each copy from the processor's memory makes a GPU wait."""
    return torch.tensor(values).to(device)


def fitting(learner: Learner, x: Tensor, work: Callable[[int], Tensor]) -> Tensor:
    """work(images at once), with half as many until it fits the device."""
    while True:
        micro = min(learner.micro_batch or len(x), len(x))
        try:
            return work(micro)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if micro == 1:
                words = "out of memory: the device does not hold the network and a single image"
                raise OutOfMemoryError(f"{words} ({str(error).splitlines()[0]})") from error
        # Outside the exception: it keeps the tensors of the failed attempt alive.
        learner.micro_batch = (micro + 1) // 2
        learner.optimizer.zero_grad(set_to_none=True)
        if x.device.type == "cuda":
            torch.cuda.empty_cache()


def exact(sum_: Tensor) -> Tensor:
    """In double precision, where the device has it."""
    return sum_.float() if sum_.device.type == "mps" else sum_.double()


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device multiplies it faster; elsewhere float32 throughout."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
