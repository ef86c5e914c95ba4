"""From a searched study to a model folder: choose, train from fresh weights, open the test part once, write."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel

from data.datasets import ImageSet
from data.images import decoding, source_sizes
from data.slides.facts import field_of
from data.splits import random_parts
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
from study.attributes import BASELINE, MODELS, NUM_PARAMS, PRETRAINED, number
from study.config.schema import StudyConfig
from study.config.space import full_point
from study.result.front import Point, front, point, smaller
from study.result.gain import best_start
from study.result.pace import SCRATCH, OutOfTimeError, Pace
from study.result.pretrained import SHARE, FittedRival, NoRivalError, fit
from study.result.refit import (
    Activity,
    FinalEpoch,
    Job,
    TrainedNetwork,
    architecture,
    chosen,
    confirm_jobs,
    confirmed,
    fixed_stage,
    lap_of,
    pace_of,
    train,
)
from study.result.scoring import FinalScores, grow_trees, leaky_row, open_test, openings, score_all, trees_digest
from study.search.open_study import OpenStudy
from study.search.standing import best_first, is_start, last_value, ranked, search_seconds, winner
from study.search.trial import Watch, identity_of
from study.training.backbone import is_frozen
from study.training.mistakes import Mistake
from study.training.workspace import Workspace, versions

if TYPE_CHECKING:
    from data.audit import Trees

logger = logging.getLogger(__name__)

FINAL_TRAINING = "final training"
"""Name of the stage in which the networks that are shipped or compared are trained."""

Helpers = Callable[[int], Generator[FinalEpoch, None, bool]]
"""Function that lets several workers (study.result.workers) do the trainings that can be done at once.

It takes the number of these trainings, yields news of their epochs, and returns False if there are no workers.
"""


@dataclass(frozen=True)
class Outcome:
    """News that the final stage is done: the model folder, and the card in it."""

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
) -> Iterator[FinalEpoch | Activity | Outcome]:
    """Do the final trainings of a trial, score them on the test part, and write the model folder.

    Without a trial the winner is taken, after a confirmation if the study asks for it. Results of a killed run are
    used again unless `fresh`; a folder that already holds this result is left as it is. `helpers` do the trainings
    that they can first. The last item is the Outcome.
    """
    done = finished_card(directory, study, work.config, work.dataset, trial)
    if done and not fresh:
        yield Outcome(directory, done)
        return
    whole = work
    work = fixed_stage(study, whole, again=fresh)
    pace = pace_of(study, again=fresh)
    at_once = _most_at_once(study, work)
    if pace:
        pace.at_once = max(1, min(at_once, work.config.workers)) if helpers else 1
    helped = helpers is not None and (yield from _heard(helpers(at_once), pace))
    if helped:  # a trial may have ended meanwhile, in another shell
        work = fixed_stage(study, whole, again=fresh)
    trees = grow_trees(work)
    best = [trial] if trial else (yield from chosen(study, work, fresh=fresh, watch=watch, pace=pace))
    work = fixed_stage(study, whole, again=fresh)  # without what proved too long for the hours
    if trial is None and not fresh and not helped:
        study.stage_ends("confirmation")
    trial = best[0]
    shipped: list[TrainedNetwork] = []
    compared: list[tuple[str, int, TrainedNetwork]] = []
    lost: dict[str, str] = {}
    for role, job in final_jobs(study, work, best, fresh=fresh, watch=watch, pace=pace):
        try:
            made = yield from train(study, work, replace(job, epochs=len(shipped[0].epochs) if shipped else None))
        except OutOfTimeError as error:
            logger.warning(str(error))
            continue
        except StudyError as error:
            if job.kind == "shipped":
                raise
            name = role or f"seed {job.seed}"
            lost[name] = str(error)  # no reason to withhold the model
            logger.warning(f"no comparison with {'the ' if role else ''}{name}: {error}")
            continue
        if role:
            compared.append((role, job.trial.number, made))
        else:
            shipped.append(made)
    trained = [*shipped, *(made for _, _, made in compared)]
    leaky = yield from _leaky(study, work, leaky_job(trial, fresh=fresh, watch=watch, pace=pace))
    if not fresh:
        study.stage_ends("final training")
    yield Activity("result: what else is compared, a pretrained network and trees")
    pretrained = _pretrained(study, work, trial, pace)
    forest = _grown(trees, pace)
    absent = {name: one for name, one in (("pretrained", pretrained), ("trees", forest)) if isinstance(one, str)}
    rival = None if isinstance(pretrained, str) else pretrained
    grown = None if isinstance(forest, str) else forest
    known = [*([trees_digest(work)] if grown else []), *([rival.digest] if rival else [])]
    yield Activity("result: scores, export, report")
    opening = open_test(study, [*(one.digest for one in trained), *known], work.parts.hash)
    scored = score_all(work, shipped, compared, grown, rival)
    card = _card(study, work, trial, trained, opening, scored, leaky)
    card = card.model_copy(update={"not_compared": lost | absent})
    card = _write(study, work, trial, directory, trained[0], card, scored.mistakes, pace)
    if not fresh:
        study.stage_ends("result")
    yield Outcome(directory, card)


EVERY = ("train", "val", "cal", "test")


def train_on_all(
    study: OpenStudy, work: Workspace, directory: Path, watch: Watch | None = None
) -> Iterator[FinalEpoch | Activity | Outcome]:
    """Train the shipped trial on all images, including those of the test part, for use; it is never scored.

    Its card has the scores, the temperature and the thresholds of its sibling, the model that was scored. Raises
    StudyError if there is no such model.
    """
    scored, trial = _scored(study)
    if full_point(work.config.space, trial.params)["schedule"] == "plateau":
        raise StudyError(
            f"the schedule of trial {trial.number} is plateau, which needs a validation loss: on all images it would "
            "be another training (search with another: --set space.schedule=onecycle)"
        )
    parts = tuple(part for part in EVERY if len(getattr(work.parts, part)))
    whole = Job("training on all images", trial, 0, 0, 1, fresh=False, watch=watch)
    job = replace(whole, epochs=scored.final.epochs, parts=parts)
    made = yield from train(study, work, job)
    card = scored.model_copy(
        update={
            "sibling_sha256": scored.weights_sha256,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "final": scored.final.model_copy(
                update={
                    "data": "all images",
                    "trainings": 1,
                    "seconds": round(sum(epoch.seconds for epoch in made.epochs), 3),
                    "epoch_seconds": [round(epoch.seconds, 3) for epoch in made.epochs],
                }
            ),
            "smaller": None,
        }
    )
    some = work.dataset.images[work.parts.train[:64]]
    yield Activity("result: export")
    card = bundle.save(directory, made.model, architecture(work, trial), card, some, work.dataset.contents)
    yield Outcome(directory, card)


def _scored(study: OpenStudy) -> tuple[StudyCard, FrozenTrial]:
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
            f"(first: study resume {quote(study.name)})"
        )
    return card, trial


def _leaky(study: OpenStudy, work: Workspace, job: Job) -> Generator[FinalEpoch, None, LeakyScore | None]:
    """Return the published protocol's score; None if it is not asked for or the hours are too short for it."""
    place = leaky_place(study, work)
    if place is None:
        return None
    try:
        return leaky_row(place, (yield from train(study, place, job)))
    except OutOfTimeError as error:
        logger.warning(str(error))
        return None


