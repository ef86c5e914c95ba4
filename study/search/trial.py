"""Run of one trial whose point is known: build, train, report each epoch, prune or finish."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import JsonValue

from data import counted
from models.cnn import CNN
from models.memory import OutOfMemoryError
from models.training.checkpoint import Checkpoints
from models.training.loop import AfterStep, EpochResult
from models.training.recipe import derive_seed
from study import attributes as names
from study.attributes import Reason
from study.config.space import Value
from study.search.best import keep_if_best
from study.search.open_study import OpenStudy
from study.search.standing import is_start
from study.signals import TimeIsUp
from study.storage.owners.leases import Lease
from study.storage.owners.processes import now
from study.training.start import TrainingRun, start_training, value_of
from study.training.workspace import Workspace, versions

CONFIRM_SECONDS = 5.0
"""Seconds for which a confirmed lease needs no new look: it is lost only after a minute without a heartbeat."""


@dataclass(frozen=True)
class TrialEpoch:
    """News that a running trial has finished an epoch."""

    number: int
    epoch: int
    value: float


@dataclass(frozen=True)
class Step:
    """Training step that was made just now."""

    stage: str  # "search", or the stage of a training after it
    trial: int
    epoch: int  # from 1
    step: int  # number in the epoch, from 1
    steps: int  # number of steps in an epoch


Watch = Callable[[Step], None]
"""Function that is called with every step in this process."""


@dataclass(frozen=True)
class TrialStart:
    """News of a trial that is about to be trained."""

    number: int
    network: str  # in words
    behind: int  # number of epochs that it has already


@dataclass(frozen=True)
class TrialEnd:
    """News of a finished trial."""

    number: int
    state: str  # COMPLETE or PRUNED; FAIL if the trial is not of this study, or its network above the limit
    value: float | None


TrialNews = TrialStart | TrialEpoch | TrialEnd


@dataclass(frozen=True, kw_only=True)
class HeldTrial:
    """Running trial that this worker has a lease on."""

    study: OpenStudy
    trial: optuna.Trial
    frozen: FrozenTrial  # as it was when the lease began, with all its parameters
    lease: Lease


Objective = Callable[[HeldTrial], Iterator[TrialNews]]
"""Function that runs a trial to its end, tells the study, and yields news.

It raises LeaseLostError, and writes nothing, if the trial has passed to another worker.
"""

Start = Callable[[Workspace, Mapping[str, Value], int, Checkpoints, AfterStep], TrainingRun]
"""Function that makes a training from a point of the space, a seed and a place for checkpoints."""


def objective(work: Workspace, start: Start | None = None, watch: Watch | None = None) -> Objective:
    """Make the objective of a study: train the network of the trial's point on the images of a workspace."""
    return lambda held: run_trial(held, work, start or _train, watch)


def _train(
    work: Workspace, params: Mapping[str, Value], seed: int, checkpoints: Checkpoints, after_step: AfterStep
) -> TrainingRun:
    return start_training(
        work,
        params,
        epochs=work.config.epochs,
        batch_size=work.config.batch_size,
        train_parts=("train",),
        seed=seed,
        checkpoints=checkpoints,
        after_step=after_step,
    )


def identity_of(study: OpenStudy, trial: FrozenTrial) -> str:
    """Return a hash of all that a training depends on: the study's contract, and the trial's number and point.

    Files of an older study of the same name (if its database was deleted, or another database uses the same runs/) have
    another identity; their weights may have been trained on images that are in the test part here.
    """
    content = {"contract": study.contract, "trial": trial.number, "params": trial.params}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checkpoint_name(number: int) -> str:
    """Return the name of the folder of a trial's checkpoints."""
    return f"trial-{number:04d}"


def run_trial(held: HeldTrial, work: Workspace, start: Start, watch: Watch | None) -> Iterator[TrialNews]:
    """Run a trial to its end, see Objective. Raises TimeIsUp if the hours for the search end before that.

    An interrupted trial goes on from its checkpoint, or is replayed: its epochs give the same numbers again. Nothing is
    reported twice, but the last report is judged anew, since the verdict may have been lost.
    """
    study, trial, frozen, lease = held.study, held.trial, held.frozen, held.lease
    config = study.config
    began = time.perf_counter()
    reported = dict(frozen.intermediate_values)
    last = max(reported, default=0)
    rungs = _rungs(study, trial.number)
    spared = not config.prune_starts and is_start(frozen)  # its values still count at the rungs when others are judged
    if last in rungs:
        study.storage.forget_rung(trial._trial_id, rungs.index(last))
    seed = derive_seed(config.seed, "trial", trial.number)
    checkpoints = work.checkpoints(checkpoint_name(trial.number), identity_of(study, frozen))
    reason: Reason | None = None
    micro_batch: int | None = None
    seen: list[tuple[float, EpochResult]] = []
    with checkpoints:
        try:
            yield TrialStart(trial.number, in_words(frozen.params), last)
            training = start(work, frozen.params, seed, checkpoints, _after_step(held, watch))
            study.storage.set_attributes(trial._trial_id, _description(held, training.model, work))
            for result in training.epochs:
                micro_batch = training.learner.micro_batch
                value = value_of(result, config)
                if result.diverged:
                    reason = Reason("diverged", f"diverged: the loss is not a number in epoch {result.epoch}")
                    break
                seen.append((value, result))
                lease.confirm(within=CONFIRM_SECONDS)
                _report(trial, value, result.epoch, reported)
                yield TrialEpoch(trial.number, result.epoch, value)
                # Between the rungs Hyperband keeps every trial; asking it there would read the whole history.
                judged = result.epoch in rungs and last <= result.epoch < config.epochs
                if judged and trial.should_prune() and not spared:
                    words = f"not among the best 1/{config.eta} of its bracket after {counted(result.epoch, 'epoch')}"
                    reason = Reason("not_promoted", words)
                    break
        except OutOfMemoryError as error:
            # It ends as PRUNED: TPE does not see trials that FAIL, and would propose similar ones again and again.
            reason = Reason("out_of_memory", str(error))
        lease.confirm()
        seconds = time.perf_counter() - began
        if seen and not reason:
            keep_if_best(study, work, trial.number, seen[-1][0], training.model)
            lease.confirm()
        end = _finish(held, seen, reason, micro_batch, seconds)
    yield end


