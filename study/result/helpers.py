"""The trainings after the search by several workers at once, each by one of them.

They leave in runs/<name>/final what final.py would make itself, and finds there.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy.exc
import torch

from study import StudyError
from study.result.final import final_jobs, leaky_job, leaky_place
from study.result.pace import OutOfTimeError
from study.result.refit import FinalEpoch, TakenError, chosen, confirm, confirm_jobs, fixed_stage, pace_of, train
from study.search.standing import ranked
from study.search.worker import at_work
from study.storage.server import was_cut_off

LOOK_SECONDS = 0.2
"""Between two looks for a training that its worker has left."""

Training = Callable[[], Generator[FinalEpoch, None, Any]]

logger = logging.getLogger(__name__)


def train_on(name: str, url: str, device: torch.device, threads: int | None) -> Iterator[FinalEpoch]:
    """What a worker does after the search, wherever it runs: whatever nobody else trains, until all is trained."""
    with at_work(name, url, threads) as opened:
        study = opened.study
        whole = opened.workspace(device)
        work = fixed_stage(study, whole, again=False)
        pace = pace_of(study, again=False, decides=False)
        best = ranked(study)[: work.config.confirm]
        trained = False
        if len(best) > 1:
            jobs = confirm_jobs(best, beside_others=True, pace=pace)
            trained = yield from _each([partial(confirm, study, work, job) for job in jobs])
            best = yield from chosen(study, work, fresh=False, watch=None, pace=pace)
            work = fixed_stage(study, whole, again=False)  # without what the hours do not hold
            best = best if work.config.confirm > 1 else ranked(study)[:1]
        if trained or not study.has_ended("confirmation"):
            study.stage_ends("confirmation")
        places = [(work, job) for _, job in final_jobs(study, work, best, pace=pace)]
        if leaky := leaky_place(study, work):
            places.append((leaky, leaky_job(best[0], pace=pace)))
        yield from _each([partial(train, study, place, replace(job, beside_others=True)) for place, job in places])


def _each(trainings: Sequence[Training]) -> Generator[FinalEpoch, None, bool]:
    """Do what no other worker does, until all are done by somebody; whether this one did something of it."""
    left, busy = list(trainings), False
    while left:
        for training in tuple(left):
            try:
                for news in training():  # none where it is done
                    busy = True
                    yield news
            except TakenError:
                continue
            except OutOfTimeError as error:  # nobody does it
                logger.info(str(error))
            except StudyError as error:  # whoever asked for it will come to it too, and knows what follows
                logger.info(str(error))
            except sqlalchemy.exc.DBAPIError as error:  # with the server its lock was lost: look who is at it now
                if not was_cut_off(error):
                    raise
                continue
            left.remove(training)
        if left:
            time.sleep(LOOK_SECONDS)
    return busy
