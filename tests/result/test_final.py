"""Trainings after the search that come to nothing: who does them again, and who does not."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial

from models.memory import OutOfMemoryError
from models.training.loop import EpochResult
from study import StudyError
from study.config.schema import StudyConfig
from study.config.space import distributions
from study.result import refit
from study.result.refit import Job, TakenError, alone_at, confirm, train
from study.result.scoring import open_test, openings
from study.search.open_study import OpenStudy
from study.training.start import TrainingRun
from study.training.workspace import Workspace
from tests.conftest import open_work

Make = Callable[..., Workspace]
Place = tuple[OpenStudy, Workspace, FrozenTrial]


@pytest.fixture
def place(workspace: Make, tiny: Callable[..., StudyConfig], tmp_path: Path) -> Place:
    """A study with a trial, and where it is trained."""
    work = workspace(tiny())
    study = open_work(work, f"sqlite:///{tmp_path}/optuna.db")
    trial = study.study.ask(distributions(work.config.space))
    return study, work, study.storage.get_trial(trial._trial_id)


def epochs_that(monkeypatch: pytest.MonkeyPatch, end: EpochResult | Exception) -> list[int]:
    """Every training ends so in its first epoch; gives a list that grows with each."""
    began: list[int] = []

    def start(*_: Any) -> TrainingRun:
        began.append(1)

        def epochs() -> Iterator[EpochResult]:
            if isinstance(end, Exception):
                raise end
            yield end

        return TrainingRun(None, None, epochs())  # type: ignore[arg-type]

    monkeypatch.setattr(refit, "_training", start)
    return began


def test_what_diverged_is_not_trained_again_by_another_worker(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    study, work, trial = place
    lost = EpochResult(
        epoch=1,
        train_loss=float("nan"),
        train_accuracy=0.1,
        val_loss=None,
        val_accuracy=None,
        val_balanced_accuracy=None,
        learning_rate=0.1,
        images=10,
        seconds=1.0,
    )
    began = epochs_that(monkeypatch, lost)
    for beside in (True, True, False):
        with pytest.raises(StudyError, match="diverged in epoch 1"):
            list(train(study, work, Job("final training", trial, 0, 0, 1, fresh=False, beside_others=beside)))
    assert len(began) == 1
    with pytest.raises(StudyError, match="diverged in epoch 1"):
        list(train(study, work, Job("final training", trial, 0, 0, 1, fresh=True)))
    assert len(began) == 2


def test_a_lack_of_memory_beside_others_says_nothing_of_a_network(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, work, trial = place
    began = epochs_that(monkeypatch, OutOfMemoryError("out of memory"))
    with pytest.raises(StudyError, match="out of memory"):
        list(confirm(study, work, Job("confirmation", trial, 0, 0, 1, fresh=False, beside_others=True)))
    assert not list((work.folder / "final").glob("*.json"))
    for _ in range(2):
        list(confirm(study, work, Job("confirmation", trial, 0, 0, 1, fresh=False)))
    assert len(began) == 2  # alone it counts, and is written down


def test_who_is_beside_others_leaves_a_training_that_is_taken(place: Place) -> None:
    study, work, trial = place
    job = Job("final training", trial, 0, 0, 1, fresh=False, beside_others=True)
    with alone_at(study, work, job), pytest.raises(TakenError):
        list(train(study, work, job))


def test_shipping_what_was_only_compared_is_another_look(place: Place) -> None:
    study, _, _ = place
    first = open_test(study, ["winner", "runner-up", "trees", "pretrained"], "parts")
    assert open_test(study, ["winner", "runner-up", "trees"], "parts") == first  # killed, and no time for all again
    assert open_test(study, ["runner-up", "trees"], "parts").number == 2
    assert open_test(study, ["winner", "runner-up", "trees", "other"], "parts").number == 3
    assert len(openings(study)) == 3


def test_of_some_that_open_the_test_part_at_once_each_is_counted(place: Place) -> None:
    """As where a lock was lost with the connection to the server."""
    study, _, _ = place
    gate = threading.Barrier(4)

    def opened(name: str) -> int:
        gate.wait()
        return open_test(study, [name], "parts").number

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(opened, ("first", "second", "third", "fourth")))
    assert sorted(numbers) == [1, 2, 3, 4]
    assert len(openings(study)) == 4
