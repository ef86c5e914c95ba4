"""The model folder of a study: its card, written, kept beside later ones, and known again."""

from __future__ import annotations

import itertools
import logging
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel

from data.datasets import ImageSet
from data.images import decoding, source_sizes
from data.slides.facts import field_of
from models import ModelError, files
from models.architecture import BackboneConfig
from models.backbones import NETWORKS
from models.bundle import folder as bundle
from models.bundle.card import (
    Data,
    FinalTraining,
    LeakyScore,
    Opening,
    Origin,
    Preprocessing,
    PretrainedStart,
    StudyCard,
)
from models.bundle.reference import IMAGENET
from study import StudyError
from study.attributes import MODELS, NUM_PARAMS, number
from study.config.schema import StudyConfig
from study.result.front import Point, front, point, smaller
from study.result.pace import Pace, time_for
from study.result.refit import TrainedNetwork, architecture, confirmation_scores
from study.result.scoring import FinalScores, openings
from study.search.open_study import OpenStudy
from study.search.standing import best_first, last_value, winner
from study.search.trial import identity_of
from study.storage.address import storage_option
from study.training.mistakes import Mistake
from study.training.workspace import Workspace, versions

logger = logging.getLogger(__name__)

FINISHED = "finished.json"


class FinishedMark(BaseModel):
    """Mark that a model folder is finished, and of which training it is."""

    weights_sha256: str
    identity: str


class ModelRow(BaseModel):
    """Facts about a model folder that SQL shows."""

    trial: int
    weights_sha256: str
    accuracy: float
    low: float  # ends of the 95 % interval
    high: float
    path: str
    opening: int
    leaky: bool


def write_model(
    study: OpenStudy,
    work: Workspace,
    trial: FrozenTrial,
    directory: Path,
    shipped: TrainedNetwork,
    card: StudyCard,
    mistakes: list[Mistake],
    pace: Pace | None,
) -> StudyCard:
    """Write the model folder and the report; the mark that the folder is finished is written last."""
    some = work.dataset.images[work.parts.train[:64]]
    seen = [work.dataset.contents[i] for part in ("train", "val", "cal") for i in getattr(work.parts, part)]
    _keep(study, work, directory, card, shipped.digest)
    timed, points = time_for("timing", pace) > 0, list[Point]()
    if timed:
        points = front(study.own_trials(), work.config, card)
        own = next((one for one in points if one.trial == trial.number), None) or point(trial, work.config, card)
        card = card.model_copy(update={"smaller": smaller(points, own, card, storage_option(study.storage.url))})
    card = bundle.save(directory, shipped.model, architecture(work, trial), card, some, seen, timed=timed)
    from study.result.report import one_of_each, write_report  # plotly takes a while to import, and is needed last

    write_report(directory, study, work.config, card, shipped.epochs, mistakes, points, one_of_each(work))
    _remember(study, work, directory, card)
    mark = FinishedMark(weights_sha256=shipped.digest, identity=identity_of(study, trial))
    files.write_json(directory / FINISHED, mark.model_dump())
    return card


def _keep(study: OpenStudy, work: Workspace, directory: Path, card: StudyCard, digest: str) -> None:
    """Rename a complete model folder with other weights, or of another opening, from model to model-1 or model-2."""
    try:
        before = bundle.read_card(directory, StudyCard)
    except (OSError, ModelError):  # missing or incomplete
        return
    if (before.weights_sha256, before.test_opening.number) == (digest, card.test_opening.number):
        return
    place = next_place(directory)
    moved = {_path(work, directory): _path(work, place)}
    rows = study.attribute(MODELS, list[ModelRow]) or []
    rows = [row.model_copy(update={"path": moved.get(row.path, row.path)}) for row in rows]
    study.remember(MODELS, [row.model_dump() for row in rows])  # first, so that a kill before the rename does no harm
    directory.rename(place)
    files.flush(place.parent)
    logger.warning(f"the model that was in {directory} is kept in {place}")


def next_place(directory: Path) -> Path:
    """Return the path to which a replaced model folder is renamed: the first free one of model-1, model-2 and so on."""
    places = (directory.with_name(f"{directory.name}-{number}") for number in itertools.count(1))
    return next(place for place in places if not place.exists())


def _path(work: Workspace, directory: Path) -> str:
    """Return the path of a model folder as SQL shows it."""
    return str(directory.relative_to(work.folder) if directory.is_relative_to(work.folder) else directory)


def _remember(study: OpenStudy, work: Workspace, directory: Path, card: StudyCard) -> None:
    """Record the model in `directory` among those of the study, in place of an earlier one in that folder."""
    row = ModelRow(
        trial=card.study.trial,
        weights_sha256=card.weights_sha256,
        accuracy=card.test.accuracy,
        low=card.test.accuracy_interval[0],
        high=card.test.accuracy_interval[1],
        path=_path(work, directory),
        opening=card.test_opening.number,
        leaky=card.leaky,
    )
    before = study.attribute(MODELS, list[ModelRow]) or []
    kept = [other for other in before if other.path != row.path]
    study.remember(MODELS, [other.model_dump() for other in (*kept, row)])


