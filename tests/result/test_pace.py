"""The trainings after the search, kept within the hours: with a clock that is moved, and with killed processes."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial

from models.training.course import Course
from study.attributes import FINAL_STAGE, PLANNED
from study.budget.load import Load
from study.budget.stages import Plan
from study.config.schema import StudyConfig
from study.config.space import distributions
from study.result.pace import NEEDED, SPARE_SHARE, FinalStage, Lap, OutOfTimeError, Pace, Pacer
from study.result.refit import Job, confirm, train
from study.search.open_study import OpenStudy
from study.training.start import TrainingRun
from study.training.workspace import Workspace
from tests.conftest import open_work

PLAN = Plan(
    stages={"measuring": 1, "images": 1, "search": 40, "confirmation": 0, "final training": 8, "result": 10 / NEEDED},
    hours=0.1,
    after_search=18,
    epoch=1.0,
)


SPARE = 360 * SPARE_SHARE


@dataclass
class MovedClock:
    """A study's clock that says what it is told to say, one thing after the other, the last one for ever."""

    says: list[float] = field(default_factory=lambda: [0.0])

    def spent(self) -> float:
        return self.says.pop(0) if len(self.says) > 1 else self.says[0]


@dataclass
class Place:
    study: OpenStudy
    work: Workspace
    trial: FrozenTrial
    clock: MovedClock

    def pace(self, *, decides: bool = True) -> Pace:
        return Pace(self.study, PLAN, PLAN.hours, decides=decides)

    def job(self, **given: Any) -> Job:
        options: dict[str, Any] = {"kind": "shipped", "pace": self.pace(), "fresh": False, **given}
        return Job(options.pop("stage", "final training"), self.trial, given.pop("seed", 0), 0, 1, **options)

    @property
    def record(self) -> dict[str, Any]:
        (file,) = (self.work.folder / "final").glob("trial-*.json")
        found: dict[str, Any] = json.loads(file.read_text())
        return found


@pytest.fixture
def place(workspace: Callable[..., Workspace], tiny: Callable[..., StudyConfig], tmp_path: Path) -> Place:
    """A study with hours and a plan, and a trial of it whose learning rate depends on its length."""
    config = tiny(final_epochs=8, hours=PLAN.hours, checkpoint_seconds=0, **{"space.schedule": "onecycle"})
    work = workspace(config)
    clock: Any = MovedClock()
    study = replace(open_work(work, f"sqlite:///{tmp_path}/optuna.db"), clock=clock)
    study.remember(PLANNED, PLAN.model_dump(mode="json"))
    stage = FinalStage(
        trials=0, hours=0.1, confirm=2, confirm_epochs=4, final_epochs=8, final_seeds=2, rivals=["runner-up"]
    )
    study.remember(FINAL_STAGE, stage.model_dump(mode="json"))
    trial = study.study.ask(distributions(config.space))
    return Place(study, work, study.storage.get_trial(trial._trial_id), clock)


def run(training: Any, epochs: int | None = None) -> Any:
    """Take so many epochs of a training and leave it, as a kill does; or all, and what it returns."""
    count = 0
    while True:
        try:
            next(training)
        except StopIteration as end:
            return end.value
        count += 1
        if count == epochs:
            training.close()
            return None


@dataclass
class Slow:
    """A training of which an epoch takes a second, whatever the machine does."""

    place: Place
    monkeypatch: pytest.MonkeyPatch

    def __post_init__(self) -> None:
        before = Pacer.after_epoch
        self.monkeypatch.setattr(Pacer, "after_epoch", lambda pacer, epoch, _: before(pacer, epoch, 1.0))
        self.monkeypatch.setattr(Load, "times_slower", lambda _: 1.0)


