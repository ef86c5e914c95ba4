"""One trial: suggest, build, train, report each epoch, prune or finish."""

import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from data.batches import Batch, Pixels, eval_batches, to_device, train_batches
from data.datasets import ImageSet
from data.splits import Parts
from models.checkpoint import Checkpoints
from models.cnn import CNN, CNNConfig, build_cnn, count_parameters, prepare
from models.memory import OutOfMemoryError, in_words, is_out_of_memory, total_bytes, training_bytes
from models.training import EpochResult, Learner, TrainConfig, batch_for, derive_seed, fit, make_learner
from study.config import StudyConfig, bracket_of, brackets
from study.contract import CONTRACT
from study.leases import Lease
from study.space import cnn_config, full_point, train_config
from study.storage import backend

EVAL_BATCH = 256

CONFIRM_SECONDS = 5.0
"""A lease that was good so long ago is still good: it takes a minute without a heartbeat to lose it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """What every training of a study needs, made once per process."""

    config: StudyConfig
    dataset: ImageSet
    parts: Parts
    pixels: Pixels
    device: torch.device
    folder: Path  # runs/<study name>

    def index(self, *names: str) -> Tensor:
        """Image indices [n] of the named parts together, on the device."""
        return torch.cat([torch.from_numpy(getattr(self.parts, name)) for name in names]).to(self.device)

    @property
    def held_out(self) -> str:
        """The part that the final score comes from: the leaky protocol has no test."""
        return "val" if self.config.protocol == "random" else "test"

    @property
    def leaky(self) -> bool:
        """Whether every number is marked: copies of one source lie on both sides."""
        return self.config.protocol == "random"

    def checkpoints(self, training: str, identity: str) -> Checkpoints:
        """Where the checkpoints of a training lie."""
        return Checkpoints(self.checkpoint_folder / training, identity, self.config.checkpoint_seconds)

    @property
    def checkpoint_folder(self) -> Path:
        """Where the checkpoints of all trainings lie, in a folder each."""
        return self.folder / "checkpoints"

    def eval_batches(self, part: str) -> Iterator[Batch]:
        """The images of a part, once and in order."""
        return eval_batches(self.pixels, self.index(part), EVAL_BATCH)


def make_workspace(
    config: StudyConfig, dataset: ImageSet, parts: Parts, device: torch.device, folder: Path
) -> Workspace:
    """Move the images to the device."""
    pixels = to_device(dataset.images, dataset.labels, device)
    return Workspace(config=config, dataset=dataset, parts=parts, pixels=pixels, device=device, folder=folder)


@dataclass(frozen=True)
class Training:
    """A network about to be trained, or to be trained on: take epochs from `epochs`, first those it has behind it."""

    model: CNN
    learner: Learner
    epochs: Iterator[EpochResult]


def start_training(
    work: Workspace,
    params: dict[str, Any],
    *,
    epochs: int,
    batch_size: int | Literal["auto"],
    train_parts: tuple[str, ...],
    seed: int,
    checkpoints: Checkpoints,
) -> Training:
    """Fresh weights for a point of the space, and the loop that will train them.

    Raises OutOfMemoryError, here or in an epoch, when the device does not hold the network. Validation runs each epoch
    unless val is trained on. The epochs of a checkpoint that a dead worker left are not trained again, but handed out
    like new ones.
    """
    point = full_point(work.config.space, params)
    architecture = cnn_config(point, len(work.dataset.classes), work.config.image_size)
    _refuse_what_cannot_fit(architecture, work.device)
    torch.manual_seed(derive_seed(seed, "weights"))
    try:
        model = prepare(build_cnn(architecture), work.device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError("out of memory: the device does not hold the network") from None
    index = work.index(*train_parts)
    augment = work.config.augment.at(point["augment_strength"])
    batch = min(len(index), batch_for(len(index)) if batch_size == "auto" else batch_size)

    def train() -> Iterator[Batch]:
        return train_batches(work.pixels, index, batch, augment)

    def val() -> Iterator[Batch]:
        return work.eval_batches("val")

    recipe: TrainConfig = train_config(point, epochs, batch, work.config.rate_batch_size)
    steps = len(index) // batch
    checked: Callable[[], Iterator[Batch]] | None = None if "val" in train_parts else val
    learner = make_learner(model, recipe)
    behind = checkpoints.restore(learner)
    ahead = fit(learner, recipe, train, steps, checked, seed, len(behind))
    return Training(model, learner, _saved(learner, checkpoints, behind, ahead, epochs))


def _refuse_what_cannot_fit(architecture: CNNConfig, device: torch.device) -> None:
    """Before the kernel ends this process for asking: Linux grants memory that it does not have."""
    number_bytes = 2 if device.type == "cuda" else 4  # as autocast has it
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
    epochs: int,
) -> Iterator[EpochResult]:
    """The epochs behind, then each one ahead once its checkpoint is written (the last needs none)."""
    yield from behind
    results = list(behind)
    for result in ahead:
        results.append(result)
        if result.epoch < epochs and not result.diverged:
            try:
                checkpoints.after_epoch(learner, results)
            except OSError as error:  # a full disk costs a replay at most, so it is no reason to stop training
                logger.warning(f"no checkpoint was written ({error.strerror or error}); the training goes on without")
        yield result


def identity_of(study: optuna.Study, trial: FrozenTrial) -> str:
    """What a training is a function of: the study's contract and the trial's point.

    Files of an older study of the same name (its database deleted, or another database beside the same runs/) have
    another identity: their weights may have been trained on what is test here.
    """
    content = {"contract": study.user_attrs.get(CONTRACT), "trial": trial.number, "params": trial.params}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checkpoint_name(number: int) -> str:
    """The folder of a trial's checkpoints."""
    return f"trial-{number:04d}"


