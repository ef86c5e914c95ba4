"""Start of a training: the network at a point of the space, with new weights or from its checkpoint."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import nn

from data.batches import Batch, train_batches
from models.architecture import Architecture, BackboneConfig
from models.cnn import CNN, build_cnn, prepare
from models.memory import OutOfMemoryError, in_words, is_out_of_memory, total_bytes, training_bytes
from models.training.checkpoint import Checkpoints
from models.training.course import Course, Move
from models.training.learner import Learner, make_learner
from models.training.loop import AfterStep, EpochResult, fit
from models.training.recipe import TrainConfig, balanced_weights, batch_for, derive_seed
from study.config.schema import StudyConfig
from study.config.space import Value, full_point, network_config, train_config
from study.training.backbone import Features, is_frozen, load_backbone
from study.training.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRun:
    """Training that is ready to run: each item taken from `epochs` is one epoch, restored ones first."""

    model: CNN
    learner: Learner
    epochs: Iterator[EpochResult]
    behind: int = 0  # number of epochs restored from a checkpoint
    steps: int = 1  # per epoch
    course: Course = field(default_factory=lambda: Course(1))


def start_training(
    work: Workspace,
    params: Mapping[str, Value],
    *,
    epochs: int,
    batch_size: int | Literal["auto"],
    train_parts: tuple[str, ...],
    seed: int,
    checkpoints: Checkpoints,
    after_step: AfterStep | None = None,
    moves: Sequence[Move] = (),
) -> TrainingRun:
    """Build the network at a point of the space, and the loop that will train it.

    Raises OutOfMemoryError, here or in an epoch, if the device does not hold the network, and StudyError if pretrained
    weights cannot be loaded. Each epoch ends with a validation, unless val is trained on. Epochs of a checkpoint are
    not trained again, but yielded like new ones. `moves`: how the end of the training was moved so far.
    """
    point = full_point(work.config.space, params)
    architecture = network_config(point, len(work.dataset.classes), work.config.image_size)
    _refuse_what_cannot_fit(architecture, work.device)
    torch.manual_seed(derive_seed(seed, "weights"))
    try:
        model = prepare(build_cnn(architecture), work.device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError("out of memory: the device does not hold the network") from None
    if isinstance(architecture, BackboneConfig):
        load_backbone(model, architecture, work.weights)
    index = work.index(*train_parts)
    augment = work.config.augment
    augment = replace(augment, turns=augment.turns or point["augment_turns"]).scaled(point["augment_strength"])
    batch = min(len(index), batch_for(len(index)) if batch_size == "auto" else batch_size)

    train: Callable[[], Iterator[Batch]] = partial(train_batches, work.pixels, index, batch, augment)
    val: Callable[[], Iterator[Batch]] = partial(work.eval_batches, "val")
    learned: nn.Module = model
    if isinstance(architecture, BackboneConfig) and is_frozen(architecture):
        tell = after_step or (lambda epoch, step, steps: None)
        features = Features(work, work.weights[architecture.backbone], model, train_parts, partial(tell, 0))
        learned = model.classifier
        train, val = partial(features.train_batches, index, batch), partial(features.eval_batches, work.index("val"))
    recipe: TrainConfig = train_config(point, epochs, batch, work.config.rate_batch_size)
    if learned is not model:
        recipe = replace(recipe, backbone_rate=1.0)
    if work.config.class_weights == "balanced":
        labels = np.concatenate([work.dataset.labels[getattr(work.parts, part)] for part in train_parts])
        recipe = replace(recipe, class_weights=balanced_weights(labels, len(work.dataset.classes)))
    steps = len(index) // batch
    checked: Callable[[], Iterator[Batch]] | None = None if "val" in train_parts else val
    learner = make_learner(learned, recipe)
    behind = checkpoints.restore(learner)
    course = Course(epochs * steps, moves)
    ahead = fit(learner, recipe, train, steps, checked, seed, len(behind), after_step, course)
    saved = _saved(learner, checkpoints, behind, ahead, lambda epoch: epoch * steps >= course.end)
    return TrainingRun(model, learner, saved, len(behind), steps, course)


def _refuse_what_cannot_fit(architecture: Architecture, device: torch.device) -> None:
    """Raise OutOfMemoryError if training cannot fit: Linux would grant the memory, and later kill this process."""
    number_bytes = 2 if device.type == "cuda" else 4  # on a GPU, autocast computes with 16 bits
    needed, there = training_bytes(architecture, 1, number_bytes), total_bytes(device)
    if needed > there:
        raise OutOfMemoryError(
            f"out of memory: the network needs at least {in_words(needed)} to train, the device has {in_words(there)}"
        )


def _saved(
    learner: Learner,
    checkpoints: Checkpoints,
    behind: list[EpochResult],
    ahead: Iterator[EpochResult],
    is_last: Callable[[int], bool],
) -> Iterator[EpochResult]:
    """Yield the restored epochs, then new ones, each after its checkpoint if one is due (the last needs none)."""
    yield from behind
    results = list(behind)
    for result in ahead:
        results.append(result)
        if not is_last(result.epoch) and not result.diverged:
            try:
                checkpoints.after_epoch(learner, results)
            except OSError as error:  # a full disk is no reason to stop: at worst some epochs are repeated
                logger.warning(f"no checkpoint was written ({error.strerror or error}); the training goes on without")
        yield result


def value_of(result: EpochResult, config: StudyConfig) -> float:
    """Return the metric on val that the study maximises, from the result of an epoch."""
    value = result.val_accuracy if config.metric == "accuracy" else result.val_balanced_accuracy
    assert value is not None  # the search always validates
    return value
