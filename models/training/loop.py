"""The training loop: a generator that yields one result per epoch and leaves all decisions to its caller."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.memory import memory_for
from models.training.course import Course
from models.training.graph import Steps
from models.training.learner import Learner
from models.training.recipe import TrainConfig, derive_seed, rate_factor
from models.training.step import Batch, autocast, exact, fitting

AfterStep = Callable[[int, int, int], None]
"""A function that is called after each training step with (epoch from 1, step of the epoch from 1, steps per epoch)."""


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """Results of one epoch. Losses are mean cross-entropies in nats; accuracies are fractions.

    Training figures are taken while the weights change, on augmented images with dropout, and their loss includes the
    class weights. Validation figures are None if there is no validation data.
    """

    epoch: int  # number of the epoch, from 1
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    val_balanced_accuracy: float | None
    learning_rate: float  # of the first parameter group, at the end of the epoch
    images: int  # number of training images in the epoch
    seconds: float  # time for training and validation

    @property
    def diverged(self) -> bool:
        """Whether a loss is no longer a finite number."""
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
    """Train the learner in place from epoch `done` + 1 on: each item that is asked for trains one epoch.

    train() and val() give the batches of one epoch; `steps` is the number of training batches per epoch. Everything
    random in epoch e is drawn after torch.manual_seed(f(seed, e)), so an epoch depends only on the weights, the
    optimiser, e and the course. `course` says how many steps there are in total, by default config.epochs times
    `steps`; its end may be moved to the end of another epoch, between epochs or in `after_step`. To stop, ask for no
    more items, or raise in `after_step` to stop in the middle of an epoch.

    A batch that does not fit into the memory of the device is repeated in halves, whose gradients are added up; batch
    normalisation then sees only the halves. Raises OutOfMemoryError if a single image does not fit.
    """
    steps_ahead, course = Steps(learner, config), course or Course(config.epochs * steps)
    try:
        for epoch in itertools.count(done + 1):
            if (epoch - 1) * steps >= course.end:
                return
            start = time.perf_counter()
            torch.manual_seed(derive_seed(seed, epoch))
            batches = _told(train(), epoch, steps, after_step)
            with memory_for("a batch of images"):  # a step, which is tried in parts, has its own words
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
    """Yield the batches; after each one has been trained on, call `after_step`."""
    if after_step is None:
        yield from batches
        return
    for step, batch in enumerate(batches, start=1):
        yield batch
        after_step(epoch, step, steps)


def _train_epoch(
    learner: Learner, config: TrainConfig, steps: Steps, batches: Iterable[Batch], done: int, course: Course
) -> tuple[float, float, int]:
    """Train one epoch and return (mean loss, accuracy, number of images).

    `done` is the number of steps before this epoch. Sums stay on the device until the end of the epoch.
    """
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
    """Return (mean cross-entropy in nats, accuracy, balanced accuracy) on some batches; the weights are not changed.

    Balanced accuracy is the mean recall over the classes that occur. Raises ValueError if there are no batches.
    """
    model = learner.model.eval()
    loss: Tensor | None = None
    table: Tensor | None = None
    with torch.inference_mode():
        for x, y in batches:
            logits = fitting(learner, x, lambda some: _logits(model, x, some), "eval_batch")  # noqa: B023
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
