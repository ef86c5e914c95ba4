"""One trial: suggest, build, train, report each epoch, prune or finish."""

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from models.cnn import CNN, count_parameters
from models.memory import OutOfMemoryError
from models.training import EpochResult, derive_seed
from study.config.schema import StudyConfig
from study.search.contract import CONTRACT
from study.storage.door import backend
from study.storage.leases import Lease
from study.training.start import start_training, value_of
from study.training.workspace import Workspace, versions

CONFIRM_SECONDS = 5.0
"""A lease that was good so long ago is still good: it takes a minute without a heartbeat to lose it."""


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
    bracket = config.bracket_of(study_name, number)
    return () if bracket is None else config.brackets[bracket]


def _description(trial: FrozenTrial, model: CNN, study_name: str, work: Workspace) -> dict[str, Any]:
    """What is known of a trial before it is trained."""
    leaky = {"leaky": True} if work.config.protocol == "random" else {}
    return {
        "num_params": count_parameters(model),
        "bracket": work.config.bracket_of(study_name, trial.number),
        "versions": versions(work.device),
        **leaky,
    }


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
