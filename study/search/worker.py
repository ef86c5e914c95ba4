"""Worker of a study: it takes over a dead worker's trial (an orphan) or a new one, runs it, and goes on to the next."""

import logging
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import optuna
import sqlalchemy.exc
import torch
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from study.attributes import Reason
from study.config.schema import StudyConfig
from study.search.contract import stored_config
from study.search.members import point_of
from study.search.open_study import OpenStudy
from study.search.opening import StudyWithImages, open_all
from study.search.trial import HeldTrial, Objective, TrialNews, checkpoint_name, close, objective
from study.signals import TimeIsUp
from study.storage.door import load_study, open_storage
from study.storage.owners.leases import DEATHS, LeaseLostError, Leases
from study.storage.owners.locks import alone
from study.storage.owners.processes import now
from study.storage.trouble import repeated, storage_trouble, was_cut_off

LOOK_SECONDS = 0.5
"""Seconds between two looks for a trial while other workers run the last ones."""

MOST_LATE_TRIALS = 3
"""Number of trials that are tried after the hours are over, until one can become a model."""

logger = logging.getLogger(__name__)


def work_on(name: str, url: str, device: torch.device, threads: int | None) -> Iterator[TrialNews]:
    """Do the work of a worker of an existing study: open everything and search. Yields news of its trials."""
    with at_work(name, url, threads) as opened:
        yield from search(opened.study, objective(opened.workspace(device)))


@contextmanager
def at_work(name: str, url: str, threads: int | None) -> Iterator[StudyWithImages]:
    """Open an existing study as one of its workers; the study's clock runs meanwhile."""
    began = now()
    if threads:
        torch.set_num_threads(threads)
    with storage_trouble(url):
        opened = _opened(name, url)
        with opened.study.while_it_exists(), opened.study.clock.running(began):
            yield opened


@repeated
def _opened(name: str, url: str) -> StudyWithImages:
    return open_all(stored_config(load_study(open_storage(url, create=False, write=False), name)), name, url)


def search(study: OpenStudy, run: Objective) -> Iterator[TrialNews]:
    """Run trials until all that the budget allows are finished, or the hours for the search are over.

    Trials of other workers count too. Yields news of this worker's own trials.
    """
    leases = Leases(study.storage)
    leases.prepare()
    _sweep(study)
    more = True
    while more:
        try:
            more = yield from _next(study, leases, run)
        except TimeIsUp:  # the trial keeps its number and its checkpoint, so it goes on if there are more hours
            return
        except KeyboardInterrupt:  # at any moment, from taking a trial to having finished it
            leases.give_back()
            raise
        except (sqlalchemy.exc.DBAPIError, StorageInternalError) as error:
            if not was_cut_off(error):
                raise
            logger.warning("the connection to the database was lost; going on from what is saved")


def _next(study: OpenStudy, leases: Leases, run: Objective) -> Generator[TrialNews, None, bool]:
    """Run a trial, or wait a moment for those of others; return False when there is nothing left to do."""
    with alone(study.storage, study.folder) as confirm:
        if not study.is_there():
            raise KeyError(study.name)  # `while_it_exists` turns it into StudyError
        claim = _claim(study, leases, confirm) if study.search_seconds_left() > 0 or _may_go_on(study) else None
    if claim:
        yield from _run(claim, run)
        return True
    if study.search_seconds_left() <= 0 or not study.trials(TrialState.RUNNING):
        return False
    time.sleep(LOOK_SECONDS)  # if a worker of such a trial dies, this one goes on with it
    return True


def _may_go_on(study: OpenStudy) -> bool:
    """Return whether the search goes on after its hours: until one of the first trials can become a model."""
    return not study.has_trained() and len(study.own_trials()) < MOST_LATE_TRIALS


def _sweep(study: OpenStudy) -> None:
    """Remove checkpoints of trials that ended just before their worker did."""
    folder = study.folder / "checkpoints"
    left = {place.name for place in folder.glob("trial-*")}
    for trial in study.trials() if left else ():
        if trial.state.is_finished() and checkpoint_name(trial.number) in left:
            shutil.rmtree(folder / checkpoint_name(trial.number), ignore_errors=True)


def _claim(study: OpenStudy, leases: Leases, confirm: Callable[[], None]) -> HeldTrial | None:
    """Claim a trial to run, an orphan first (the sampler would count it as running); None if there is none for now.

    The caller holds the study's lock, so that no two workers see the same budget or the same history; the parameters
    are drawn while it is held. `confirm` raises an error if the lock was lost.
    """
    trials = study.trials()  # also fills the cache that adopting needs
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    for orphan in sorted(running, key=lambda trial: trial.number):
        if lease := leases.adopt(orphan._trial_id, len(orphan.intermediate_values)):
            trial = optuna.Trial(study.study, orphan._trial_id)
            return HeldTrial(study=study, trial=trial, frozen=_drawn(study, trial), lease=lease)
    if budget_reached(running + study.members.own(trials), stored_config(study.study)):
        return None
    if running and study.search_seconds_left() <= 0:  # the running one is enough for a model
        return None
    confirm()
    trial = study.study.ask()
    frozen = _drawn(study, trial)
    return HeldTrial(study=study, trial=trial, frozen=frozen, lease=leases.take_new(trial._trial_id))


def _drawn(study: OpenStudy, trial: optuna.Trial) -> FrozenTrial:
    """Draw a trial's missing parameters and return it; a trial that does not belong to this study stays as it is."""
    frozen = study.storage.get_trial(trial._trial_id)
    space = study.members.space
    if study.members.stranger(frozen) or frozen.params.keys() >= space.keys():
        return frozen
    point = {**trial.relative_params, **point_of(frozen)}
    drawn = {
        name: one.to_external_repr(one.to_internal_repr(point[name]))  # as the database will give it back: 3, not 3.0
        for name, one in space.items()
        if name not in frozen.params
    }
    study.storage.set_params(trial._trial_id, drawn, space)
    frozen.params, frozen.distributions = {**frozen.params, **drawn}, space
    return frozen


def _run(held: HeldTrial, run: Objective) -> Iterator[TrialNews]:
    """Run a trial that this worker holds, or close it with the reason why it is not run."""
    study, lease = held.study, held.lease
    try:
        with lease:
            if too_large := study.members.too_large(held.frozen):
                yield close(study, held.frozen, TrialState.FAIL, Reason("above_limit", too_large))
            elif strange := study.members.stranger(held.frozen):
                yield close(study, held.frozen, TrialState.FAIL, Reason("not_of_this_study", strange))
            elif lease.deaths >= DEATHS:
                words = f"its worker died {lease.deaths} times after the same epoch (out of memory, or a crash)"
                yield close(study, held.frozen, TrialState.PRUNED, Reason("worker_died", words))
            else:
                yield from run(held)
    except LeaseLostError:
        return  # this process stood still for a minute, and another one has taken the trial
    except UpdateFinishedTrialError:
        logger.warning(f"another program has ended trial {held.trial.number} while it ran; going on with the next")


def budget_reached(trials: list[FrozenTrial], config: StudyConfig) -> bool:
    """Return whether these trials (the study's own and the running ones) are at least as many as were wanted."""
    return config.trials is not None and len(trials) >= config.trials
