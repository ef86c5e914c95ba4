"""From a searched study to a model folder: chosen, trained from fresh weights, test opened once, written."""

import itertools
import logging
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel

from data.datasets import ImageSet
from data.images import decoding, source_size
from data.splits import random_parts
from models import ModelError, files
from models.bundle import folder as bundle
from models.bundle.card import Data, Final, Leaky, Opening, Origin, Preprocessing, StudyCard
from models.bundle.reference import IMAGENET
from study import StudyError
from study.attributes import BASELINE, MODELS, NUM_PARAMS, PRETRAINED, number
from study.config.schema import Rival, StudyConfig
from study.result.pretrained import SHARE, NoRivalError, Pretrained, fit
from study.result.refit import (
    FinalEpoch,
    Job,
    Trained,
    architecture,
    chosen,
    confirm_jobs,
    confirmed,
    fixed_stage,
    train,
)
from study.result.scoring import Scored, grow_trees, leaky_row, open_test, openings, score_all, trees_digest
from study.search.open_study import OpenStudy
from study.search.standing import last_value, ranked, search_seconds, winner
from study.search.trial import Watch, identity_of
from study.training.mistakes import Mistake
from study.training.workspace import Workspace, versions

logger = logging.getLogger(__name__)

FINAL_TRAINING = "final training"
"""The stage in which the networks are trained that are shipped or compared."""

Helpers = Callable[[int], Generator[FinalEpoch, None, bool]]
"""Trains by several workers (study.result.helpers) what can be trained at once, so many; False where it does not."""


@dataclass(frozen=True)
class Outcome:
    """The model folder, and the card in it."""

    directory: Path
    card: StudyCard


def finish(
    study: OpenStudy,
    work: Workspace,
    trial: FrozenTrial | None,
    directory: Path,
    *,
    fresh: bool = False,
    watch: Watch | None = None,
    helpers: Helpers | None = None,
) -> Iterator[FinalEpoch | Outcome]:
    """Train a trial's architecture for good, score it on the test part, and write the model folder.

    Without a trial the winner is taken, confirmed first where the study asks for that. What a killed run already made
    is used again unless `fresh`; a folder that already holds this result is left as it is. `helpers` train
    what they can before. The last item is the Outcome.
    """
    done = finished_card(directory, study, work.config, work.dataset, trial)
    if done and not fresh:
        yield Outcome(directory, done)
        return
    whole = work
    work = fixed_stage(study, whole, again=fresh)
    helped = helpers is not None and (yield from helpers(_most_at_once(study, work)))
    if helped:  # a trial may have ended meanwhile, in another shell
        work = fixed_stage(study, whole, again=fresh)
    trees = grow_trees(work)
    best = [trial] if trial else (yield from chosen(study, work, fresh=fresh, watch=watch))
    if trial is None and not fresh and not helped:
        study.stage_ends("confirmation")
    trial = best[0]
    shipped: list[Trained] = []
    compared: list[tuple[str, int, Trained]] = []
    for role, job in final_jobs(study, work, best, fresh=fresh, watch=watch):
        try:
            made = yield from train(study, work, job)
        except StudyError as error:
            if role is None:
                raise
            logger.warning(f"no comparison with the {role}: {error}")  # no reason to withhold the model
            continue
        if role:
            compared.append((role, job.trial.number, made))
        else:
            shipped.append(made)
    trained = [*shipped, *(made for _, _, made in compared)]
    leaky = None
    if place := leaky_place(study, work):
        leaky = leaky_row(place, (yield from train(study, place, leaky_job(trial, fresh=fresh, watch=watch))))
    if not fresh:
        study.stage_ends("final training")
    pretrained = _pretrained(study, work, fresh=fresh)
    known = [trees_digest(work)] if isinstance(pretrained, str) else [trees_digest(work), pretrained.digest]
    opening = open_test(study, [*(one.digest for one in trained), *known], work.parts.hash)
    scored = score_all(work, shipped, compared, trees, None if isinstance(pretrained, str) else pretrained)
    card = _card(study, work, trial, trained, opening, scored, leaky)
    if isinstance(pretrained, str):
        card = card.model_copy(update={"not_compared": {"pretrained": pretrained}})
    card = _write(study, work, trial, directory, trained[0], card, scored.mistakes)
    if not fresh:
        study.stage_ends("result")
    yield Outcome(directory, card)


