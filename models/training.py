"""The training loop: a generator that yields one result per epoch and decides nothing."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.memory import OutOfMemoryError, is_out_of_memory

Batch = tuple[Tensor, Tensor]
"""Normalised images float [B, 3, H, W] and labels int64 [B], both on the network's device."""

AfterStep = Callable[[int, int, int], None]
"""Called after each training step with (epoch from 1, step of the epoch from 1, steps in an epoch)."""

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


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What one epoch gave. Losses are mean cross-entropies in nats; accuracies are fractions.

    Training figures are taken while the weights move, on augmented images with dropout, the loss with the classes'
    weights; validation figures are None where there is no validation data.
    """

    epoch: int  # epochs completed, from 1
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    val_balanced_accuracy: float | None
    learning_rate: float  # at the end of the epoch
    images: int  # trained on
    seconds: float  # training and validation

    @property
    def diverged(self) -> bool:
        """Whether a loss is no longer a number."""
        return not math.isfinite(self.train_loss) or not math.isfinite(self.val_loss or 0.0)


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


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam (decay as an L2 penalty, as in the reference), AdamW (decoupled) or SGD with Nesterov momentum 0.9."""
    rate, decay = config.learning_rate, config.weight_decay
    parameters = _groups(model) if config.decayed == "weights" else list(model.parameters())
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9, nesterov=True, fused=True)


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weights, which decay; and norms and biases, which do not (He et al. 2019)."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]


State = tuple[dict[str, Tensor], dict[str, Any]]
"""Everything that the next epoch depends on: tensors by name, and the rest as JSON."""


@dataclass
class Learner:
    """What training changes: the network, the optimiser, and the one schedule that remembers losses."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    plateau: torch.optim.lr_scheduler.ReduceLROnPlateau
    micro_batch: int | None = None  # images that go through the network at once; None: the whole batch

    def state(self) -> State:
        """What `load` takes; the tensors are the learner's own, which training goes on to change."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        kept = self.optimizer.state_dict()
        for number, slots in kept["state"].items():
            tensors |= {f"optimizer.{number}.{name}": slot for name, slot in slots.items()}
        rates = [group["lr"] for group in kept["param_groups"]]
        return tensors, {"rates": rates, "plateau": self.plateau.state_dict(), "micro_batch": self.micro_batch}

    def load(self, tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
        """Take over a state that `state` gave. Raises RuntimeError or KeyError when it belongs to another network."""
        weights = {name[len("model.") :]: tensor for name, tensor in tensors.items() if name.startswith("model.")}
        fresh = self.optimizer.state_dict()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, number, slot = name.split(".")
                slots.setdefault(int(number), {})[slot] = _laid_out_like(parameters[int(number)], tensor)
        for group, rate in zip(fresh["param_groups"], fields["rates"], strict=True):
            group["lr"] = rate
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict({"state": slots, "param_groups": fresh["param_groups"]})
        self.plateau.load_state_dict(fields["plateau"])
        self.micro_batch = fields["micro_batch"]


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A copy with the parameter's strides: fused optimisers walk through both memories side by side."""
    if tensor.shape != parameter.shape:
        return tensor.clone()  # the number of steps
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def make_learner(model: nn.Module, config: TrainConfig) -> Learner:
    """A network at the start of its training."""
    optimizer = make_optimizer(model, config)
    return Learner(model, optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2))


def fit(
    learner: Learner,
    config: TrainConfig,
    train: Callable[[], Iterable[Batch]],
    steps: int,
    val: Callable[[], Iterable[Batch]] | None,
    seed: int,
    done: int = 0,
    after_step: AfterStep | None = None,
) -> Iterator[EpochResult]:
    """Train the learner in place, one epoch per item asked for, from epoch `done` + 1.

    train() and val() give the batches of one epoch; `steps` is the number of training batches in each. Everything
    random in epoch e is drawn after torch.manual_seed(f(seed, e)), so an epoch depends on nothing but the weights,
    the optimiser and e. Stop by not asking for more, or in the middle of an epoch by raising in `after_step`.

    A batch that does not fit the device is repeated in halves, whose gradients are added up; batch normalisation then
    sees the halves only. Raises OutOfMemoryError when a single image does not fit.
    """
    optimizer, total = learner.optimizer, config.epochs * steps
    for epoch in range(done + 1, config.epochs + 1):
        start = time.perf_counter()
        torch.manual_seed(derive_seed(seed, epoch))
        before = (epoch - 1) * steps
        loss, hits, images = _train_epoch(learner, config, _told(train(), epoch, steps, after_step), before, total)
        checked = evaluate(learner, val()) if val else None
        if config.schedule == "plateau" and checked:
            learner.plateau.step(checked[0])
        yield EpochResult(
            epoch=epoch,
            train_loss=loss,
            train_accuracy=hits,
            val_loss=checked[0] if checked else None,
            val_accuracy=checked[1] if checked else None,
            val_balanced_accuracy=checked[2] if checked else None,
            learning_rate=optimizer.param_groups[0]["lr"],
            images=images,
            seconds=time.perf_counter() - start,
        )


