"""Trainings after the search, from the start: the best trials again to choose among them, then the final ones.

Each result is kept in runs/<name>/final, so that an interrupted final stage can go on.
"""

import logging
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

import numpy as np
from optuna.trial import FrozenTrial
from pydantic import BaseModel

from models import files
from models.architecture import Architecture
from models.bundle import folder as bundle
from models.bundle.card import Confirmation
from models.cnn import CNN
from models.memory import OutOfMemoryError
from models.training.checkpoint import Checkpoints
from models.training.course import Move
from models.training.loop import EpochResult
from models.training.recipe import derive_seed
from study import StudyError
from study.attributes import CONFIRMED, EPOCH_SECONDS, FINAL_STAGE, number
from study.budget.stages import (
    CONFIRM_SEEDS,
    MOST_CONFIRMED,
    Plan,
    after_in_words,
    extend_final_stage,
    shorten_final_stage,
)
from study.config.schema import StudyConfig
from study.config.space import full_point, network_config
from study.result.pace import FINAL_SHARE, FinalStage, Lap, OutOfTimeError, Pace, Pacer
from study.search.open_study import OpenStudy
from study.search.standing import ranked
from study.search.trial import Step, Watch, identity_of
from study.storage.address import storage_option
from study.storage.owners.locks import alone
from study.training.start import TrainingRun, start_training, value_of
from study.training.workspace import Workspace

logger = logging.getLogger(__name__)

CONFIRMATION = "confirmation"
"""Name of the stage in which the best trials are trained anew."""


@dataclass(frozen=True)
class FinalEpoch:
    """News of an epoch of a training after the search."""

    stage: str  # the stage of the Job, such as "final training"
    trial: int
    place: int  # number of the training within the stage, from 0
    trainings: int  # number of trainings in the stage
    epochs: int  # number of epochs of this training, as planned by now
    result: EpochResult
    kind: str = "shipped"  # kind of the Job
    seed: int = 0

    @property
    def mark(self) -> tuple[str, int, int]:
        """What tells this epoch from others, however often a process that died trains it again."""
        return self.stage, self.place, self.result.epoch


@dataclass(frozen=True)
class Activity:
    """News of other work that takes a while."""

    what: str


@dataclass(frozen=True)
class TrainedNetwork:
    """Trained network as it is kept in runs/<name>/final."""

    model: CNN
    digest: str  # SHA-256 of the weights' file
    epochs: list[EpochResult]


@dataclass(frozen=True)
class Job:
    """One training that is to be done."""

    stage: str
    trial: FrozenTrial
    seed: int  # from 0
    place: int
    trainings: int
    fresh: bool  # whether to ignore what was kept
    watch: Watch | None = None
    beside_others: bool = False  # perhaps on one device, where a lack of memory says nothing about the network
    kind: str = "confirmation"  # or "shipped", "seed", "leaky", or the name of a rival
    epochs: int | None = None  # number of epochs; None: that of the stage
    pace: Pace | None = None  # None: no limit of time
    parts: tuple[str, ...] | None = None  # parts that it learns from; None: those of the configuration

    @property
    def name(self) -> str:
        """Name of the training's files, without their endings."""
        what = "confirm" if self.stage == CONFIRMATION else "trial" if self.parts is None else "all"
        return f"{what}-{self.trial.number:04d}-seed-{self.seed}"


def fixed_stage(study: OpenStudy, work: Workspace, *, again: bool, at_once: int = 1) -> Workspace:
    """Return the workspace with the settings of the final stage, which are fixed once for these trials and hours.

    `at_once`: number of workers among which its trainings are divided.

    If they are not fixed yet, the time left decides, unless `again`: a model is trained anew, however long it takes.
    Without hours they are those of the configuration.
    """
    planned, hours = study.planned(), study.hours()
    if planned is None or hours is None:
        return work
    count = len(study.own_trials())
    stage = study.attribute(FINAL_STAGE, FinalStage)
    if stage is None or (stage.trials, stage.hours) != (count, hours):
        if again:
            return work
        left = _pace(study, planned, hours, decides=False).left()
        config = shorten_final_stage(
            work.config, _epoch_seconds(study, planned.epoch, work.config.confirm), left, at_once
        )
        autos = study.left_to_plan()
        most = max(config.confirm, MOST_CONFIRMED) if "confirm" in autos else config.confirm
        config = extend_final_stage(config, autos, _epoch_seconds(study, planned.epoch, most), left, at_once)
        fixed = {**config.model_dump(mode="json"), "leaky_score": True, "trials": count, "hours": hours}
        stage = FinalStage.model_validate(fixed)
        if (now := after_in_words(config)) != (before := after_in_words(work.config)):
            logger.warning(f"the hours hold another final stage than was planned: {now} (planned: {before})")
        study.remember(FINAL_STAGE, stage.model_dump(mode="json"))
    decided = stage.model_dump(mode="json", exclude={"trials", "hours", "scratch"})
    decided["leaky_score"] = stage.leaky_score and work.config.leaky_score
    return replace(work, config=work.config.with_fields(decided))