def _after_step(held: HeldTrial, watch: Watch | None) -> AfterStep:
    """Make the function to call after each step: it tells `watch`, and stops at the deadline, which may move."""
    study, number = held.study, held.trial.number
    end = now() + study.search_seconds_left()

    def after_step(epoch: int, step: int, steps: int) -> None:
        nonlocal end
        if watch:
            watch(Step("search", number, epoch, step, steps))
        if now() >= end:
            end = now() + study.search_seconds_left()
            if now() >= end and study.has_trained():
                raise TimeIsUp

    return after_step


def in_words(params: Mapping[str, Value]) -> str:
    """Return a point in words: num_conv_blocks 4, learning_rate 0.003."""
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in params.items()
    )


def _report(trial: optuna.Trial, value: float, epoch: int, reported: dict[int, float]) -> None:
    """Report an epoch, unless it was reported before; note in an attribute if a replay gives another number."""
    if epoch not in reported:
        trial.report(value, epoch)
    elif not math.isclose(value, reported[epoch], abs_tol=1e-12):
        trial.set_user_attr(names.REPLAY_DIFFERS, f"epoch {epoch}: {reported[epoch]}, again {value}")


def _rungs(study: OpenStudy, number: int) -> tuple[int, ...]:
    """Return the epochs at which a trial is judged; none without Hyperband."""
    bracket = study.config.bracket_of(study.name, number)
    return () if bracket is None else study.config.brackets[bracket]


def _description(held: HeldTrial, model: CNN, work: Workspace) -> dict[str, JsonValue]:
    """Return the attributes of a trial that are known before it is trained."""
    study = held.study
    leaky = {names.LEAKY: True} if work.leaky else {}
    return {
        names.NUM_PARAMS: sum(one.numel() for one in model.parameters()),
        names.BRACKET: study.config.bracket_of(study.name, held.trial.number),
        names.VERSIONS: dict(versions(work.device)),
        **leaky,
    }


def _finish(
    held: HeldTrial,
    seen: list[tuple[float, EpochResult]],
    reason: Reason | None,
    micro_batch: int | None,
    seconds: float,
) -> TrialEnd:
    """Write the trial's attributes and close it."""
    # Epochs that a dead worker trained before the checkpoint count too.
    found: dict[str, JsonValue] = {names.SECONDS: round(max(seconds, sum(result.seconds for _, result in seen)), 3)}
    if seen:
        best, at = max(seen, key=lambda entry: entry[0])
        training = sum(result.seconds for _, result in seen)
        found |= {
            names.BEST_ACCURACY: best,
            names.BEST_EPOCH: at.epoch,
            names.TRAIN_ACCURACY: seen[-1][1].train_accuracy,
            names.EPOCH_SECONDS: round(training / len(seen), 4),
            names.IMAGES_PER_SECOND: round(sum(result.images for _, result in seen) / training, 1),
        }
    if micro_batch:
        found[names.MICRO_BATCH] = micro_batch
    if reason:
        found |= {names.WHY: reason.code, names.PRUNED_BECAUSE: reason.sentence}
    study, trial = held.study, held.trial
    study.storage.set_attributes(trial._trial_id, found)
    state = TrialState.PRUNED if reason else TrialState.COMPLETE
    told = study.study.tell(trial, None if reason else seen[-1][0], state=state, skip_if_finished=True)
    return TrialEnd(trial.number, told.state.name, seen[-1][0] if seen else None)


def close(study: OpenStudy, trial: FrozenTrial, state: TrialState, reason: Reason) -> TrialEnd:
    """Close a trial that will not be run (again): as PRUNED, with what it has reported, or as FAIL."""
    reported = trial.intermediate_values
    sentence = names.PRUNED_BECAUSE if state == TrialState.PRUNED else names.FAILED_BECAUSE
    found: dict[str, JsonValue] = {names.WHY: reason.code, sentence: reason.sentence}
    if reported and state == TrialState.PRUNED:
        best = max(reported, key=lambda step: (reported[step], -step))
        found |= {names.BEST_ACCURACY: reported[best], names.BEST_EPOCH: best}
    study.storage.set_attributes(trial._trial_id, found)
    study.study.tell(trial.number, state=state)
    return TrialEnd(trial.number, state.name, reported[max(reported)] if reported else None)