@dataclass(frozen=True)
class TrialEpoch:
    """News of a running trial."""

    number: int
    epoch: int
    value: float


@dataclass(frozen=True)
class TrialEnd:
    """News of a finished trial."""

    number: int
    state: str  # COMPLETE or PRUNED; FAIL for what was none of this study
    value: float | None


def run_trial(
    study: optuna.Study, trial: optuna.Trial, frozen: FrozenTrial, work: Workspace, lease: Lease
) -> Iterator[TrialEpoch | TrialEnd]:
    """Run a trial to its end and tell the study; yields after each epoch.

    Raises LeaseLostError instead of writing anything when the trial is another worker's by now.
    A trial that was interrupted goes on from its checkpoint, or is replayed: its epochs give the same numbers again,
    what was reported is not reported twice, and its last report is judged anew, since the verdict may have been lost.
    """
    config = work.config
    start = time.perf_counter()
    reported = dict(frozen.intermediate_values)
    last = max(reported, default=0)
    rungs = _rungs(study.study_name, trial.number, config)
    if last in rungs:
        backend(study).forget_rung(trial._trial_id, rungs.index(last))
    seed = derive_seed(config.seed, "trial", trial.number)
    checkpoints = work.checkpoints(checkpoint_name(trial.number), identity_of(study, frozen))
    reason: str | None = None
    micro_batch: int | None = None
    seen: list[tuple[float, EpochResult]] = []
    with checkpoints:
        try:
            training = start_training(
                work,
                frozen.params,
                epochs=config.epochs,
                batch_size=config.batch_size,
                train_parts=("train",),
                seed=seed,
                checkpoints=checkpoints,
            )
            description = _description(frozen, training.model, study.study_name, work)
            backend(study).set_attributes(trial._trial_id, description)
            for result in training.epochs:
                micro_batch = training.learner.micro_batch
                value = value_of(result, config)
                if result.diverged:
                    reason = f"diverged: the loss is not a number in epoch {result.epoch}"
                    break
                seen.append((value, result))
                lease.confirm(within=CONFIRM_SECONDS)
                _report(trial, value, result.epoch, reported)
                yield TrialEpoch(trial.number, result.epoch, value)
                # Between the rungs Hyperband keeps every trial; asking it there costs a look at the whole history.
                if result.epoch in rungs and last <= result.epoch < config.epochs and trial.should_prune():
                    reason = f"not among the best 1/{config.eta} of its bracket after {result.epoch} epochs"
                    break
        except OutOfMemoryError as error:
            # FAIL would be invisible to TPE, which would propose the like of it again and again.
            reason = str(error)
        lease.confirm()
        end = _finish(study, trial, seen, reason, micro_batch, time.perf_counter() - start)
    yield end


