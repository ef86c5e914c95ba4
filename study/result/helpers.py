"""The trainings after the search by several workers at once, each by one of them.

They leave in runs/<name>/final what final.py would make itself, and finds there.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch

from study import StudyError
from study.result.final import final_jobs, leaky_job, leaky_place
from study.result.refit import FinalEpoch, Job, chosen, confirm, confirm_jobs, fixed_stage, ranked, train
from study.search.open_study import OpenStudy
from study.search.worker import at_work
from study.storage.locks import alone
from study.training.workspace import Workspace

LOOK_SECONDS = 0.2
"""Between two looks for a training that its worker has left."""

logger = logging.getLogger(__name__)


def train_on(name: str, url: str, device: torch.device, threads: int | None) -> Iterator[FinalEpoch]:
    """What a worker does after the search, wherever it runs: whatever nobody else trains, until all is trained."""
    with at_work(name, url, threads) as opened:
        study = opened.study
        work = fixed_stage(study, opened.workspace(device), again=False)
        best = ranked(study)[: work.config.confirm]
        trained = False
        if len(best) > 1:
            trained = yield from _each(study, work, confirm, confirm_jobs(best))
            best = yield from chosen(study, work, fresh=False, watch=None)
        if trained or not study.has_ended("confirmation"):
            study.stage_ends("confirmation")
        yield from _each(study, work, train, [job for _, job in final_jobs(study, work, best)])
        if leaky := leaky_place(study, work):
            yield from _each(study, leaky, train, [leaky_job(best[0])])


def _each(
    study: OpenStudy, work: Workspace, run: Callable[..., Generator[FinalEpoch, None, Any]], jobs: Sequence[Job]
) -> Generator[FinalEpoch, None, bool]:
    """Run what no other worker runs, until all are done by somebody; whether this one did something of it."""
    left, busy = list(jobs), False
    while left:
        for job in tuple(left):
            lock = work.folder / "final" / f"{job.name}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                with alone(study.storage, study.folder, str(lock.relative_to(study.folder)), _taken):
                    for news in run(study, work, job):  # none where it is done
                        busy = True
                        yield news
            except TakenError:
                continue
            except StudyError as error:  # whoever asked for it will come to it too, and knows what follows
                logger.info(f"{job.name}: {error}")
            left.remove(job)
        if left:
            time.sleep(LOOK_SECONDS)
    return busy


class TakenError(Exception):
    """Another worker is at it."""


def _taken() -> None:
    raise TakenError
