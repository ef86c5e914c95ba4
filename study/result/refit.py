"""Trainings after the search, from fresh weights: the best trials once more to choose among them, then the final ones.

Each is kept in runs/<name>/final once it is done, so that an interrupted final stage goes on.
"""

import logging
import math
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
from models.bundle.card import Confirmed
from models.cnn import CNN
from models.memory import OutOfMemoryError
from models.training.checkpoint import Checkpoints
from models.training.course import Move
from models.training.loop import EpochResult
from models.training.recipe import derive_seed
from study import StudyError
from study.attributes import CONFIRMED, EPOCH_SECONDS, FINAL_STAGE, number
from study.budget.plan import CONFIRM_SEEDS, MOST_CONFIRMED, Planned, extended, shortened
from study.config.schema import StudyConfig
from study.config.space import full_point, network_config
from study.result.pace import FINAL_SHARE, FinalStage, Lap, OutOfTimeError, Pace, Pacer
from study.search.open_study import OpenStudy
from study.search.standing import ranked
from study.search.trial import Step, Watch, identity_of
from study.storage.locks import alone
from study.training.start import Training, start_training, value_of
from study.training.workspace import Workspace

logger = logging.getLogger(__name__)

CONFIRMATION = "confirmation"
"""The stage in which the best trials are trained anew."""


@dataclass(frozen=True)
class FinalEpoch:
    """News of a training after the search."""

    stage: str  # "confirmation" or "final training"
    trial: int
    place: int  # which of the stage's trainings, from 0
    trainings: int  # of the stage
    epochs: int  # of each
    result: EpochResult
    kind: str = "shipped"  # see Job
    seed: int = 0


@dataclass(frozen=True)
class Doing:
    """News of something else that takes a while."""

    what: str


@dataclass(frozen=True)
class Trained:
    """A network as it is kept in runs/<name>/final."""

    model: CNN
    digest: str  # SHA-256 of the weights' file
    epochs: list[EpochResult]


@dataclass(frozen=True)
class Job:
    """One training to be done."""

    stage: str
    trial: FrozenTrial
    seed: int  # from 0
    place: int
    trainings: int
    fresh: bool  # whether what was kept is of no use
    watch: Watch | None = None
    beside_others: bool = False  # on the same device, perhaps: then a lack of memory says nothing of the network
    kind: str = "confirmation"  # or "shipped", "seed", "leaky", or the name of a rival
    epochs: int | None = None  # where they are not what the stage says
    pace: Pace | None = None  # keeps it within the hours
    parts: tuple[str, ...] | None = None  # that it learns from, where they are not what the configuration says

    @property
    def name(self) -> str:
        """Of its files."""
        what = "confirm" if self.stage == CONFIRMATION else "trial" if self.parts is None else "all"
        return f"{what}-{self.trial.number:04d}-seed-{self.seed}"


def fixed_stage(study: OpenStudy, work: Workspace, *, again: bool) -> Workspace:
    """The workspace with the final stage as it was fixed for these trials and hours, or is now by the time left.

    Without hours it is what the configuration says; `again`: a model is trained anew, whatever it takes.
    """
    planned, hours = study.planned(), study.hours()
    if planned is None or hours is None:
        return work
    count = len(study.own_trials())
    stage: FinalStage | None = study.attribute(FINAL_STAGE, FinalStage)
    if stage is None or (stage.trials, stage.hours) != (count, hours):
        if again:
            return work
        left = _pace(study, planned, hours, decides=False).left()
        config = shortened(work.config, _epoch_seconds(study, planned.epoch, work.config.confirm), left)
        if config == work.config:
            autos = study.left_to_plan()
            most = max(config.confirm, MOST_CONFIRMED) if "confirm" in autos else config.confirm
            config = extended(config, autos, _epoch_seconds(study, planned.epoch, most), left)
        stage = FinalStage.model_validate({**config.model_dump(mode="json"), "trials": count, "hours": hours})
        study.remember(FINAL_STAGE, stage.model_dump(mode="json"))
    decided = stage.model_dump(mode="json", exclude={"trials", "hours", "scratch"})
    decided["leaky_score"] = stage.leaky_score and work.config.leaky_score
    return replace(work, config=StudyConfig.model_validate({**work.config.model_dump(mode="json"), **decided}))


def pace_of(study: OpenStudy, *, again: bool, decides: bool = True) -> Pace | None:
    """What keeps the stage after the search within its hours; None where there are none, or it is all done again."""
    planned, hours = study.planned(), study.hours()
    return None if again or planned is None or hours is None else _pace(study, planned, hours, decides=decides)


def _pace(study: OpenStudy, planned: Planned, hours: float, *, decides: bool) -> Pace:
    best = ranked(study)[:MOST_CONFIRMED] if study.has_trained() else []
    known = any(one.params.get("backbone", "none") != "none" for one in best)
    return Pace(study, planned, hours, decides=decides, known=known)


