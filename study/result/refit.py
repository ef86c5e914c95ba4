"""Trainings after the search, from fresh weights: the best trials once more to choose among them, then the final ones.

Each is kept in runs/<name>/final once it is done, so that an interrupted final stage goes on.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, TypeAdapter

from models import files
from models.bundle.card import Confirmed
from models.bundle.folder import load_weights, save_weights
from models.checkpoint import Checkpoints
from models.cnn import CNN, CNNConfig
from models.memory import OutOfMemoryError
from models.training import EpochResult, derive_seed
from study import StudyError
from study.attributes import CONFIRMED
from study.config.space import cnn_config, full_point
from study.search.open_study import OpenStudy
from study.search.trial import identity_of
from study.training.start import Training, start_training, value_of
from study.training.workspace import Workspace

CONFIRM_SEEDS = 2


@dataclass(frozen=True)
class FinalEpoch:
    """News of a training after the search."""

    stage: str  # "confirmation" or "final training"
    trial: int
    place: int  # which of the stage's trainings, from 0
    trainings: int  # of the stage
    result: EpochResult


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

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{'confirm' if self.stage == 'confirmation' else 'trial'}-{self.trial.number:04d}-seed-{self.seed}"


def ranked(study: OpenStudy) -> list[FrozenTrial]:
    """The trials that ran to their end, best selection score first; StudyError when there are none."""
    finished = [trial for trial in study.own_trials() if trial.state == TrialState.COMPLETE]
    if not finished:
        raise StudyError(
            f"the study {study.name!r} has no trial that ran to its end "
            f"(search on with a larger total: study resume {study.name} --trials MORE)"
        )
    return sorted(finished, key=lambda trial: (-(trial.value or 0.0), trial.number))


def chosen(study: OpenStudy, work: Workspace, *, fresh: bool) -> Generator[FinalEpoch, None, list[FrozenTrial]]:
    """The winner; or with `confirm` the best so many trials, by what they reach on val with two new seeds each."""
    best = ranked(study)[: work.config.confirm]
    if len(best) < 2:
        return best
    count = len(best) * CONFIRM_SEEDS
    reached: dict[int, list[float]] = {}
    for place in range(count):
        trial, seed = best[place // CONFIRM_SEEDS], place % CONFIRM_SEEDS
        value = yield from _confirm(study, work, Job("confirmation", trial, seed, place, count, fresh))
        reached.setdefault(trial.number, []).append(value)
    means = {number: float(np.mean(values)) for number, values in reached.items()}
    best.sort(key=lambda trial: (-means[trial.number], trial.number))
    rows = [Confirmed(trial=one.number, values=reached[one.number], mean=means[one.number]) for one in best]
    study.remember(CONFIRMED, [row.model_dump() for row in rows])
    return best


def confirmed(study: OpenStudy) -> list[Confirmed] | None:
    """What the best trials reached when they were trained anew, best first; None where that was not done."""
    rows = study.attribute(CONFIRMED)
    return None if rows is None else TypeAdapter(list[Confirmed]).validate_python(rows)


def _confirm(study: OpenStudy, work: Workspace, job: Job) -> Generator[FinalEpoch, None, float]:
    """The metric on val after the last epoch; 0 where training failed."""
    identity = identity_of(study, job.trial)
    record = work.folder / "final" / f"{job.name}.json"
    if not job.fresh and (kept := _read(record, identity)) and kept.value is not None:
        return kept.value
    checkpoints = work.checkpoints(job.name, identity)
    if job.fresh:
        checkpoints.remove()
    value = 0.0
    with checkpoints:
        try:
            for result in _epochs(work, job, checkpoints, ("train",)).epochs:
                value = 0.0 if result.diverged else value_of(result, work.config)
                yield FinalEpoch(job.stage, job.trial.number, job.place, job.trainings, result)
                if result.diverged:
                    break
        except OutOfMemoryError:
            value = 0.0
        record.parent.mkdir(parents=True, exist_ok=True)
        _write(record, Record(identity=identity, value=value))
    return value


def train(study: OpenStudy, work: Workspace, job: Job) -> Generator[FinalEpoch, None, Trained]:
    """One final training to the last epoch. Raises StudyError when it diverges or does not fit the device."""
    identity = identity_of(study, job.trial)
    weights = work.folder / "final" / f"{job.name}.safetensors"
    record = weights.with_suffix(".json")
    if not job.fresh and (kept := _kept(weights, record, identity, architecture(work, job.trial))):
        return kept
    checkpoints = work.checkpoints(f"final-{job.name}", identity)
    if job.fresh:
        checkpoints.remove()
    parts = ("train", "val") if work.config.final_data == "train+val" else ("train",)
    advice = (
        f"(ship another trial: study retrain {work.folder.name} --trial N; "
        f"or search on: study resume {work.folder.name} --trials MORE)"
    )
    with checkpoints:
        epochs: list[EpochResult] = []
        try:
            training = _epochs(work, job, checkpoints, parts)
            for result in training.epochs:
                if result.diverged:
                    raise StudyError(
                        f"the final training of trial {job.trial.number} diverged in epoch {result.epoch} {advice}"
                    )
                epochs.append(result)
                yield FinalEpoch(job.stage, job.trial.number, job.place, job.trainings, result)
        except OutOfMemoryError as error:
            raise StudyError(f"the final training of trial {job.trial.number}: {error} {advice}") from error
        weights.parent.mkdir(parents=True, exist_ok=True)
        digest = save_weights(weights, training.model)
        _write(record, Record(identity=identity, weights_sha256=digest, epochs=epochs))
    return Trained(training.model, digest, epochs)


def _epochs(work: Workspace, job: Job, checkpoints: Checkpoints, parts: tuple[str, ...]) -> Training:
    config = work.config
    kind = "confirm" if job.stage == "confirmation" else "final"
    return start_training(
        work,
        job.trial.params,
        epochs=config.final_epochs,
        batch_size=config.final_batch_size,
        train_parts=parts,
        seed=derive_seed(config.seed, kind, job.trial.number, job.seed),
        checkpoints=checkpoints,
    )


def architecture(work: Workspace, trial: FrozenTrial) -> CNNConfig:
    """The network of a trial."""
    point = full_point(work.config.space, trial.params)
    return cnn_config(point, len(work.dataset.classes), work.config.image_size)


class Record(BaseModel):
    """What is written about a training that is done."""

    identity: str
    value: float | None = None  # of a confirmation
    weights_sha256: str | None = None
    epochs: list[EpochResult] = []


def _kept(weights: Path, record: Path, identity: str, network: CNNConfig) -> Trained | None:
    """A final training that an earlier run of this very study completed; None when there is none, or it is torn."""
    kept = _read(record, identity)
    try:
        if kept is None or kept.weights_sha256 is None or files.file_hash(weights) != kept.weights_sha256:
            return None
    except OSError:
        return None
    return Trained(load_weights(weights, network), kept.weights_sha256, kept.epochs)


def _read(record: Path, identity: str) -> Record | None:
    """What was written about a training that is done; None when it is another one, torn, or not there."""
    try:
        kept = Record.model_validate_json(record.read_bytes())
        return kept if kept.identity == identity else None
    except (OSError, ValueError):
        return None


def _write(record: Path, done: Record) -> None:
    files.write_json(record, done.model_dump(mode="json"))
