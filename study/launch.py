"""Bring a study to its budget and its result: the stages in order, by this process or a crew."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress

import optuna
import torch
from optuna.trial import TrialState

from data.grouping.sources import Progress
from study import StudyError
from study.config.schema import StudyConfig
from study.forkserver import gather
from study.result.final import Outcome, finish, winner
from study.result.refit import FinalEpoch
from study.search.contract import stored_config, while_it_exists
from study.search.local import crew
from study.search.members import own_trials
from study.search.opening import Opened, check_name, open_all, with_absolute_data
from study.search.trial import TrialEnd, TrialEpoch
from study.search.worker import search
from study.storage.door import backend, load_study, open_storage, runs_folder, storage_trouble
from study.storage.leases import Leases, turn

News = Opened | TrialEpoch | TrialEnd | FinalEpoch | Outcome

FINAL = "final.lock"
"""What only one process at a time may do: train, score and export."""

logger = logging.getLogger(__name__)


def run(
    config: StudyConfig, name: str, url: str, device: torch.device, progress: Progress | None = None
) -> Iterator[News]:
    """Search to the budget, then train, score and export; yields news.

    Finishes what an earlier run left. While another process runs the same study, this one works beside it.
    """
    config = with_absolute_data(config)
    if config.workers > 1:
        gather()
    with storage_trouble(url):
        opened = open_all(config, check_name(name), url, progress, create=True)
        yield opened
        with while_it_exists(opened.study, url):
            if config.workers > 1:
                yield from crew(name, url, str(device), config.workers)
                work = opened.workspace(device)
            else:
                work = opened.workspace(device)
                yield from search(opened.study, work)
            with turn(backend(opened.study), opened.folder, FINAL, _waiting):
                yield from finish(opened.study, work, None, work.folder / "model")


def retrain(
    name: str, url: str, device: torch.device, number: int | None, progress: Progress | None = None
) -> Iterator[News]:
    """Train a trial's architecture again from fresh weights; the winner into model/, another beside it."""
    with storage_trouble(url):
        kept = load_study(open_storage(url, create=False, write=False), name)
        opened = open_all(stored_config(kept), name, url, progress)
        study = opened.study
        best = winner(study)
        trials = {trial.number: trial for trial in own_trials(study)}
        if number is not None and number not in trials:
            raise StudyError(f"no finished trial {number} in {name!r} (there are: {', '.join(map(str, trials))})")
        yield opened
        trial = None if number is None else trials[number]
        folder = "model" if number in (None, best.number) else f"model-trial-{number}"
        with turn(backend(study), opened.folder, FINAL, _waiting):
            yield from finish(study, opened.workspace(device), trial, opened.folder / folder, fresh=True)


def delete(name: str, url: str) -> None:
    """Remove a study's files, then its rows. Raises StudyError while a process works on it."""
    storage = open_storage(url, create=False)
    study = load_study(storage, name)
    folder = runs_folder(url) / check_name(name)

    def refuse() -> None:
        raise StudyError(f"another process works on {name!r} (stop it first; see: study status {name})")

    def watching() -> None:
        logger.warning("a process that cannot be seen from here held a trial; watching its heartbeat for a minute")

    with storage_trouble(url), turn(storage, folder, FINAL, refuse), turn(storage, folder, waiting=refuse):
        ids = [trial._trial_id for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
        leases = Leases(storage)
        leases.prepare()
        if leases.somebody_works_on(ids, watching):
            refuse()
        with suppress(FileNotFoundError):  # with PostgreSQL they may lie on another machine
            shutil.rmtree(folder)
        optuna.delete_study(study_name=name, storage=storage)
        leases.prepare()


def _waiting() -> None:
    logger.warning("another process trains or scores a model of this study; waiting for it")
