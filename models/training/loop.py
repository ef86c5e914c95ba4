"""The training loop: a generator that yields one result per epoch and decides nothing."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.training.course import Course
from models.training.graph import Steps
from models.training.learner import Learner
from models.training.recipe import TrainConfig, derive_seed, rate_factor
from models.training.step import Batch, autocast, exact, fitting

AfterStep = Callable[[int, int, int], None]
"""Called after each training step with (epoch from 1, step of the epoch from 1, steps in an epoch)."""


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


def fit(
    learner: Learner,
    config: TrainConfig,
    train: Callable[[], Iterable[Batch]],
    steps: int,
    val: Callable[[], Iterable[Batch]] | None,
    seed: int,
    done: int = 0,
    after_step: AfterStep | None = None,
    course: Course | None = None,
) -> Iterator[EpochResult]:
    """Train the learner in place, one epoch per item asked for, from epoch `done` + 1.

    train() and val() give the batches of one epoch; `steps` is the number of training batches in each. Everything
    random in epoch e is drawn after torch.manual_seed(f(seed, e)), so an epoch depends on nothing but the weights,
    the optimiser, e and the course. `course`: how many steps there are in all, by default config.epochs times `steps`;
    it may be moved between epochs and in `after_step`, to the end of an epoch. Stop by not asking for more, or in the
    middle of an epoch by raising in `after_step`.

    A batch that does not fit the device is repeated in halves, whose gradients are added up; batch normalisation then
    sees the halves only. Raises OutOfMemoryError when a single image does not fit.
    """
    steps_ahead, course = Steps(learner, config), course or Course(config.epochs * steps)
    try:
        for epoch in itertools.count(done + 1):
            if (epoch - 1) * steps >= course.end:
                return
            start = time.perf_counter()
            torch.manual_seed(derive_seed(seed, epoch))
            batches = _told(train(), epoch, steps, after_step)
            loss, hits, images = _train_epoch(learner, config, steps_ahead, batches, (epoch - 1) * steps, course)
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
                learning_rate=learner.rates[0],
                images=images,
                seconds=time.perf_counter() - start,
            )
    finally:
        steps_ahead.release()


def _told(batches: Iterable[Batch], epoch: int, steps: int, after_step: AfterStep | None) -> Iterable[Batch]:
    """The batches, and after each one that was trained on the call that says so."""
    if after_step is None:
        yield from batches
        return
    for step, batch in enumerate(batches, start=1):
        yield batch
        after_step(epoch, step, steps)


def _train_epoch(
    learner: Learner, config: TrainConfig, steps: Steps, batches: Iterable[Batch], done: int, course: Course
) -> tuple[float, float, int]:
    """One pass; returns (mean loss, accuracy, images). Sums stay on the device until the end of the epoch."""
    learner.model.train()
    images = 0
    sums: list[Tensor] = []  # loss and hits of each batch
    for step, (x, y) in enumerate(batches, start=done):
        if config.schedule != "plateau":
            steps.set_rate(config.learning_rate * rate_factor(config.schedule, course.progress(step)))
        sums.append(steps.take(x, y))
        images += len(y)
    loss_sum, hit_sum = torch.stack(sums).sum(dim=0).tolist()
    return loss_sum / images, hit_sum / images, images


def evaluate(learner: Learner, batches: Iterable[Batch]) -> tuple[float, float, float]:
    """(mean cross-entropy, accuracy, balanced accuracy) without touching the weights.

    Balanced accuracy is the mean recall of the classes that occur.
    """
    model = learner.model.eval()
    loss: Tensor | None = None
    table: Tensor | None = None
    with torch.inference_mode():
        for x, y in batches:
            logits = fitting(learner, x, lambda micro: _logits(model, x, micro))  # noqa: B023
            classes = logits.shape[1]
            part = exact(F.cross_entropy(logits.float(), y, reduction="sum"))
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
    with autocast(x.device):
        return torch.cat([model(images) for images in torch.split(x, micro)])
