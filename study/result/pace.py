"""The trainings after the search, kept within the hours while they run: on a busy machine they are fewer, or shorter.

What is shipped is shortened. What only compares or confirms is whole or left out, since networks that were trained for
unequal lengths say nothing of each other.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import BaseModel

from models.training.course import Move
from study.attributes import FINAL_STAGE
from study.budget.load import Load
from study.budget.plan import Planned
from study.search.open_study import OpenStudy
from study.training.start import Training

MARGIN = 0.95
"""Share of the time that is left that the trainings may take."""
SPARE_SHARE, SPARE_SECONDS = 0.10, 60.0
"""Of the hours, for others that begin to use the machine when nothing is left to be shortened; at most so much."""
NEEDED = 0.8
"""Share of what is kept for the result that weights, scores, export and card take; the rest only compares or shows."""
LOOK_SECONDS = 1.0
"""Between two looks in the first epoch."""
WORTH = 1.5
"""Times as many epochs left as were decided, from which a training is made longer again."""
FINAL_SHARE = 1.15
"""An epoch of the final training, on more images and without validation, beside one of a trial."""
MOST_SLOWER = 8.0
"""Times that the machine may be taken for slower than a quiet one: what is kept for the result is never more."""

SCRATCH = "from scratch"
"""The best network that did not begin from a pretrained one, beside a winner that did."""

logger = logging.getLogger(__name__)


class OutOfTimeError(Exception):
    """A training that compares or confirms is left out: the hours do not hold it."""


class FinalStage(BaseModel):
    """What the stage after the search does, fixed before its first epoch; what proves too long is left out later."""

    trials: int  # in the study by then
    hours: float  # as they were given by then
    confirm: int
    confirm_epochs: int | None
    final_epochs: int
    final_seeds: int
    rivals: list[str]
    leaky_score: bool = True  # where it is asked for
    scratch: bool = True  # the best network from scratch, where the winner is none


@dataclass(frozen=True)
class Lap:
    """An epoch of one of a stage's trainings, about to begin or just ended."""

    kind: str  # "shipped", "seed", "confirmation", "leaky", SCRATCH, or the name of a rival
    seed: int
    trial: int
    done: int  # epochs of this training
    epochs: int  # in all
    after: int  # trainings of the same kind that follow
    seconds: float  # that an epoch of it takes

    @property
    def words(self) -> str:
        """What it is."""
        if self.kind == "confirmation":
            return "the confirmation"
        which = f" with seed {self.seed}" if self.kind == "seed" else f" ({self.kind})"
        return f"the training of trial {self.trial}{which}"


class Pace:
    """The time that is left for the trainings after the search, and what is decided by it.

    `decides`: this process decides for the whole stage; else it obeys, and shortens only what it ships. `known`: the
    winner may be one that began from a pretrained network.
    """

    def __init__(self, study: OpenStudy, planned: Planned, hours: float, *, decides: bool, known: bool = True) -> None:
        self._study, self._planned, self._hours = study, planned, hours
        self._result = planned.stages["result"] - (0.0 if known else planned.known)
        self._decides = decides
        self._load = Load()
        self._slower = planned.slower
        self._said: set[str] = set()
        self.at_once = 1  # trainings

    def left(self) -> float:
        """Seconds for trainings."""
        return MARGIN * (self.seconds() - NEEDED * self.result_seconds())

    def seconds(self) -> float:
        """Of the hours, without what is kept for what nobody foresees."""
        whole = 3600 * self._hours
        return whole - min(SPARE_SHARE * whole, SPARE_SECONDS) - self._study.clock.spent()

    def result_seconds(self) -> float:
        """Kept for scores, export and report on a machine as busy as this one was of late."""
        return self._result / self._planned.slower * self.slower()

    def slower(self) -> float:
        """How many times slower everything is than on a quiet machine."""
        return min(MOST_SLOWER, max(1.0, self._slower))

    def look(self) -> None:
        """Note how busy the machine is."""
        self._slower = (self._slower + self._load.times_slower()) / 2

    def hold(self, lap: Lap) -> None:
        """Raise OutOfTimeError where a training that is whole or not at all is not wanted any more, or is too long."""
        stage: FinalStage | None = self._study.attribute(FINAL_STAGE, FinalStage)
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
        """Decide by what another process is at: it obeys when its epoch ends."""
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


@dataclass
class Pacer:
    """Keeps the training that is shipped within the time left, by moving its end; what is decided is written first."""

    pace: Pace
    longest: int  # epochs, as they were fixed
    write: Callable[[list[Move]], None]
    training: Training | None = None  # once it is about to begin
    _began: tuple[int, float] | None = field(default=None, init=False)
    _looked: float = field(default=0.0, init=False)

    def after_step(self, step: int, steps: int) -> None:
        """In the first epoch, which may take longer than all were thought to."""
        now = time.perf_counter()
        if self._began is None:
            self._began = step, now  # the first steps take longer than others
        first, began = self._began
        if now - self._looked < LOOK_SECONDS or step < first + 2 or step == steps:
            return
        self._looked = now
        self._decide(step, (now - began) / (step - first) * steps)

    def after_epoch(self, epoch: int, seconds: float) -> None:
        """At the end of each."""
        self.pace.look()
        assert self.training is not None
        self._decide(epoch * self.training.steps, seconds)

    def _decide(self, done: int, seconds: float) -> None:
        """Move the end where the steps that are left do not fit, or much more would; `seconds`: of an epoch."""
        assert self.training is not None
        course, steps = self.training.course, self.training.steps
        if done <= course.moves[-1][0] or done >= course.end:
            return
        behind = -(-done // steps)  # epochs that are done or begun
        begun = (behind * steps - done) / steps * seconds
        left = self.pace.left() - begun
        more = math.floor(max(0.0, left) / seconds)
        if done < steps and left > 0:  # it may be faster by its end; then it is looked at again
            more = max(1, more)
        whole = min(self.longest, behind + more)
        now = course.end // steps
        if whole < now or whole - behind >= WORTH * (now - behind) > 0:
            logger.info(f"after {done} steps of {steps} an epoch: {whole} epochs in place of {now}")
            self.write([*course.moves[1:], (done, whole * steps)])
            course.move(done, whole * steps)