def pace_of(study: OpenStudy, *, again: bool, decides: bool = True) -> Pace | None:
    """Return the pace that keeps the final stage within its hours; None without hours, or if all is done again."""
    planned, hours = study.planned(), study.hours()
    return None if again or planned is None or hours is None else _pace(study, planned, hours, decides=decides)


def _pace(study: OpenStudy, planned: Plan, hours: float, *, decides: bool) -> Pace:
    best = ranked(study)[:MOST_CONFIRMED] if study.has_trained() else []
    known = any(full_point(study.config.space, one.params)["backbone"] != "none" for one in best)
    return Pace(study, planned, hours, decides=decides, known=known)


def _epoch_seconds(study: OpenStudy, planned: float, best: int) -> float:
    """Return the seconds of a final epoch: measured on the `best` best trials, else as `planned`."""
    seconds = [number(trial.user_attrs, EPOCH_SECONDS) for trial in ranked(study)[:best]]
    measured = [one for one in seconds if one]
    return FINAL_SHARE * max(measured) if measured else planned


def chosen(
    study: OpenStudy, work: Workspace, *, fresh: bool, watch: Watch | None, pace: Pace | None = None
) -> Generator[FinalEpoch, None, list[FrozenTrial]]:
    """Return the winner alone, or the `confirm` best trials, sorted by their mean on val in trainings with new seeds.

    The confirmation is done whole, or left out if the hours are too short for it.
    """
    best = ranked(study)[: work.config.confirm]
    if len(best) < 2:
        return best
    reached: dict[int, list[float]] = {}
    try:
        for job in confirm_jobs(best, fresh=fresh, watch=watch, pace=pace):
            reached.setdefault(job.trial.number, []).append((yield from confirm(study, work, job)))
    except OutOfTimeError as error:
        logger.warning(str(error))
        return best[:1]
    means = {number: float(np.mean(values)) for number, values in reached.items()}
    best.sort(key=lambda trial: -means[trial.number])  # among equals, the better selection score stays first
    rows = [Confirmation(trial=one.number, values=reached[one.number], mean=means[one.number]) for one in best]
    study.remember(CONFIRMED, [row.model_dump() for row in rows])
    return best


def confirm_jobs(
    best: list[FrozenTrial],
    *,
    fresh: bool = False,
    watch: Watch | None = None,
    beside_others: bool = False,
    pace: Pace | None = None,
) -> list[Job]:
    """Return the trainings that choose among these trials: each trial with CONFIRM_SEEDS new seeds."""
    count = len(best) * CONFIRM_SEEDS
    pairs = [(trial, seed) for trial in best for seed in range(CONFIRM_SEEDS)]
    return [
        Job(CONFIRMATION, trial, seed, place, count, fresh, watch, beside_others, pace=pace)
        for place, (trial, seed) in enumerate(pairs)
    ]


def confirmation_scores(study: OpenStudy) -> list[Confirmation] | None:
    """Return the scores of the best trials when they were trained anew, best first; None if that was not done."""
    return study.attribute(CONFIRMED, list[Confirmation])


def alone_at(study: OpenStudy, work: Workspace, job: Job) -> AbstractContextManager[Callable[[], None]]:
    """Hold the lock on a training (see study.storage.owners.locks). Raises TakenError if another process holds it.

    A job that is not `beside_others` waits for that process instead, and then finds its result.
    """
    lock = work.folder / "final" / f"{job.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    return alone(
        study.storage, study.folder, os.path.relpath(lock, study.folder), _taken if job.beside_others else None
    )


class TakenError(Exception):
    """Error that another process does this training."""


def _taken() -> None:
    raise TakenError


def _pass() -> None:
    """Do nothing: a process without helpers goes on even if its lock was lost with the server."""


def confirm(study: OpenStudy, work: Workspace, job: Job) -> Generator[FinalEpoch, None, float]:
    """Train a trial anew; return the metric on val after the last epoch, or 0 if it diverged or ran out of memory."""
    with alone_at(study, work, job) as still:
        return (yield from _confirm(study, work, job, still if job.beside_others else _pass))


