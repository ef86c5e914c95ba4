"""Pacing of the trainings after the search: on a busy machine they become fewer, or shorter, to keep within the hours.

The training of the model that is shipped is shortened. A training that only compares or confirms is done whole or left
out, since networks that were trained for unequal lengths say nothing about each other.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pydantic import BaseModel

from models.training.course import Move
from study.attributes import FINAL_STAGE
from study.budget.load import Load
from study.budget.stages import Plan
from study.search.open_study import OpenStudy
from study.training.start import TrainingRun

MARGIN = 0.95
"""Share of the remaining time that the trainings may take."""
SPARE_SHARE, SPARE_SECONDS = 0.10, 60.0
"""Reserve for other programs that begin to use the machine when nothing is left to be shortened.

It is this share of the hours, but at most that many seconds.
"""
NEEDED = 0.65
"""Share of the time kept for the result that weights, scores, export and card take.

The rest is for parts that only compare or show, and may be left out.
"""
LOOK_SECONDS = 1.0
"""Least seconds between two checks of the pace in the first epoch."""
WORTH = 1.5
"""A training is lengthened again if at least this many times its remaining epochs fit."""
FINAL_SHARE = 1.15
"""Ratio of the time of a final epoch, with more images and without validation, to that of a trial's epoch."""
MOST_SLOWER = 8.0
"""Largest factor by which the machine may count as slower than a quiet one.

It limits the time that is kept for the result.
"""

SCRATCH = "from scratch"
"""Role of the best network without pretrained weights, which is compared with a winner that has them."""

logger = logging.getLogger(__name__)


class OutOfTimeError(Exception):
    """Error for a training that compares or confirms and is left out, because the hours are too short for it."""


class FinalStage(BaseModel):
    """Settings of the stage after the search, fixed before its first epoch; what proves too long is left out later."""

    trials: int  # number of trials in the study when this was fixed
    hours: float  # hours of the study when this was fixed
    confirm: int
    confirm_epochs: int | None
    final_epochs: int
    final_seeds: int
    rivals: list[str]
    leaky_score: bool = True  # whether the published protocol's score is made, if it is asked for
    scratch: bool = True  # whether the best network from scratch is compared, if the winner is pretrained


@dataclass(frozen=True)
class Lap:
    """Progress of one training after the search, when an epoch is about to begin or has just ended."""

    kind: str  # "shipped", "seed", "confirmation", "leaky", SCRATCH, or the name of a rival
    seed: int
    trial: int
    done: int  # epochs of this training that are done
    epochs: int  # epochs of this training in all
    after: int  # number of trainings of the same kind that follow
    seconds: float  # seconds per epoch

    @property
    def words(self) -> str:
        """Name of the training, for messages."""
        if self.kind == "confirmation":
            return "the confirmation"
        which = f" with seed {self.seed}" if self.kind == "seed" else f" ({self.kind})"
        return f"the training of trial {self.trial}{which}"


class Pace:
    """Time left for the trainings after the search, and the decisions that depend on it.

    `decides`: this process decides for all of them; otherwise it follows those decisions, and decides only on the
    length of the shipped training. `known`: count what the result of a pretrained winner takes in addition.
    """

    def __init__(self, study: OpenStudy, planned: Plan, hours: float, *, decides: bool, known: bool = True) -> None:
        self._study, self._planned, self._hours = study, planned, hours
        self._result = planned.stages["result"] - (0.0 if known else planned.known)
        self._decides = decides
        self._load = Load()
        self._slower = planned.slower
        self._said: set[str] = set()
        self.at_once = 1  # trainings that run at the same time

    def left(self) -> float:
        """Return the seconds left for trainings, without what the result needs."""
        return MARGIN * (self.seconds() - NEEDED * self.result_seconds())

    def seconds(self) -> float:
        """Return the seconds left of the hours, less the reserve for other programs."""
        whole = 3600 * self._hours
        return whole - min(SPARE_SHARE * whole, SPARE_SECONDS) - self._study.clock.spent()

    def result_seconds(self) -> float:
        """Return the seconds kept for scores, export and report, given how busy this machine was lately."""
        return self._result / self._planned.slower * self.slower()

    def slower(self) -> float:
        """Return how many times slower everything is than on a quiet machine."""
        return min(MOST_SLOWER, max(1.0, self._slower))

    def look(self) -> None:
        """Measure how busy the machine is, and update `slower`."""
        self._slower = (self._slower + self._load.times_slower()) / 2

    def hold(self, lap: Lap) -> None:
        """Raise OutOfTimeError if a comparison or confirmation is left out; if it is too long, record that for all."""
        stage = self._study.attribute(FINAL_STAGE, FinalStage)
        if stage is None:
            return
        if not _wanted(stage, lap):
            raise OutOfTimeError(f"{lap.words} is left out: the hours do not hold it")
        if not self._decides:
            return
        need = (lap.epochs - lap.done) * lap.seconds
        if lap.kind == "confirmation":
            need = (need + lap.after * lap.epochs * lap.seconds) / self.at_once
            need += FINAL_SHARE * lap.seconds * stage.final_epochs
        if need > (left := self.left()):
            self._study.remember(FINAL_STAGE, _without(stage, lap).model_dump(mode="json"))
            raise OutOfTimeError(
                f"{lap.words} is left out: it would take {need:.0f} s more, and {max(0.0, left):.0f} s are left for it"
            )

    def heard(self, lap: Lap) -> None:
        """Decide for another process, as `hold` does for this one; it obeys after its epoch."""
        try:
            self.hold(lap)
        except OutOfTimeError as error:
            if str(error) not in self._said:
                self._said.add(str(error))
                logger.warning(str(error))