def _report(trial: optuna.Trial, value: float, epoch: int, reported: dict[int, float]) -> None:
    """Report an epoch, unless it was reported before; a replay that gives another number is written down."""
    if epoch not in reported:
        trial.report(value, epoch)
    elif not math.isclose(value, reported[epoch], abs_tol=1e-12):
        trial.set_user_attr("replay_differs", f"epoch {epoch}: {reported[epoch]}, again {value}")


def _rungs(study_name: str, number: int, config: StudyConfig) -> tuple[int, ...]:
    """The epochs at which a trial is judged; none without Hyperband."""
    bracket = bracket_of(study_name, number, config)
    return () if bracket is None else brackets(config.min_epochs, config.epochs, config.eta)[bracket]


def _description(trial: FrozenTrial, model: CNN, study_name: str, work: Workspace) -> dict[str, Any]:
    """What is known of a trial before it is trained."""
    leaky = {"leaky": True} if work.config.protocol == "random" else {}
    return {
        "num_params": count_parameters(model),
        "bracket": bracket_of(study_name, trial.number, work.config),
        "versions": versions(work.device),
        **leaky,
    }


def versions(device: torch.device) -> dict[str, str | int]:
    """What the exact numbers of a training depend on besides its configuration."""
    return {
        "archstudy": version("archstudy"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "optuna": optuna.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def value_of(result: EpochResult, config: StudyConfig) -> float:
    """What the study maximises, after an epoch."""
    value = result.val_accuracy if config.metric == "accuracy" else result.val_balanced_accuracy
    assert value is not None  # the search always validates
    return value


def _finish(
    study: optuna.Study,
    trial: optuna.Trial,
    seen: list[tuple[float, EpochResult]],
    reason: str | None,
    micro_batch: int | None,
    seconds: float,
) -> TrialEnd:
    """Write the trial's attributes and close it."""
    # What a dead worker trained before the checkpoint counts too.
    attributes: dict[str, Any] = {"seconds": round(max(seconds, sum(result.seconds for _, result in seen)), 3)}
    if seen:
        best, at = max(seen, key=lambda entry: entry[0])
        training = sum(result.seconds for _, result in seen)
        attributes |= {
            "best_accuracy": best,
            "best_epoch": at.epoch,
            "train_accuracy": seen[-1][1].train_accuracy,
            "epoch_seconds": round(training / len(seen), 4),
            "images_per_second": round(sum(result.images for _, result in seen) / training, 1),
        }
    if micro_batch:
        attributes["micro_batch"] = micro_batch  # the batch did not fit: its gradient was added up from parts
    if reason:
        attributes["pruned_because"] = reason
    backend(study).set_attributes(trial._trial_id, attributes)
    value = None if reason else seen[-1][0]
    told = study.tell(trial, value, state=TrialState.PRUNED if reason else TrialState.COMPLETE, skip_if_finished=True)
    return TrialEnd(trial.number, told.state.name, seen[-1][0] if seen else None)


def close(study: optuna.Study, trial: FrozenTrial, state: TrialState, reason: str) -> TrialEnd:
    """Close a trial that will not be run (again), as PRUNED with what it has reported, or as FAIL."""
    reported = trial.intermediate_values
    attributes: dict[str, Any] = {"pruned_because" if state == TrialState.PRUNED else "failed_because": reason}
    if reported and state == TrialState.PRUNED:
        best = max(reported, key=lambda step: (reported[step], -step))
        attributes |= {"best_accuracy": reported[best], "best_epoch": best}
    backend(study).set_attributes(trial._trial_id, attributes)
    study.tell(trial.number, state=state)
    return TrialEnd(trial.number, state.name, reported[max(reported)] if reported else None)