def _confirm(
    study: OpenStudy, work: Workspace, job: Job, still: Callable[[], None]
) -> Generator[FinalEpoch, None, float]:
    identity = _identity(study, work, job)
    record = work.folder / "final" / f"{job.name}.json"
    if not job.fresh and (kept := _read(record, identity)) and kept.value is not None:
        return kept.value
    with _checkpoints(work, job, job.name, identity) as checkpoints:
        try:
            _, epochs = yield from _run(work, job, checkpoints, ("train",))
            value = 0.0 if epochs[-1].diverged else value_of(epochs[-1], work.config)
        except OutOfMemoryError as error:
            if job.beside_others:
                raise StudyError(f"trial {job.trial.number}: {error}") from error
            value = 0.0
        still()
        _write(record, Record(identity=identity, value=value))
    return value


def train(study: OpenStudy, work: Workspace, job: Job) -> Generator[FinalEpoch, None, TrainedNetwork]:
    """Do one final training to its last epoch. Raises StudyError if it diverges or does not fit the device."""
    with alone_at(study, work, job) as still:
        return (yield from _train(study, work, job, still if job.beside_others else _pass))


def _train(
    study: OpenStudy, work: Workspace, job: Job, still: Callable[[], None]
) -> Generator[FinalEpoch, None, TrainedNetwork]:
    identity = _identity(study, work, job)
    weights = work.folder / "final" / f"{job.name}.safetensors"
    record = weights.with_suffix(".json")
    if not job.fresh and (kept := _kept(weights, record, identity, architecture(work, job.trial))):
        return kept
    before = None if job.fresh else _read(record, identity)
    if before and before.failed:
        raise StudyError(before.failed)
    pacer, moves = _pacer(work, job, record, identity), before.moves if before else []
    parts = job.parts or (("train", "val") if work.config.final_data == "train+val" else ("train",))
    what = f"the final training of trial {job.trial.number}"
    advice = (
        f"(ship another trial: study retrain {quote(work.folder.name)} --trial N{storage_option(study.storage.url)}; "
        f"or search on: study resume {quote(work.folder.name)} --trials MORE{storage_option(study.storage.url)})"
    )
    with _checkpoints(work, job, f"final-{job.name}", identity) as checkpoints:
        try:
            training, epochs = yield from _run(work, job, checkpoints, parts, pacer, moves)
        except OutOfMemoryError as error:
            raise StudyError(f"{what}: {error} {advice}") from error
        still()
        if epochs[-1].diverged:
            failed = f"{what} diverged in epoch {epochs[-1].epoch} {advice}"
            _write(record, Record(identity=identity, failed=failed))
            raise StudyError(failed)
        digest = bundle.save_weights(weights, training.model)
        done = Record(identity=identity, weights_sha256=digest, epochs=epochs, moves=training.course.moves[1:])
        _write(record, done)
    return TrainedNetwork(training.model, digest, epochs)


def _checkpoints(work: Workspace, job: Job, name: str, identity: str) -> Checkpoints:
    """Return the checkpoints of a training; those of an earlier run are removed if the job is `fresh`."""
    checkpoints = work.checkpoints(name, identity)
    if job.fresh:
        checkpoints.remove()
    return checkpoints


def _run(
    work: Workspace,
    job: Job,
    checkpoints: Checkpoints,
    parts: tuple[str, ...],
    pacer: Pacer | None = None,
    moves: Sequence[Move] = (),
) -> Generator[FinalEpoch, None, tuple[TrainingRun, list[EpochResult]]]:
    """Train to the last epoch, or to one that diverges; return the training and its epochs.

    Raises OutOfTimeError if the hours are too short for a training that only compares or confirms.
    """
    epochs: list[EpochResult] = []
    try:
        if pacer is None:
            _hold(work, job, 0, _usual_seconds(job))
        training = _training(work, job, checkpoints, parts, pacer, moves)
        for result in training.epochs:
            epochs.append(result)
            length = training.course.end // training.steps if pacer else _length(work.config, job)
            yield _news(job, length, result)
            if result.diverged:
                break
            if pacer is None:
                _hold_after(work, job, epochs)
            elif result.epoch >= training.behind:
                pacer.after_epoch(result.epoch, result.seconds)
    except OutOfTimeError:
        checkpoints.remove()
        raise
    return training, epochs


def _pacer(work: Workspace, job: Job, record: Path, identity: str) -> Pacer | None:
    """Return the pacer of a shipped training; None for others, without hours, or if the schedule is "plateau"."""
    point = full_point(work.config.space, job.trial.params)
    if job.pace is None or job.kind != "shipped" or point["schedule"] == "plateau":
        return None

    def write(moves: list[Move]) -> None:
        _write(record, Record(identity=identity, moves=moves))

    return Pacer(job.pace, _length(work.config, job), write)


def _hold(work: Workspace, job: Job, done: int, seconds: float) -> None:
    """Raise OutOfTimeError if a training that only compares or confirms would end too late."""
    if job.pace is None or job.kind == "shipped":
        return
    job.pace.look()
    job.pace.hold(Lap(job.kind, job.seed, job.trial.number, done, _length(work.config, job), _after(job), seconds))