def _heard(news: Generator[FinalEpoch, None, bool], pace: Pace | None) -> Generator[FinalEpoch, None, bool]:
    """Pass on news of the helpers' trainings; leave out trainings that prove too long, for all helpers."""
    while True:
        try:
            one = next(news)
        except StopIteration as end:
            return bool(end.value)
        if pace and one.kind != "shipped":
            pace.look()
            pace.heard(lap_of(one))
        yield one


def final_jobs(
    study: OpenStudy,
    work: Workspace,
    best: list[FrozenTrial],
    *,
    fresh: bool = False,
    watch: Watch | None = None,
    pace: Pace | None = None,
) -> list[tuple[str | None, Job]]:
    """Return the final trainings: those of the first trial, by seed, then those of its rivals, by role."""
    trial, *others = best
    rivals: list[tuple[str, FrozenTrial]] = [("runner-up", other) for other in others[:1]]
    rivals = [(role, rival) for role, rival in rivals if role in work.config.rivals]
    start = best_start(study.own_trials()) if "best start" in work.config.rivals and not is_start(trial) else None
    if start and start.number not in {other.number for _, other in rivals}:
        rivals.append(("best start", start))
    rivals += _baseline(study, {trial.number, *(other.number for _, other in rivals)})
    rivals = [(role, rival) for role, rival in rivals if role in work.config.rivals]
    if begins(work, trial) and not any(not begins(work, rival) for _, rival in rivals):
        rivals += _from_scratch(study, work)
    seeds = [(None, trial, seed) for seed in range(work.config.final_seeds)]
    wanted = [*seeds, *((role, rival, 0) for role, rival in rivals)]
    return [
        (
            role,
            Job(
                FINAL_TRAINING,
                one,
                seed,
                place,
                len(wanted),
                fresh,
                watch,
                kind=role or ("seed" if seed else "shipped"),
                pace=pace,
            ),
        )
        for place, (role, one, seed) in enumerate(wanted)
    ]


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


def begins(work: Workspace, trial: FrozenTrial) -> bool:
    """Return whether a trial's network begins from a pretrained one."""
    return isinstance(architecture(work, trial), BackboneConfig)


def _from_scratch(study: OpenStudy, work: Workspace) -> list[tuple[str, FrozenTrial]]:
    """Return the best trial, by last value and pruned or not, whose network does not begin from a pretrained one."""
    found = [one for one in study.shippable() if one.state.is_finished() and not begins(work, one)]
    found.sort(key=lambda one: (-last_value(one), one.number))
    return [(SCRATCH, one) for one in found[:1]]