def _told(batches: Iterable[Batch], epoch: int, steps: int, after_step: AfterStep | None) -> Iterable[Batch]:
    """The batches, and after each one that was trained on the call that says so."""
    if after_step is None:
        yield from batches
        return
    for step, batch in enumerate(batches, start=1):
        yield batch
        after_step(epoch, step, steps)


def _train_epoch(
    learner: Learner, config: TrainConfig, batches: Iterable[Batch], done: int, total: int
) -> tuple[float, float, int]:
    """One pass; returns (mean loss, accuracy, images). Sums stay on the device until the end of the epoch."""
    learner.model.train()
    images = 0
    sums: list[Tensor] = []  # loss and hits of each batch
    for step, (x, y) in enumerate(batches, start=done):
        if config.schedule != "plateau":
            for group in learner.optimizer.param_groups:
                group["lr"] = config.learning_rate * rate_factor(config.schedule, step / total)
        sums.append(_fitting(learner, x, lambda micro: _step(learner, config, x, y, micro)))  # noqa: B023
        images += len(y)
    loss_sum, hit_sum = torch.stack(sums).sum(dim=0).tolist()
    return loss_sum / images, hit_sum / images, images


def _step(learner: Learner, config: TrainConfig, x: Tensor, y: Tensor, micro: int) -> Tensor:
    """One step of the optimiser on a batch, `micro` images at a time; returns the sums of loss and hits."""
    learner.optimizer.zero_grad(set_to_none=True)
    sums = []
    for images, labels in zip(torch.split(x, micro), torch.split(y, micro), strict=True):
        with _autocast(x.device):
            logits = learner.model(images)
            loss = _loss(logits, labels, config)
        (loss * (len(labels) / len(y))).backward()  # type: ignore[no-untyped-call]
        hits = (logits.argmax(dim=1) == labels).sum()
        sums.append(torch.stack([_exact(loss.detach()) * len(labels), _exact(hits)]))
    learner.optimizer.step()
    return torch.stack(sums).sum(dim=0)


def _loss(logits: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    """Mean cross-entropy; with weights the sum over images is divided by their number, as halves of a batch need it."""
    if config.class_weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    each = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing, reduction="none")
    return (each * each.new_tensor(config.class_weights)[labels]).mean()


def _fitting(learner: Learner, x: Tensor, work: Callable[[int], Tensor]) -> Tensor:
    """work(images at once), with half as many until it fits the device."""
    while True:
        micro = min(learner.micro_batch or len(x), len(x))
        try:
            return work(micro)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Outside the exception: it keeps the tensors of the failed attempt alive.
        if micro == 1:
            raise OutOfMemoryError("out of memory: the device does not hold the network and a single image")
        learner.micro_batch = (micro + 1) // 2
        learner.optimizer.zero_grad(set_to_none=True)
        if x.device.type == "cuda":
            torch.cuda.empty_cache()


def evaluate(learner: Learner, batches: Iterable[Batch]) -> tuple[float, float, float]:
    """(mean cross-entropy, accuracy, balanced accuracy) without touching the weights.

    Balanced accuracy is the mean recall of the classes that occur.
    """
    model = learner.model.eval()
    loss: Tensor | None = None
    table: Tensor | None = None
    with torch.inference_mode():
        for x, y in batches:
            logits = _fitting(learner, x, lambda micro: _logits(model, x, micro))  # noqa: B023
            classes = logits.shape[1]
            part = _exact(F.cross_entropy(logits.float(), y, reduction="sum"))
            loss = part if loss is None else loss + part
            if table is None:
                table = torch.zeros(classes * classes, dtype=torch.int64, device=x.device)
            table.scatter_add_(0, y * classes + logits.argmax(dim=1), torch.ones_like(y))
    if loss is None or table is None:
        raise ValueError("nothing to evaluate: no batches")
    confusion = table.view(int(len(table) ** 0.5), -1).cpu().double()
    support = confusion.sum(dim=1)
    recall = confusion.diagonal()[support > 0] / support[support > 0]
    return (
        float(loss) / float(support.sum()),
        float(confusion.diagonal().sum() / support.sum()),
        float(recall.mean()),
    )


def _logits(model: nn.Module, x: Tensor, micro: int) -> Tensor:
    with _autocast(x.device):
        return torch.cat([model(images) for images in torch.split(x, micro)])


def _exact(sum_: Tensor) -> Tensor:
    """In double precision, where the device has it."""
    return sum_.float() if sum_.device.type == "mps" else sum_.double()


def _autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device multiplies it faster; elsewhere float32 throughout."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