def _epoch_seconds(study: OpenStudy, planned: float, best: int) -> float:
    """Of the final training: as so many of the best trials were measured, or else as it was planned."""
    seconds = [number(trial.user_attrs, EPOCH_SECONDS) for trial in ranked(study)[:best]]
    measured = [one for one in seconds if one]
    return FINAL_SHARE * max(measured) if measured else planned


def chosen(
    study: OpenStudy, work: Workspace, *, fresh: bool, watch: Watch | None, pace: Pace | None = None
) -> Generator[FinalEpoch, None, list[FrozenTrial]]:
    """The winner; or with `confirm` the best so many trials, by what they reach on val with two new seeds each.

    The confirmation is whole, or left out where the hours do not hold it.
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
    best.sort(key=lambda trial: (-means[trial.number], trial.number))
    rows = [Confirmed(trial=one.number, values=reached[one.number], mean=means[one.number]) for one in best]
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
    """The trainings that choose among these trials: each with so many new seeds."""
    count = len(best) * CONFIRM_SEEDS
    pairs = [(trial, seed) for trial in best for seed in range(CONFIRM_SEEDS)]
    return [
        Job(CONFIRMATION, trial, seed, place, count, fresh, watch, beside_others, pace=pace)
        for place, (trial, seed) in enumerate(pairs)
    ]


def confirmed(study: OpenStudy) -> list[Confirmed] | None:
    """What the best trials reached when they were trained anew, best first; None where that was not done."""
    rows: list[Confirmed] | None = study.attribute(CONFIRMED, list[Confirmed])
    return rows


def alone_at(study: OpenStudy, work: Workspace, job: Job) -> AbstractContextManager[Callable[[], None]]:
    """Be the only process that does a training, see study.storage.locks; TakenError where another one is at it.

    Who is not beside others waits for it, and finds what it has kept.
    """
    lock = work.folder / "final" / f"{job.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    return alone(
        study.storage, study.folder, os.path.relpath(lock, study.folder), _taken if job.beside_others else None
    )


class TakenError(Exception):
    """Another process does this training."""


def _taken() -> None:
    raise TakenError


def _pass() -> None:
    """Who is alone in the final stage goes on where its lock was lost with the server."""


def confirm(study: OpenStudy, work: Workspace, job: Job) -> Generator[FinalEpoch, None, float]:
    """The metric on val after the last epoch; 0 where training failed."""
    with alone_at(study, work, job) as still:
        return (yield from _confirm(study, work, job, still if job.beside_others else _pass))


def _confirm(
    study: OpenStudy, work: Workspace, job: Job, still: Callable[[], None]
) -> Generator[FinalEpoch, None, float]:
    identity = _identity(study, work, job)
    record = work.folder / "final" / f"{job.name}.json"
    if not job.fresh and (kept := _read(record, identity)) and kept.value is not None:
        return kept.value
    checkpoints = work.checkpoints(job.name, identity)
    if job.fresh:
        checkpoints.remove()
    value, fastest = 0.0, math.inf
    _hold(work, job, 0, _usual_seconds(job))
    with checkpoints:
        try:
            for result in _epochs(work, job, checkpoints, ("train",)).epochs:
                value = 0.0 if result.diverged else value_of(result, work.config)
                yield _news(job, _length(work.config, job), result)
                if result.diverged:
                    break
                if result.epoch > 1:  # trees are grown beside the first
                    fastest = min(fastest, result.seconds)
                    _hold(work, job, result.epoch, fastest)
        except OutOfTimeError:
            checkpoints.remove()
            raise
        except OutOfMemoryError as error:
            if job.beside_others:
                raise StudyError(f"trial {job.trial.number}: {error}") from error
            value = 0.0
        still()
        _write(record, Record(identity=identity, value=value))
    return value


def train(study: OpenStudy, work: Workspace, job: Job) -> Generator[FinalEpoch, None, Trained]:
    """One final training to the last epoch. Raises StudyError when it diverges or does not fit the device."""
    with alone_at(study, work, job) as still:
        return (yield from _train(study, work, job, still if job.beside_others else _pass))


def _train(
    study: OpenStudy, work: Workspace, job: Job, still: Callable[[], None]
) -> Generator[FinalEpoch, None, Trained]:
    identity = _identity(study, work, job)
    weights = work.folder / "final" / f"{job.name}.safetensors"
    record = weights.with_suffix(".json")
    if not job.fresh and (kept := _kept(weights, record, identity, architecture(work, job.trial))):
        return kept
    before = None if job.fresh else _read(record, identity)
    if before and before.failed:
        raise StudyError(before.failed)
    pacer, moves = _pacer(work, job, record, identity), before.moves if before else []
    if pacer is None:
        _hold(work, job, 0, _usual_seconds(job))
    checkpoints = work.checkpoints(f"final-{job.name}", identity)
    if job.fresh:
        checkpoints.remove()
    parts = job.parts or (("train", "val") if work.config.final_data == "train+val" else ("train",))
    advice = (
        f"(ship another trial: study retrain {quote(work.folder.name)} --trial N; "
        f"or search on: study resume {quote(work.folder.name)} --trials MORE)"
    )
    with checkpoints:
        epochs: list[EpochResult] = []
        try:
            training = _epochs(work, job, checkpoints, parts, pacer, moves)
            for result in training.epochs:
                if result.diverged:
                    failed = f"the final training of trial {job.trial.number} diverged in epoch {result.epoch} {advice}"
                    still()
                    _write(record, Record(identity=identity, failed=failed))
                    raise StudyError(failed)
                epochs.append(result)
                length = training.course.end // training.steps if pacer else _length(work.config, job)
                yield _news(job, length, result)
                if pacer is None:
                    _hold(work, job, result.epoch, result.seconds)
                elif result.epoch >= training.behind:
                    pacer.after_epoch(result.epoch, result.seconds)
        except OutOfTimeError:
            checkpoints.remove()
            raise
        except OutOfMemoryError as error:
            raise StudyError(f"the final training of trial {job.trial.number}: {error} {advice}") from error
        still()
        digest = bundle.save_weights(weights, training.model)
        done = Record(identity=identity, weights_sha256=digest, epochs=epochs, moves=training.course.moves[1:])
        _write(record, done)
    return Trained(training.model, digest, epochs)


def _pacer(work: Workspace, job: Job, record: Path, identity: str) -> Pacer | None:
    """What shortens a training: the one that is shipped, unless its learning rate does not depend on its length."""
    point = full_point(work.config.space, job.trial.params)
    if job.pace is None or job.kind != "shipped" or point["schedule"] == "plateau":
        return None

    def write(moves: list[Move]) -> None:
        _write(record, Record(identity=identity, moves=moves))

    return Pacer(job.pace, _length(work.config, job), write)


def _hold(work: Workspace, job: Job, done: int, seconds: float) -> None:
    """Raise OutOfTimeError where a training that is whole or not at all would end too late."""
    if job.pace is None or job.kind == "shipped":
        return
    job.pace.look()
    job.pace.hold(Lap(job.kind, job.seed, job.trial.number, done, _length(work.config, job), _after(job), seconds))


def _after(one: Job | FinalEpoch) -> int:
    """Trainings of the same kind that follow."""
    return one.trainings - one.place - 1 if one.kind == "confirmation" else 0


def lap_of(news: FinalEpoch) -> Lap:
    """How far a training is, for the pace."""
    result = news.result
    return Lap(news.kind, news.seed, news.trial, result.epoch, news.epochs, _after(news), result.seconds)


def _usual_seconds(job: Job) -> float:
    """Of an epoch, by what the trial took in the search, and how much slower the machine is by now."""
    measured = number(job.trial.user_attrs, EPOCH_SECONDS) or 0.0
    share = 1.0 if job.stage == CONFIRMATION else FINAL_SHARE
    return measured * share * (job.pace.slower() if job.pace else 1.0)


def _news(job: Job, epochs: int, result: EpochResult) -> FinalEpoch:
    return FinalEpoch(job.stage, job.trial.number, job.place, job.trainings, epochs, result, job.kind, job.seed)


def _length(config: StudyConfig, job: Job) -> int:
    """Epochs of a training after the search."""
    return job.epochs or (config.confirm_epochs if job.stage == CONFIRMATION else None) or config.final_epochs


def _identity(study: OpenStudy, work: Workspace, job: Job) -> str:
    """Of a training after the search; its length as it was fixed before it began belongs to it.

    How its end is moved while it runs stands in its record.
    """
    whole = identity_of(study, job.trial)
    epochs = _length(work.config, job)
    return whole if epochs == _length(study.config, replace(job, epochs=None)) else f"{whole} {epochs} epochs"


def _epochs(
    work: Workspace,
    job: Job,
    checkpoints: Checkpoints,
    parts: tuple[str, ...],
    pacer: Pacer | None = None,
    moves: Sequence[Move] = (),
) -> Training:
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
    """The network of a trial."""
    point = full_point(work.config.space, trial.params)
    return network_config(point, len(work.dataset.classes), work.config.image_size)


class Record(BaseModel):
    """What is written about a training that is done."""

    identity: str
    value: float | None = None  # of a confirmation
    weights_sha256: str | None = None
    failed: str | None = None  # why a final training came to nothing, and would again
    epochs: list[EpochResult] = []
    moves: list[Move] = []  # of a final training's end; written before they are acted on


def _kept(weights: Path, record: Path, identity: str, network: Architecture) -> Trained | None:
    """A final training that an earlier run of this very study completed; None when there is none, or it is torn."""
    kept = _read(record, identity)
    try:
        if kept is None or kept.weights_sha256 is None or files.file_hash(weights) != kept.weights_sha256:
            return None
    except OSError:
        return None
    return Trained(bundle.load_weights(weights, network), kept.weights_sha256, kept.epochs)


def _read(record: Path, identity: str) -> Record | None:
    """What was written about a training that is done; None when it is another one, torn, or not there."""
    try:
        kept = Record.model_validate_json(record.read_bytes())
        return kept if kept.identity == identity else None
    except (OSError, ValueError):
        return None


def _write(record: Path, done: Record) -> None:
    files.write_json(record, done.model_dump(mode="json"))