def _hold_after(work: Workspace, job: Job, epochs: list[EpochResult]) -> None:
    """Raise OutOfTimeError as `_hold` does, judged by the seconds of the last epoch, or a confirmation's fastest one.

    The first epoch of a confirmation does not count, because trees may be fitted meanwhile.
    """
    counting = [one.seconds for one in epochs if job.stage != CONFIRMATION or one.epoch > 1]
    if counting:
        _hold(work, job, epochs[-1].epoch, min(counting) if job.stage == CONFIRMATION else counting[-1])


def _after(one: Job | FinalEpoch) -> int:
    """Return how many trainings of the confirmation follow; 0 for other trainings."""
    return one.trainings - one.place - 1 if one.kind == "confirmation" else 0


def lap_of(news: FinalEpoch) -> Lap:
    """Convert news of an epoch to the lap that the pace reads."""
    result = news.result
    return Lap(news.kind, news.seed, news.trial, result.epoch, news.epochs, _after(news), result.seconds)


def _usual_seconds(job: Job) -> float:
    """Estimate the seconds per epoch from those in the search, and from how busy the machine is now."""
    measured = number(job.trial.user_attrs, EPOCH_SECONDS) or 0.0
    share = 1.0 if job.stage == CONFIRMATION else FINAL_SHARE
    return measured * share * (job.pace.slower() if job.pace else 1.0)


def _news(job: Job, epochs: int, result: EpochResult) -> FinalEpoch:
    return FinalEpoch(job.stage, job.trial.number, job.place, job.trainings, epochs, result, job.kind, job.seed)


def _length(config: StudyConfig, job: Job) -> int:
    """Return the number of epochs of a training after the search."""
    return job.epochs or (config.confirm_epochs if job.stage == CONFIRMATION else None) or config.final_epochs


def _identity(study: OpenStudy, work: Workspace, job: Job) -> str:
    """Return a text that identifies a training, with its number of epochs if the study's settings say another one.

    Moves of its end while it runs are in its record instead.
    """
    whole = identity_of(study, job.trial)
    epochs = _length(work.config, job)
    return whole if epochs == _length(study.config, replace(job, epochs=None)) else f"{whole} {epochs} epochs"


def _training(
    work: Workspace,
    job: Job,
    checkpoints: Checkpoints,
    parts: tuple[str, ...],
    pacer: Pacer | None = None,
    moves: Sequence[Move] = (),
) -> TrainingRun:
    def after_step(epoch: int, step: int, steps: int) -> None:
        if job.watch:
            job.watch(Step(job.stage, job.trial.number, epoch, step, steps))
        if pacer and epoch == 1:
            pacer.after_step(step, steps)

    kind = "confirm" if job.stage == CONFIRMATION else "final"
    training = start_training(
        work,
        job.trial.params,
        epochs=_length(work.config, job),
        batch_size=work.config.final_batch_size,
        train_parts=parts,
        seed=derive_seed(work.config.seed, kind, job.trial.number, job.seed),
        checkpoints=checkpoints,
        after_step=after_step,
        moves=moves,
    )
    if pacer:
        pacer.training = training
    return training


def architecture(work: Workspace, trial: FrozenTrial) -> Architecture:
    """Return the architecture of a trial's network."""
    point = full_point(work.config.space, trial.params)
    return network_config(point, len(work.dataset.classes), work.config.image_size)


class Record(BaseModel):
    """Record of a training, written to disk."""

    identity: str
    value: float | None = None  # metric on val, of a confirmation
    weights_sha256: str | None = None
    failed: str | None = None  # why a final training failed, and would fail again
    epochs: list[EpochResult] = []
    moves: list[Move] = []  # moves of a final training's end; written before they are acted on


def _kept(weights: Path, record: Path, identity: str, network: Architecture) -> TrainedNetwork | None:
    """Load a final training that an earlier run completed; None if there is none, or its files are damaged."""
    kept = _read(record, identity)
    try:
        if kept is None or kept.weights_sha256 is None or files.file_hash(weights) != kept.weights_sha256:
            return None
    except OSError:
        return None
    return TrainedNetwork(bundle.load_weights(weights, network), kept.weights_sha256, kept.epochs)


def _read(record: Path, identity: str) -> Record | None:
    """Read the record of a training; None if it is missing, damaged, or of another training."""
    try:
        kept = Record.model_validate_json(record.read_bytes())
        return kept if kept.identity == identity else None
    except (OSError, ValueError):
        return None


def _write(record: Path, done: Record) -> None:
    files.write_json(record, done.model_dump(mode="json"))
