"""What stands on a terminal of 80 columns while a study runs: whole lines, whatever is told."""

import io
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial
from rich.console import Console

from models.training.loop import EpochResult
from study.cli.display import Display, show
from study.config.schema import StudyConfig
from study.config.space import distributions
from study.result.refit import Activity, FinalEpoch
from study.search.opening import StudyWithImages, open_all
from study.search.trial import Step, TrialEnd, TrialEpoch, TrialStart, in_words
from tests.conftest import shrink

LONG = "a-study-whose-name-is-as-long-as-a-name-may-be-" + "x" * 50
MANY = in_words({f"parameter_{number}": 0.123456 for number in range(50)})
RESULT = EpochResult(
    epoch=3,
    train_loss=0.5,
    train_accuracy=0.9,
    val_loss=None,
    val_accuracy=None,
    val_balanced_accuracy=None,
    learning_rate=0.001,
    images=100,
    seconds=0.5,
)


def drawn(tell: Callable[[Display], None]) -> list[str]:
    """The bars as they were drawn at last, without colours."""
    told = io.StringIO()
    with show(Console(width=80, height=24, force_terminal=True, file=told)) as display:
        tell(display)
    frame = told.getvalue().rpartition("\x1b[?25h")[0].split("\x1b[2K")[-1]
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", frame).splitlines() if line.strip()]


@pytest.fixture
def opened(small_folder: Path, tmp_path: Path, tiny: Callable[..., StudyConfig]) -> StudyWithImages:
    """A study with long names of itself and of its classes."""
    folder = shrink(small_folder, tmp_path / "images", classes=4, each=20)
    for place in list(folder.iterdir()):
        place.rename(place.with_name(place.name * 120))
    config = tiny(preset="quick", data=str(folder), trials=64, runs=str(tmp_path / "runs"))
    return open_all(config, LONG, f"sqlite:///{tmp_path}/optuna.db", create=True)


def whole(lines: list[str]) -> list[str]:
    """Lines of a screen, none of which is too long, or cut."""
    for line in lines:
        assert len(line) <= 80, line
        assert "…" not in line
        assert "parameter_" not in line
    return lines


def test_the_search_fits_80_columns(opened: StudyWithImages) -> None:
    trials = [TrialStart(1234, MANY, 0), TrialEpoch(1234, 3, 0.9), TrialEnd(1234, "COMPLETE", 0.9996)]

    def tell(display: Display) -> None:
        display.images("measuring the range", 123_456, 1_000_000)
        opened.study.study.add_trial(
            create_trial(
                params=point, distributions=space, value=0.9996, intermediate_values=dict.fromkeys(range(1, 5), 0.9996)
            )
        )
        display.follow(iter([opened, *trials, TrialEpoch(1235, 4, 0.9996)]))
        display.watch(Step("search", 12345, 300, 10000, 20000))

    space = distributions(opened.study.config.space)
    point = {
        name: kind.to_external_repr(0) for name, kind in space.items() if isinstance(kind, CategoricalDistribution)
    }
    point |= {name: kind.low for name, kind in space.items() if not isinstance(kind, CategoricalDistribution)}
    reading, search, epoch, step = whole(drawn(tell))
    assert re.search(r"measuring the range +[━╸╺]+ 123456 of 1000000$", reading)
    assert re.search(r"^ +search +[━╸╺]+ 1 of 64 +best over 99.9 % · \d+ (min \d+ )?s left$", search)
    assert re.search(r"^ +epoch +[━╸╺]+ 4 of 4 +trial 1235: over 99.9 %$", epoch)
    assert re.search(r"^ +trial 12345 +[━╸╺]+ 10000 of 20000 +epoch 300$", step)


@pytest.mark.parametrize("stage", ["confirmation", "final training"])
def test_what_follows_the_search_fits_80_columns(opened: StudyWithImages, stage: str) -> None:
    def tell(display: Display) -> None:
        display.follow(iter([opened, FinalEpoch(stage, 12345, 2, 12, 600, RESULT)]))
        display.watch(Step(stage, 12345, 3, 10000, 20000))

    _, trainings, epoch, step = whole(drawn(tell))
    assert re.search(rf"^ +{stage} +[━╸╺]+ 1203 of 7200 +49 min 58 s left$", trainings)
    assert re.search(r"^ +epoch +[━╸╺]+ 3 of 600 +trial 12345$", epoch)
    assert re.search(rf"^ *{stage} 12345 +[━╸╺]+ 10000 of 20000 +epoch 3$", step)


@pytest.mark.parametrize("what", ["decoding", "comparing", "measuring", "predicting", "grouping"])
def test_what_comes_before_or_without_a_study_fits_80_columns(what: str) -> None:
    (line,) = whole(drawn(lambda display: display.images(what, 1_000_000, 10_000_000)))
    assert re.search(rf"^ +{what} +[━╸╺]+ 1000000 of 10000000$", line)


def test_a_study_of_hours_alone_counts_what_is_done(opened: StudyWithImages) -> None:
    hours = opened.study.config.model_copy(update={"trials": None, "hours": 120.0})
    opened.study.remember("config", hours.model_dump(mode="json"))
    study = replace(opened.study, config=hours)
    (line,) = whole(drawn(lambda display: display.follow(iter([replace(opened, study=study)]))))
    assert re.search(r"^ +search .*[━╸╺]+ 0 +120 h 00 min left$", line)


def test_a_log_is_never_silent(opened: StudyWithImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.cli.display.SILENCE", 0.2)
    told = io.StringIO()
    with show(Console(width=80, file=told)) as display:
        display.images("decoding", 3, 1200)
        wait_for(lambda: "decoding: 3 of 1,200" in told.getvalue())
        display._hear(opened)
        display._hear(TrialEpoch(7, 2, 0.5))
        wait_for(lambda: "search: trial 7, 2 of " in told.getvalue())
        display.watch(Step("search", 8, 1, 40, 90))
        wait_for(lambda: "search: trial 8, epoch 1, step 40 of 90" in told.getvalue())
        display._hear(Activity("result: scores, export, report"))
        wait_for(lambda: told.getvalue().rstrip().endswith("result: scores, export, report"))
    with show(Console(width=80, file=told), quiet=True) as display:
        before = told.getvalue()
        time.sleep(0.5)
        assert told.getvalue() == before


def wait_for(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)
