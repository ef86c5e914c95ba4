"""From a searched study to a model folder: choose, train from fresh weights, open the test part once, write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial
from pydantic import BaseModel

from data.splits import random_parts
from models.architecture import BackboneConfig
from models.bundle import folder as bundle
from models.bundle.card import LeakyScore, StudyCard
from study import StudyError
from study.attributes import BASELINE, PRETRAINED
from study.config.space import full_point
from study.result.gain import best_start
from study.result.pace import SCRATCH, OutOfTimeError, Pace, time_for
from study.result.pretrained import SHARE, FittedRival, NoRivalError, fit
from study.result.refit import (
    Activity,
    FinalEpoch,
    Job,
    TrainedNetwork,
    architecture,
    chosen,
    confirm_jobs,
    fixed_stage,
    lap_of,
    pace_of,
    train,
)
from study.result.scoring import grow_trees, leaky_row, open_test, score_all, trees_digest
from study.result.shipped import card_of, finished_card, is_pretrained, scored_model, write_model
from study.search.open_study import OpenStudy
from study.search.standing import is_start, last_value, ranked, search_seconds
from study.search.trial import Watch
from study.training.backbone import is_frozen
from study.training.workspace import Workspace

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
    crew = whole.config.workers if helpers else 1
    work = fixed_stage(study, whole, again=fresh, at_once=crew)
    pace = pace_of(study, again=fresh)
    at_once = _most_at_once(study, work)
    if pace:
        pace.at_once = max(1, min(at_once, work.config.workers)) if helpers else 1
    helped = helpers is not None and (yield from _heard(helpers(at_once), pace))
    if helped:  # a trial may have ended meanwhile, in another shell
        work = fixed_stage(study, whole, again=fresh, at_once=crew)
    trees = grow_trees(work)
    best = [trial] if trial else (yield from chosen(study, work, fresh=fresh, watch=watch, pace=pace))
    work = fixed_stage(study, whole, again=fresh, at_once=crew)  # without what proved too long for the hours
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
            lost[name] = str(error).partition(" (")[0]  # without advice; no reason to withhold the model
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
    card = card_of(study, work, trial, trained, opening, scored, leaky)
    card = card.model_copy(update={"not_compared": lost | absent | scored.not_compared})
    card = write_model(study, work, trial, directory, trained[0], card, scored.mistakes, pace)
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
    scored, trial = scored_model(study)
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


def _leaky(study: OpenStudy, work: Workspace, job: Job) -> Generator[FinalEpoch, None, LeakyScore | None]:
    """Return the published protocol's score; None if it is not asked for or the hours are too short for it."""
    place = leaky_place(study, work)
    if place is None:
        return None
    try:
        return leaky_row(place, (yield from train(study, place, job)))
    except (OutOfTimeError, StudyError) as error:  # no reason to withhold the model
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
    start = (
        best_start(work.config, study.own_trials())
        if "best start" in work.config.rivals and not is_start(trial)
        else None
    )
    if start and start.number not in {other.number for _, other in rivals}:
        rivals.append(("best start", start))
    rivals += _baseline(study, {trial.number, *(other.number for _, other in rivals)})
    rivals = [(role, rival) for role, rival in rivals if role in work.config.rivals]
    if is_pretrained(work, trial) and not any(not is_pretrained(work, rival) for _, rival in rivals):
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


def _from_scratch(study: OpenStudy, work: Workspace) -> list[tuple[str, FrozenTrial]]:
    """Return the best trial, by last value and pruned or not, whose network does not begin from a pretrained one."""
    found = [one for one in study.shippable() if one.state.is_finished() and not is_pretrained(work, one)]
    found.sort(key=lambda one: (-last_value(one), one.number))
    return [(SCRATCH, one) for one in found[:1]]


def _baseline(study: OpenStudy, taken: set[int]) -> list[tuple[str, FrozenTrial]]:
    """Return the enqueued baseline, unless it is among the `taken` trials already."""
    found = [trial for trial in study.own_trials() if trial.user_attrs.get(BASELINE) and trial.number not in taken]
    return [("baseline", trial) for trial in found[:1]]


def _grown(trees: Future[Trees], pace: Pace | None) -> Trees | str:
    """Return the fitted trees, or the reason why there are none."""
    left = time_for("trees", pace)
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
    left = time_for("pretrained", pace)
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
