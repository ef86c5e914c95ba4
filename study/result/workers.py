"""The trainings after the search, shared out among several workers; each training is done by one of them.

They leave their results in runs/<name>/final, where final.py finds them instead of training itself.
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
from study.storage.trouble import was_cut_off

LOOK_SECONDS = 0.2
"""Seconds between two checks whether a training was left by its worker."""

Training = Callable[[], Generator[FinalEpoch, None, Any]]

logger = logging.getLogger(__name__)


def train_on(name: str, url: str, device: torch.device, threads: int | None) -> Iterator[FinalEpoch]:
    """Do, as one of several workers, the trainings after the search that no other worker does, until all are done."""
    with at_work(name, url, threads) as opened:
        study = opened.study
        whole = opened.workspace(device)
        work = fixed_stage(study, whole, again=False, at_once=whole.config.workers)
        pace = pace_of(study, again=False, decides=False)
        best = ranked(study)[: work.config.confirm]
        trained = False
        if len(best) > 1:
            jobs = confirm_jobs(best, beside_others=True, pace=pace)
            trained = yield from _each([partial(confirm, study, work, job) for job in jobs])
            best = yield from chosen(study, work, fresh=False, watch=None, pace=pace)
            # Without what proved too long for the hours.
            work = fixed_stage(study, whole, again=False, at_once=whole.config.workers)
            best = best if work.config.confirm > 1 else ranked(study)[:1]
        if trained or not study.has_ended("confirmation"):
            study.stage_ends("confirmation")
        places = [(work, job) for _, job in final_jobs(study, work, best, pace=pace)]
        if leaky := leaky_place(study, work):
            places.append((leaky, leaky_job(best[0], pace=pace)))
        yield from _each([partial(train, study, place, replace(job, beside_others=True)) for place, job in places])


def _each(trainings: Sequence[Training]) -> Generator[FinalEpoch, None, bool]:
    """Run unclaimed trainings until all are done by some worker; return True if this one ran any."""
    left, busy = list(trainings), False
    while left:
        for training in tuple(left):
            try:
                for news in training():  # there are none if it is done already
                    busy = True
                    yield news
            except TakenError:
                continue
            except OutOfTimeError as error:  # no worker does it
                logger.info(str(error))
            except StudyError as error:  # final.py will meet it, too, and decides what follows
                logger.info(str(error))
            except sqlalchemy.exc.DBAPIError as error:  # the lock was lost with the server: try again
                if not was_cut_off(error):
                    raise
                continue
            left.remove(training)
        if left:
            time.sleep(LOOK_SECONDS)
    return busy