def final_jobs(
    study: OpenStudy, work: Workspace, best: list[FrozenTrial], *, fresh: bool = False, watch: Watch | None = None
) -> list[tuple[Rival | None, Job]]:
    """The final trainings: those of the first trial, by seed, then those of what it is compared with, by role."""
    trial, *others = best
    rivals: list[tuple[Rival, FrozenTrial]] = [("runner-up", other) for other in others[:1]]
    rivals += _baseline(study, {trial.number, *(other.number for _, other in rivals)})
    seeds = [(None, trial, seed) for seed in range(work.config.final_seeds)]
    wanted = [*seeds, *((role, rival, 0) for role, rival in rivals if role in work.config.rivals)]
    return [
        (role, Job(FINAL_TRAINING, one, seed, place, len(wanted), fresh, watch))
        for place, (role, one, seed) in enumerate(wanted)
    ]


def _baseline(study: OpenStudy, taken: set[int]) -> list[tuple[Rival, FrozenTrial]]:
    """The enqueued baseline, unless it is among the others already."""
    found = [trial for trial in study.own_trials() if trial.user_attrs.get(BASELINE) and trial.number not in taken]
    return [("baseline", trial) for trial in found[:1]]


def _pretrained(study: OpenStudy, work: Workspace, *, fresh: bool) -> Pretrained | str:
    """A pretrained network's features as a rival, fitted; or why there is none."""
    if not work.config.pretrained:
        return "not wanted (pretrained = false)"
    hours, planned = study.hours(), study.planned()
    left = math.inf
    if hours is not None and planned and not fresh:
        # Half of what is kept for the result goes into scores, export and report.
        left = 3600 * hours - study.clock.spent() - planned.stages["result"] / 2
    learn, choose = work.parts.train, work.parts.val if work.held_out == "test" else work.parts.val[:0]
    own = study.own_trials()
    decided: Seen | None = study.attribute(PRETRAINED, Seen)
    side = decided.side if decided and decided.trials == len(own) else None
    try:
        found = fit(work, learn, choose, left, SHARE * search_seconds(own), side)
    except NoRivalError as error:
        return str(error)
    except Exception as error:  # no reason to withhold the model
        logger.warning(f"no comparison with a pretrained network: {type(error).__name__}: {error}")
        return f"it failed: {type(error).__name__}"
    study.remember(PRETRAINED, Seen(trials=len(own), side=found.side).model_dump())
    return found


class Seen(BaseModel):
    """What the pretrained rival looked at, so that going on after a kill opens nothing new."""

    trials: int  # in the study by then
    side: int  # pixels


def leaky_place(study: OpenStudy, work: Workspace) -> Workspace | None:
    """Where the published protocol is followed: 80 % of the images at random to train on, the rest to score.

    None where that is not asked for.
    """
    if not work.config.leaky_score or work.leaky:
        return None
    config = work.config.model_copy(update={"protocol": "random", "final_data": "train"})
    parts = random_parts(len(work.dataset.labels), work.dataset.paths, config.seed)
    return replace(work, config=config, parts=parts, folder=work.folder / "leaky")


def leaky_job(trial: FrozenTrial, *, fresh: bool = False, watch: Watch | None = None) -> Job:
    """What is trained there."""
    return Job("leaky training", trial, 0, 0, 1, fresh, watch)


def _most_at_once(study: OpenStudy, work: Workspace) -> int:
    """Trainings after the search of which none needs another one first."""
    best = ranked(study)[: work.config.confirm]
    final = len(final_jobs(study, work, best)) + bool(leaky_place(study, work))
    return max(final, len(confirm_jobs(best)) if len(best) > 1 else 0)


def _write(
    study: OpenStudy,
    work: Workspace,
    trial: FrozenTrial,
    directory: Path,
    shipped: Trained,
    card: StudyCard,
    mistakes: list[Mistake],
) -> StudyCard:
    """The bundle and the report; the mark that all is done goes last."""
    some = work.dataset.images[work.parts.train[:64]]
    seen = [work.dataset.contents[i] for part in ("train", "val", "cal") for i in getattr(work.parts, part)]
    _keep(study, work, directory, card, shipped.digest)
    card = bundle.save(directory, shipped.model, architecture(work, trial), card, some, seen)
    from study.result.report import write_report  # plotly takes a while to import, and is needed at the end alone

    write_report(directory, study, work.config, card, shipped.epochs, mistakes)
    _remember(study, work, directory, card)
    mark = Mark(weights_sha256=shipped.digest, identity=identity_of(study, trial))
    files.write_json(directory / FINISHED, mark.model_dump())
    return card


FINISHED = "finished.json"


