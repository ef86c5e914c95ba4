"""Bring a study to its budget and its result: the stages in order, by this process or a crew."""

import logging
import shutil
from collections.abc import Iterator

import optuna
import torch
from optuna.trial import TrialState

from data.sources import Progress
from study import StudyError
from study.config import StudyConfig
from study.contract import stored_config
from study.crew import crew
from study.final import FinalEpoch, Outcome, finish, winner
from study.leases import HELD, Leases, holders, turn
from study.objective import TrialEnd, TrialEpoch
from study.opening import Opened, check_name, open_all, with_absolute_data
from study.server import gather
from study.storage import backend, load_study, open_storage, runs_folder, storage_trouble, while_it_exists
from study.worker import search

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
        opened = open_all(config, check_name(name), open_storage(url, create=True), url, progress)
        yield opened
        with while_it_exists(opened.study, url):
            if config.workers > 1:
                yield from crew(name, url, str(device), config.workers)
                work = opened.workspace(device)
            else:
                work = opened.workspace(device)
                yield from search(opened.study, work)
            with turn(backend(opened.study), opened.folder, FINAL, _waiting):
                yield from finish(opened.study, work, winner(opened.study), work.folder / "model")


def retrain(
    name: str, url: str, device: torch.device, number: int | None, progress: Progress | None = None
) -> Iterator[News]:
    """Train a trial's architecture again from fresh weights; the winner into model/, another beside it."""
    with storage_trouble(url):
        storage = open_storage(url, create=False)
        opened = open_all(stored_config(load_study(storage, name)), name, storage, url, progress)
        study = opened.study
        best = winner(study)
        numbers = [trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        if number is not None and number not in numbers:
            raise StudyError(f"no finished trial {number} in {name!r} (there are: {', '.join(map(str, numbers))})")
        yield opened
        trial = best if number is None else study.trials[number]
        folder = "model" if trial.number == best.number else f"model-trial-{trial.number}"
        with turn(storage, opened.folder, FINAL, _waiting):
            yield from finish(study, opened.workspace(device), trial, opened.folder / folder, fresh=True)


def delete(name: str, url: str) -> None:
    """Remove a study's files, then its rows. Raises StudyError while a process works on it."""
    storage = open_storage(url, create=False)
    study = load_study(storage, name)
    folder = runs_folder(url) / check_name(name)

    def refuse() -> None:
        raise StudyError(f"another process works on {name!r} (stop it first; see: study status {name})")

    with storage_trouble(url), turn(storage, folder, FINAL, refuse), turn(storage, folder, waiting=refuse):
        ids = [trial._trial_id for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
        if any(who.startswith(HELD) for trial_id, who in holders(storage).items() if trial_id in ids):
            refuse()
        shutil.rmtree(folder)
        optuna.delete_study(study_name=name, storage=storage)
        Leases(storage).prepare()


def _waiting() -> None:
    logger.warning("another process trains or scores a model of this study; waiting for it")
