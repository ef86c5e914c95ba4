"""Stages of a study in order: open, search, finish; done by this process or by an engine's workers."""

import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote

import torch
from optuna.trial import TrialState

from data import Progress
from study import StudyError
from study.attributes import EPOCH_SECONDS, PLANNED, THREADS, kept, number
from study.budget.expect import Images
from study.budget.load import take_threads
from study.budget.stages import Plan, replan
from study.config.limit import cost_of
from study.config.resolve import StudyRequest
from study.forkserver import gather
from study.result.final import Outcome, finish, train_on_all
from study.result.refit import Activity, FinalEpoch
from study.result.scoring import openings, warm_up
from study.result.shipped import finished_card, next_place
from study.result.workers import train_on
from study.search.contract import check_images, files_of, stored_config
from study.search.devices import spread
from study.search.engine import Engine
from study.search.local import local_processes
from study.search.open_study import OpenStudy
from study.search.opening import StudyWithImages, open_all, with_absolute_data
from study.search.settle import StoredStudy, settle, stored_study
from study.search.standing import search_seconds, winner
from study.search.trial import TrialEnd, TrialNews, Watch, objective
from study.search.worker import budget_reached, search, work_on
from study.storage.door import check_storage, load_study, open_storage
from study.storage.names import check_name
from study.storage.owners.locks import FINAL, alone
from study.storage.owners.processes import now
from study.storage.trouble import storage_trouble


@dataclass(frozen=True)
class AlreadyFinished:
    """News, and the only one, of a study that already has its model and to which nothing was added."""

    directory: Path
    more: str  # the command to type in order to add to it


News = Plan | StudyWithImages | TrialNews | FinalEpoch | Activity | Outcome

ONLY_TYPED = ("trials", "hours", "positive", "leaky_score", "pretrained")
"""Fields that make a study longer or change its report: in an existing study they stay unless they are typed."""

logger = logging.getLogger(__name__)


def run(
    asked: StudyRequest,
    name: str,
    url: str,
    devices: Sequence[str],
    progress: Progress | None = None,
    *,
    since: float | None = None,
    watch: Watch | None = None,
    searching: bool = True,
    engine: Engine | None = None,
) -> Iterator[News | AlreadyFinished]:
    """Search until the budget is reached, then train, score and export the winner; yields news.

    Finishes what an earlier run left; for a finished study to which nothing is added, the only news is
    AlreadyFinished. If another process runs the same study, this one works beside it. `since`: when this command began,
    by processes.now. `devices`: workers are spread over them (study.search.devices), and the first is used for
    everything else. `watch` is told of each training step in this process. Without `searching` the final stage starts
    at once. `engine` runs the workers; by default this process is the only one, or starts as many as `workers` says.
    """
    began = now() if since is None else since
    device = torch.device(devices[0])
    measured = None if progress is None else partial(progress, "measuring")
    with storage_trouble(url):
        check_storage(url)
        before = stored_study(check_name(name), url)
        take_threads(before.threads if before else None)
        asked = with_absolute_data(_without_defaults(asked, before))
        config, planned = settle(asked, name, url, device, measured, began)
        settled = now() - began
        if planned:
            yield planned
        if searching and not engine and config.workers < len(devices):
            logger.warning(
                f"{', '.join(devices[config.workers :])}: not used (--workers {len(devices)} uses all {len(devices)})"
            )
        if engine is None and config.workers > 1:
            engine = local_processes
            gather()
        try:
            opened = open_all(config, name, url, progress, create=True, asked=asked, planned=planned)
        except StudyError:
            if not planned or not stored_study(name, url):
                raise
            # Another command with the same name was faster, and planned otherwise: this one joins.
            config, planned = settle(asked, name, url, device, measured, began)
            opened = open_all(config, name, url, progress, create=True, asked=asked, planned=planned)
        study = opened.study
        ended = not searching or _searched(study)
        if ended and finished_card(study.folder / "model", study, config, opened.dataset):
            yield AlreadyFinished(study.folder / "model", _adding(study, name))
            return
        if openings(study) and (not ended or (before and config.pretrained and not before.config.pretrained)):
            _tell_of_openings(study)
        already = search_seconds(study.own_trials())
        with study.while_it_exists(), study.clock.running(began, already):
            done = len(study.own_trials())
            if planned and not done:  # a study with trials was begun before it was planned
                study.stage_ends("measuring", settled)
                study.stage_ends("images")
            if study.attribute(THREADS, int) is None:
                study.remember(THREADS, torch.get_num_threads())
            yield opened
            if searching and config.hours is not None:
                warm_up()
            count = len(opened.dataset.labels)
            if engine and searching:
                yield from _compared(engine(name, url, spread(devices, config.workers), work_on), study, count)
            work = opened.workspace(device)
            if not engine and searching:
                yield from _compared(search(study, objective(work, watch=watch)), study, count)
            if len(study.own_trials()) > done or not study.has_ended("search"):
                study.stage_ends("search")
            helpers = partial(_helped, engine, name, url, devices, config.workers) if engine else None
            yield Activity("the final stage (one process at a time)")
            with alone(study.storage, study.folder, FINAL, _waiting):
                yield from finish(study, work, None, study.folder / "model", watch=watch, helpers=helpers)