def test_a_training_that_takes_too_long_becomes_shorter_and_kills_change_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    Slow(place, monkeypatch)
    # 360 seconds in all, 25 spared, 10 for the result: room for 4 more epochs after the second.
    place.clock.says = [-SPARE, 345.0 - SPARE, 346.0 - SPARE, 347.0 - SPARE, 348.0 - SPARE, 349.0 - SPARE]
    whole = run(train(place.study, place.work, place.job()))
    assert len(whole.epochs) == 6
    ((done, end),) = place.record["moves"]
    assert (done % 2, end) == (0, 3 * done)
    rates = [epoch.learning_rate for epoch in whole.epochs]
    assert rates[-1] < 0.2 * max(rates)  # it came down to the end
    for killed_after in range(1, 7):
        folder = place.work.folder / "final"
        kept = {**place.record, "weights_sha256": None, "epochs": []}
        (file,) = folder.glob("trial-*.json")
        file.write_text(json.dumps(kept))
        place.clock.says = [0.0]
        run(train(place.study, place.work, place.job(pace=None)), killed_after)
        again = run(train(place.study, place.work, place.job(pace=None)))
        assert again.digest == whole.digest


def test_a_decision_is_written_before_it_is_acted_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    Slow(place, monkeypatch)
    place.clock.says = [0.0, 345.0 - SPARE]
    training = train(place.study, place.work, place.job())
    run(training, 3)
    moves = place.record["moves"]
    assert len(moves) == 1
    place.clock.says = [0.0]  # a quiet machine by now: what was decided stands, or is made longer
    again = run(train(place.study, place.work, place.job(pace=None)))
    assert len(again.epochs) == 6
    assert place.record["moves"] == moves


def test_in_the_first_epoch_each_step_is_looked_at(place: Place) -> None:
    written: list[Any] = []
    pacer = Pacer(place.pace(), 8, written.append)
    pacer.training = TrainingRun(None, None, iter(()), steps=100, course=Course(800))  # type: ignore[arg-type]
    pacer.pace.left = lambda: 10.0  # type: ignore[method-assign]
    pacer._decide(10, 4.0)  # of an epoch that takes 4 seconds 0.9 are left, 3.6 s: one more fits
    assert written == [[(10, 200)]]
    assert pacer.training.course.end == 200
    pacer._decide(20, 400.0)
    assert pacer.training.course.end == 100  # never less than the epoch that has begun
    pacer._decide(10, 0.001)  # from before a kill
    assert len(written) == 2


def test_a_quiet_machine_gives_back_what_a_busy_one_took(place: Place) -> None:
    pacer = Pacer(place.pace(), 8, lambda _: None)
    pacer.training = TrainingRun(None, None, iter(()), steps=10, course=Course(80, [(10, 30)]))  # type: ignore[arg-type]
    pacer.pace.left = lambda: 100.0  # type: ignore[method-assign]
    pacer._decide(20, 1.0)
    assert pacer.training.course.moves[-1] == (20, 80)


def lap(kind: str, **given: Any) -> Lap:
    return Lap(**{"kind": kind, "seed": 1, "trial": 3, "done": 0, "epochs": 8, "after": 0, "seconds": 1.0, **given})


def test_what_compares_is_whole_or_left_out_for_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Load, "times_slower", lambda _: 1.0)
    pace, other = place.pace(), place.pace(decides=False)
    place.clock.says = [340.0 - SPARE]  # 9.5 s left for trainings
    pace.hold(lap("runner-up"))
    with pytest.raises(OutOfTimeError, match=r"trial 3 with seed 1 is left out: it would take 12 s more"):
        pace.hold(lap("seed", epochs=12))
    other.hold(lap("runner-up"))
    with pytest.raises(OutOfTimeError):
        other.hold(lap("seed"))  # another process obeys
    with pytest.raises(OutOfTimeError, match=r"the confirmation is left out"):
        pace.hold(lap("confirmation", epochs=4, after=3))
    stage = place.study.attribute(FINAL_STAGE, FinalStage)
    assert (stage.confirm, stage.final_seeds, stage.rivals) == (1, 1, ["runner-up"])
    pace.hold(lap("shipped"))
    place.clock.says = [359.0]
    other.hold(lap("runner-up"))  # who does not decide goes on until somebody has decided
    pace.heard(lap("runner-up"))
    with pytest.raises(OutOfTimeError):
        other.hold(lap("runner-up"))


def test_a_confirmation_that_is_left_out_leaves_nothing_behind(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Load, "times_slower", lambda _: 1.0)
    place.clock.says = [0.0, 0.0, 355.0]
    with pytest.raises(OutOfTimeError):
        run(confirm(place.study, place.work, place.job(stage="confirmation", kind="confirmation")))
    assert not list((place.work.folder / "final").glob("*.json"))
    assert not list((place.work.folder / "checkpoints").glob("*"))