def _baseline(study: OpenStudy, taken: set[int]) -> list[tuple[str, FrozenTrial]]:
    """Return the enqueued baseline, unless it is among the `taken` trials already."""
    found = [trial for trial in study.own_trials() if trial.user_attrs.get(BASELINE) and trial.number not in taken]
    return [("baseline", trial) for trial in found[:1]]


RESULT: Mapping[str, float] = MappingProxyType({"pretrained": 0.6, "trees": 0.5, "timing": 0.4})
"""Optional parts of the result, the first to be left out first -> share of the time kept for the result.

That share must remain when the part is done; if less is left, the part is left out.
"""


def _time_for(what: str, pace: Pace | None) -> float:
    """Return the seconds that an optional part of the result may take; 0 or less: none are left."""
    if pace is None:
        return math.inf
    pace.look()
    return pace.seconds() - RESULT[what] * pace.result_seconds()


def _grown(trees: Future[Trees], pace: Pace | None) -> Trees | str:
    """Return the fitted trees, or the reason why there are none."""
    left = _time_for("trees", pace)
    try:
        return trees.result(timeout=None if pace is None else max(0.0, left))
    except TimeoutError:
        if trees.done():  # the error is from growing the trees, or they are grown just now
            return trees.result()
        logger.warning("no comparison with trees: the hours are over")
        return "the hours were over"


def _pretrained(study: OpenStudy, work: Workspace, trial: FrozenTrial, pace: Pace | None) -> FittedRival | str:
    """Return the fitted rival with a pretrained network's features, or the reason why there is none."""
    if not work.config.pretrained:
        return "not wanted (pretrained = false)"
    network = architecture(work, trial)
    if isinstance(network, BackboneConfig) and is_frozen(network):
        return "the model itself uses a frozen pretrained network"
    left = _time_for("pretrained", pace)
    learn, choose = work.parts.train, work.parts.val if work.held_out == "test" else work.parts.val[:0]
    own = study.own_trials()
    decided = study.attribute(PRETRAINED, RivalSize)
    side = decided.side if decided and decided.trials == len(own) else None
    try:
        found = fit(work, learn, choose, left, SHARE * search_seconds(own), side)
    except NoRivalError as error:
        return str(error)
    except Exception as error:  # no reason to withhold the model
        logger.warning(f"no comparison with a pretrained network: {type(error).__name__}: {error}")
        return f"it failed: {type(error).__name__}"
    study.remember(PRETRAINED, RivalSize(trials=len(own), side=found.side).model_dump())
    return found


class RivalSize(BaseModel):
    """Image size of the pretrained rival, recorded so that a rerun after a kill is no new opening of the test part."""

    trials: int  # number of trials in the study at that time
    side: int  # height and width of the images, in pixels


def leaky_place(study: OpenStudy, work: Workspace) -> Workspace | None:
    """Return a workspace that follows the published protocol: train on a random 80 % of the images, score the rest.

    None if that is not asked for.
    """
    if not work.config.leaky_score or work.leaky:
        return None
    config = work.config.model_copy(update={"protocol": "random", "final_data": "train"})
    parts = random_parts(len(work.dataset.labels), work.dataset.paths, config.seed)
    return replace(work, config=config, parts=parts, folder=work.folder / "leaky")


def leaky_job(trial: FrozenTrial, *, fresh: bool = False, watch: Watch | None = None, pace: Pace | None = None) -> Job:
    """Return the training in the workspace of `leaky_place`."""
    return Job("leaky training", trial, 0, 0, 1, fresh, watch, kind="leaky", pace=pace)


def _most_at_once(study: OpenStudy, work: Workspace) -> int:
    """Return how many trainings after the search can be done at once, because none needs another one first."""
    best = ranked(study)[: work.config.confirm]
    final = len(final_jobs(study, work, best)) + bool(leaky_place(study, work))
    return max(final, len(confirm_jobs(best)) if len(best) > 1 else 0)


def _write(
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
    timed, points = _time_for("timing", pace) > 0, list[Point]()
    if timed:
        points = front(study.own_trials(), work.config, card)
        own = next((one for one in points if one.trial == trial.number), None) or point(trial, work.config, card)
        card = card.model_copy(update={"smaller": smaller(points, own, card)})
    card = bundle.save(directory, shipped.model, architecture(work, trial), card, some, seen, timed=timed)
    from study.result.report import one_of_each, write_report  # plotly takes a while to import, and is needed last

    write_report(directory, study, work.config, card, shipped.epochs, mistakes, points, one_of_each(work))
    _remember(study, work, directory, card)
    mark = FinishedMark(weights_sha256=shipped.digest, identity=identity_of(study, trial))
    files.write_json(directory / FINISHED, mark.model_dump())
    return card


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


def _card(
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
            confirmed=confirmed(study) if config.confirm > 1 else None,
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