def _compared(news: Iterator[TrialNews], study: OpenStudy, images: int) -> Iterator[News]:
    """Pass on news of the search; if its first trials differ from the plan, plan the rest again and record that."""
    for one in news:
        yield one
        planned = study.planned() if isinstance(one, TrialEnd) else None
        if planned is None:
            continue
        config, own = study.config, study.own_trials()
        took = [
            (cost_of(config.space, trial.params, config.image_size), seconds)
            for trial in own
            if (seconds := number(trial.user_attrs, EPOCH_SECONDS))
        ]
        again = replan(config, planned, Images(count=images, side=None, grouped=True), took)
        if again:
            study.remember(PLANNED, again.model_dump(mode="json"))
            yield again


def _without_defaults(asked: StudyRequest, before: StoredStudy | None) -> StudyRequest:
    """Return what was asked for, with an existing study's values for ONLY_TYPED fields that nobody typed."""
    if before is None or asked.given is None:
        return asked
    there = before.config.model_dump(mode="json")
    kept = {key: there[key] for key in ONLY_TYPED if key not in asked.given}
    return replace(asked, fields={**asked.fields, **kept})


def _searched(study: OpenStudy) -> bool:
    """Return whether nothing is left to search: all wanted trials have ended, or the time for them is over."""
    enough = budget_reached(study.own_trials(), stored_config(study.study)) and not study.trials(TrialState.RUNNING)
    return study.has_trained() and (enough or study.search_seconds_left() <= 0)


def _adding(study: OpenStudy, name: str) -> str:
    """Return the command that adds to a study: trials, or hours, or both if both are used up."""
    config, own = stored_config(study.study), study.own_trials()
    more = f" --trials {2 * len(own)}" if budget_reached(own, config) else ""
    if config.hours is not None and study.search_seconds_left() <= 0:
        more += f" --hours {2 * config.hours:g}"
    return f"study resume {quote(name)}{more}"


def _tell_of_openings(study: OpenStudy) -> None:
    """Warn that the test part was opened, before time is spent on opening it again."""
    opened, model = len(openings(study)), study.folder / "model"
    times = "once" if opened == 1 else f"{opened} times"
    keeps = f"; the model in {model} is then kept in {next_place(model)}" if model.exists() else ""
    logger.warning(
        f"the test part was opened {times} in this study, and will be opened again if another trial wins, or is "
        f"compared: the score is then optimistic{keeps}"
    )


def _helped(
    engine: Engine, name: str, url: str, devices: Sequence[str], workers: int, jobs: int
) -> Generator[FinalEpoch, None, bool]:
    """Run trainings after the search by several workers (see study.result.final.Helpers)."""
    if engine is local_processes and jobs < 2:  # one training alone is done here, with all threads
        return False
    yield from engine(name, url, spread(devices, min(workers, jobs)), train_on)
    return True


def retrain(
    name: str,
    url: str,
    device: torch.device,
    number: int | None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    *,
    on_all: bool = False,
) -> Iterator[News]:
    """Train a trial's architecture again from fresh weights, into model/, or model-trial-N/ if it is not the winner.

    `number`: of the trial; None: the winner. `on_all`: instead, train the scored model's architecture on all images,
    into model-all/. Raises StudyError and DataError.
    """
    with storage_trouble(url):
        found = load_study(open_storage(url, create=False, write=False), name)
        config = stored_config(found)
        take_threads(kept(found.user_attrs, THREADS, int))
        check_images(config, name, files_of(found, url))
        opened = open_all(config, name, url, progress)
        study = opened.study
        best = winner(study)
        trials = {trial.number: trial for trial in (*study.own_trials(), best)}
        if number is not None and number not in trials:
            raise StudyError(
                f"no finished trial {number} in {name!r} (there are: {', '.join(map(str, sorted(trials)))})"
            )
        yield opened
        if on_all:
            with alone(study.storage, study.folder, FINAL, _waiting):
                yield from train_on_all(study, opened.workspace(device), study.folder / "model-all", watch)
            return
        trial = None if number is None else trials[number]
        folder = "model" if number in (None, best.number) else f"model-trial-{number}"
        with alone(study.storage, study.folder, FINAL, _waiting):
            yield from finish(study, opened.workspace(device), trial, study.folder / folder, fresh=True, watch=watch)


def _waiting() -> None:
    logger.warning("another process trains or scores a model of this study; waiting for it")