def _wanted(stage: FinalStage, lap: Lap) -> bool:
    if lap.kind == "shipped":
        return True
    if lap.kind == "confirmation":
        return stage.confirm > 1
    if lap.kind == "leaky":
        return stage.leaky_score
    if lap.kind == SCRATCH:
        return stage.scratch
    return lap.seed < stage.final_seeds if lap.kind == "seed" else lap.kind in stage.rivals


def _without(stage: FinalStage, lap: Lap) -> FinalStage:
    if lap.kind == "confirmation":
        return stage.model_copy(update={"confirm": 1})
    if lap.kind == "leaky":
        return stage.model_copy(update={"leaky_score": False})
    if lap.kind == SCRATCH:
        return stage.model_copy(update={"scratch": False})
    if lap.kind == "seed":
        return stage.model_copy(update={"final_seeds": lap.seed})
    return stage.model_copy(update={"rivals": [one for one in stage.rivals if one != lap.kind]})


RESULT: Mapping[str, float] = MappingProxyType({"pretrained": 0.6, "trees": 0.5, "timing": 0.4})
"""Optional parts of the result, the first to be left out first -> share of the time kept for the result.

That share must remain when the part is done; if less is left, the part is left out.
"""


def time_for(what: str, pace: Pace | None) -> float:
    """Return the seconds that an optional part of the result may take; 0 or less: none are left."""
    if pace is None:
        return math.inf
    pace.look()
    return pace.seconds() - RESULT[what] * pace.result_seconds()


@dataclass
class Pacer:
    """Control that moves the end of the shipped training so that it fits the time left; each move is written first."""

    pace: Pace
    longest: int  # largest number of epochs, as fixed before the training
    write: Callable[[list[Move]], None]
    training: TrainingRun | None = None  # None before it is built
    _began: tuple[int, float] | None = field(default=None, init=False)
    _looked: float = field(default=0.0, init=False)

    def after_step(self, step: int, steps: int) -> None:
        """Check the pace within the first epoch, which alone may take longer than all epochs were expected to."""
        now = time.perf_counter()
        if self._began is None:
            self._began = step, now  # the first steps take longer than others
        first, began = self._began
        if now - self._looked < LOOK_SECONDS or step < first + 2 or step == steps:
            return
        self._looked = now
        self._decide(step, (now - began) / (step - first) * steps)

    def after_epoch(self, epoch: int, seconds: float) -> None:
        """Check the pace at the end of an epoch, which took `seconds`."""
        self.pace.look()
        assert self.training is not None
        self._decide(epoch * self.training.steps, seconds)

    def _decide(self, done: int, seconds: float) -> None:
        """Move the end if the remaining epochs do not fit, or many more would; `seconds`: of one epoch."""
        assert self.training is not None
        course, steps = self.training.course, self.training.steps
        if done <= course.moves[-1][0] or done >= course.end:
            return
        behind = -(-done // steps)  # number of epochs that are done or begun
        begun = (behind * steps - done) / steps * seconds
        left = self.pace.left() - begun
        more = math.floor(max(0.0, left) / seconds)
        if done < steps and left > 0:  # the epoch may become faster; at its end this is decided again
            more = max(1, more)
        whole = min(self.longest, behind + more)
        now = course.end // steps
        if whole < now or whole - behind >= WORTH * (now - behind) > 0:
            logger.info(f"after {done} steps ({steps} an epoch): {whole} epochs in place of {now}")
            self.write([*course.moves[1:], (done, whole * steps)])
            course.move(done, whole * steps)