class Mark(BaseModel):
    """That a model folder is finished, and of which training."""

    weights_sha256: str
    identity: str


class Written(BaseModel):
    """What SQL shows of a model folder."""

    trial: int
    weights_sha256: str
    accuracy: float
    low: float  # ends of the 95 % interval
    high: float
    path: str
    opening: int
    leaky: bool


def _keep(study: OpenStudy, work: Workspace, directory: Path, card: StudyCard, digest: str) -> None:
    """Move a whole model of other weights, or of another opening, out of the way: model becomes model-1, or model-2."""
    try:
        before = bundle.read_card(directory, StudyCard)
    except (OSError, ModelError):  # none, or half of one
        return
    if (before.weights_sha256, before.test_opening.number) == (digest, card.test_opening.number):
        return
    place = next_place(directory)
    moved = {_path(work, directory): _path(work, place)}
    rows: list[Written] = study.attribute(MODELS, list[Written]) or []
    rows = [row.model_copy(update={"path": moved.get(row.path, row.path)}) for row in rows]
    study.remember(MODELS, [row.model_dump() for row in rows])  # first: killed between the two, it is done again
    directory.rename(place)
    files.flush(place.parent)
    logger.warning(f"the model that was in {directory} is kept in {place}")


def next_place(directory: Path) -> Path:
    """Where a model folder is kept when another model takes its place: the first of model-1, model-2 that is free."""
    places = (directory.with_name(f"{directory.name}-{number}") for number in itertools.count(1))
    return next(place for place in places if not place.exists())


def _path(work: Workspace, directory: Path) -> str:
    """A model folder as SQL names it."""
    return str(directory.relative_to(work.folder) if directory.is_relative_to(work.folder) else directory)


def _remember(study: OpenStudy, work: Workspace, directory: Path, card: StudyCard) -> None:
    """Write down the last model in each folder of the study."""
    row = Written(
        trial=card.study.trial,
        weights_sha256=card.weights_sha256,
        accuracy=card.test.accuracy,
        low=card.test.accuracy_interval[0],
        high=card.test.accuracy_interval[1],
        path=_path(work, directory),
        opening=card.test_opening.number,
        leaky=card.leaky,
    )
    before: list[Written] = study.attribute(MODELS, list[Written]) or []
    kept = [other for other in before if other.path != row.path]
    study.remember(MODELS, [other.model_dump() for other in (*kept, row)])


def finished_card(
    directory: Path, study: OpenStudy, config: StudyConfig, dataset: ImageSet, trial: FrozenTrial | None = None
) -> StudyCard | None:
    """The card of a folder that was finished for this trial, history and number of openings; None when work is left."""
    try:
        mark = Mark.model_validate_json((directory / FINISHED).read_bytes())
        card = bundle.read_card(directory, StudyCard)
    except (OSError, ValueError):  # none, torn, altered, or of another version
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
        # Parts that came with the images stay when their groups change; intervals do not.
        and (card.data is None or card.data.groups == int(dataset.groups.max()) + 1)
    )
    return card if same and current else None


def _card(
    study: OpenStudy,
    work: Workspace,
    trial: FrozenTrial,
    trained: list[Trained],
    opening: Opening,
    scored: Scored,
    leaky: Leaky | None,
) -> StudyCard:
    """Everything that a reader of the model must know; the files are added where they are written."""
    config, dataset = work.config, work.dataset
    return StudyCard(
        synthetic_data=dataset.synthetic,
        protocol="given" if dataset.parts and config.protocol == "grouped" else config.protocol,
        leaky=work.leaky,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        classes=dataset.classes,
        preprocessing=Preprocessing(
            size=config.image_size,
            decoding=decoding(dataset.ranges),
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
            confirmed=confirmed(study) if config.confirm > 1 else None,
            params=trial.params,
            metric=config.metric,
            selection_score=last_value(trial),
            epochs=len(trial.intermediate_values),
            complete=trial.state == TrialState.COMPLETE,
            trials=len(study.own_trials()),
            config=config.model_dump(mode="json"),
        ),
        final=Final(
            data=config.final_data,
            epochs=config.final_epochs,
            trainings=len(trained),
            seconds=round(sum(epoch.seconds for one in trained for epoch in one.epochs), 3),
            epoch_seconds=[round(epoch.seconds, 3) for epoch in trained[0].epochs],
            num_params=None if (count := number(trial.user_attrs, NUM_PARAMS)) is None else int(count),
        ),
        data=Data(
            source=config.data,
            source_size=source_size([dataset.root / path for path in dataset.paths]),
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