def finished_card(
    directory: Path, study: OpenStudy, config: StudyConfig, dataset: ImageSet, trial: FrozenTrial | None = None
) -> StudyCard | None:
    """Return the card of a finished model folder if it still fits the trial, study and settings; None if not."""
    try:
        mark = FinishedMark.model_validate_json((directory / FINISHED).read_bytes())
        card = bundle.read_card(directory, StudyCard)
    except (OSError, ValueError):  # missing, damaged, altered, or of another version
        return None
    own = {one.number: one for one in (*study.own_trials(), *study.trials(TrialState.RUNNING))}
    shipped = own.get(card.study.trial if trial is None else trial.number)
    if not card.files or card.weights_sha256 != mark.weights_sha256 or shipped is None:
        return None
    same = mark.identity == identity_of(study, shipped) and card.study.name == study.name
    current = (
        card.study.trials == len(study.own_trials())
        and card.study.winner == winner(study).number
        and card.test_openings == len(openings(study))
        and card.study.config.get("positive") == list(config.positive)
        and card.study.config.get("leaky_score") == config.leaky_score
        and card.study.config.get("pretrained", config.pretrained) == config.pretrained
        # When groups change, parts that came with the images stay the same, but intervals do not.
        and (card.data is None or card.data.groups == int(dataset.groups.max()) + 1)
    )
    return card if same and current else None


def scored_model(study: OpenStudy) -> tuple[StudyCard, FrozenTrial]:
    """Return the card of the model that a study has shipped, and its trial, whatever was searched or opened since."""
    directory = study.folder / "model"
    try:
        mark = FinishedMark.model_validate_json((directory / FINISHED).read_bytes())
        card = bundle.read_card(directory, StudyCard)
    except (OSError, ValueError, ModelError):  # missing, incomplete or altered
        card = None
    trial = next((one for one in study.trials() if card and one.number == card.study.trial), None)
    if card is None or trial is None or mark.identity != identity_of(study, trial):
        raise StudyError(
            f"{study.name!r} has no model that was scored, and a model of all images has no score of its own "
            f"(first: study resume {quote(study.name)}{storage_option(study.storage.url)})"
        )
    return card, trial


def card_of(
    study: OpenStudy,
    work: Workspace,
    trial: FrozenTrial,
    trained: list[TrainedNetwork],
    opening: Opening,
    scored: FinalScores,
    leaky: LeakyScore | None,
) -> StudyCard:
    """Return a card with everything that a reader of the model must know; its files are added when they are written."""
    config, dataset = work.config, work.dataset
    sizes = source_sizes([dataset.root / path for path in dataset.paths], 5, 50, 95)
    return StudyCard(
        synthetic_data=dataset.synthetic,
        protocol="given" if dataset.parts and config.protocol == "grouped" else config.protocol,
        leaky=work.leaky,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        classes=dataset.classes,
        preprocessing=Preprocessing(
            size=config.image_size,
            decoding="; ".join(filter(None, (decoding(dataset.ranges), dataset.shown))),
            ranges=dict(dataset.ranges),
            views=work.views,
            **IMAGENET,
        ),
        temperature=scored.temperature,
        conformal=scored.conformal,
        versions=versions(work.device),
        test_opening=opening,
        test_openings=len(openings(study)),
        study=Origin(
            name=study.name,
            trial=trial.number,
            winner=winner(study).number,
            leader=_leader(study),
            tied=_tied(study),
            confirmed=confirmation_scores(study) if config.confirm > 1 else None,
            params=trial.params,
            metric=config.metric,
            selection_score=last_value(trial),
            epochs=len(trial.intermediate_values),
            complete=trial.state == TrialState.COMPLETE,
            trials=len(study.own_trials()),
            # Where the leaky score was asked for, and left out for its time, the card says that it was asked for.
            config=config.model_copy(update={"leaky_score": study.config.leaky_score}).model_dump(mode="json"),
        ),
        final=FinalTraining(
            data=config.final_data,
            epochs=len(trained[0].epochs),
            trainings=len(trained),
            seconds=round(sum(epoch.seconds for one in trained for epoch in one.epochs), 3),
            epoch_seconds=[round(epoch.seconds, 3) for epoch in trained[0].epochs],
            num_params=None if (count := number(trial.user_attrs, NUM_PARAMS)) is None else int(count),
        ),
        begun=_begun(work, trial),
        data=Data(
            source=config.data,
            source_size=None if sizes is None else sizes[1],
            source_span=None if sizes is None else (sizes[0], sizes[2]),
            field_um=field_of(dataset.root),
            images=len(dataset.labels),
            groups=len(set(dataset.groups.tolist())),
            groups_from=dataset.groups_from,
            parts=work.parts.counts(),
            parts_from=dataset.parts_from,
            parts_hash=work.parts.hash,
            content=dataset.fingerprint,
            skipped=dataset.left_out,
        ),
        test=scored.test,
        test_accuracy_of_seeds=scored.accuracy_of_seeds,
        comparison=scored.comparison,
        leaky_score=leaky,
    )


def _leader(study: OpenStudy) -> int | None:
    """Return the trial with the best selection score, if the winner is another one."""
    best = next(iter(best_first(study.own_trials())), None)  # none if the only trial did not end
    if best is None or best.state != TrialState.COMPLETE or best.number == winner(study).number:
        return None
    return best.number


def _tied(study: OpenStudy) -> int:
    """Count the other trials that reached the selection score of the winner."""
    best = winner(study)
    ended = [one for one in study.own_trials() if one.state == TrialState.COMPLETE]
    return sum(one.value == best.value for one in ended if one.number != best.number) if best.value is not None else 0


def is_pretrained(work: Workspace, trial: FrozenTrial) -> bool:
    """Return whether a trial's network begins from a pretrained one."""
    return isinstance(architecture(work, trial), BackboneConfig)


def _begun(work: Workspace, trial: FrozenTrial) -> PretrainedStart | None:
    """Return the pretrained network that a trial's network began from; None if there is none."""
    network = architecture(work, trial)
    if not isinstance(network, BackboneConfig):
        return None
    weights, known = work.weights[network.backbone], NETWORKS[network.backbone]
    return PretrainedStart(
        name=network.backbone,
        made_by=known.made_by,
        licence=known.licence,
        weights_sha256=weights.digest,
        trained=network.trained,
    )
