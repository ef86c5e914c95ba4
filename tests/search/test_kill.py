"""SIGKILL at any moment, the same command again: the same trials, values, states and weights as undisturbed."""

import os
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests import killer
from tests.killer import SECONDS, everything, options

pytestmark = pytest.mark.slow

MOMENTS = [
    ("create", 1),
    ("create", 2),
    ("enqueue", 1),
    ("ask", 2),
    ("suggest", 3),
    ("suggest", 11),
    ("attribute", 5),
    ("attribute", 9),
    ("report", 2),
    ("report", 7),
    ("rung", 2),
    ("rung", 4),
    ("verdict", 3),
    ("verdict", 8),
    ("tell", 1),
    ("tell", 11),
    ("weights", 1),
    ("opening", 1),
    ("weights", 2),
    ("bundle", 3),
    ("model file", 5),
    ("model file", 6),
    ("model file", 8),
    ("report page", 1),
]


def before_and_after(moments: list[tuple[str, int]]) -> list[Any]:
    """Each moment, one by one in turn just before it or just after; the other of the two is a long test."""
    return [
        pytest.param(point, count, when, marks=[pytest.mark.long] if (number + side) % 2 else [])
        for number, (point, count) in enumerate(moments)
        for side, when in enumerate(("before", "after"))
    ]


@pytest.mark.parametrize(("point", "count", "when"), before_and_after(MOMENTS))
def test_killed_at_a_point(
    small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...], point: str, count: int, when: str
) -> None:
    command = options(small_folder)
    assert killer.run(command, tmp_path, point, when, count) == -signal.SIGKILL
    assert killer.run(command, tmp_path) == 0
    assert everything(tmp_path) == undisturbed


CHECKPOINTS = [(point, count) for point in ("checkpoint", "checkpoint rename") for count in (1, 4, 9, 14, 23)]


@pytest.mark.parametrize(("point", "count", "when"), before_and_after(CHECKPOINTS))
def test_killed_around_a_checkpoint(
    small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...], point: str, count: int, when: str
) -> None:
    """With a checkpoint after every epoch: the same as without any, and none is left behind."""
    command = options(small_folder, checkpoint_seconds=0)
    assert killer.run(command, tmp_path, point, when, count) == -signal.SIGKILL
    assert killer.run(command, tmp_path) == 0
    assert everything(tmp_path) == undisturbed
    assert list((tmp_path / "runs" / "s" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_again_and_again(
    small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...], seed: int
) -> None:
    command = options(small_folder, checkpoint_seconds=0 if seed else 30)
    rng = random.Random(seed)
    kills = seen = 0
    for number in range(10):
        process = killer.start(command, tmp_path)
        # Every other time only after a new report: what kills three workers at one place is given up.
        while number % 2 and process.exitcode is None and killer.reports(tmp_path) == seen:
            process.join(0.01)
        # The last two anywhere; the first ones soon, so that something is left to be killed.
        process.join(rng.uniform(0.0, 0.3 * SECONDS["undisturbed"] if number > 7 else 0.1))
        seen = killer.reports(tmp_path)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        else:
            assert process.exitcode == 0
    assert killer.run(command, tmp_path) == 0
    assert kills >= 5
    assert everything(tmp_path) == undisturbed
    # A third time finds nothing to do.
    before = (tmp_path / "runs" / "s" / "model" / "card.json").stat().st_mtime_ns
    assert killer.run(command, tmp_path) == 0
    assert (tmp_path / "runs" / "s" / "model" / "card.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_in_time_and_the_study_goes_on(
    small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...], number: signal.Signals, code: int
) -> None:
    command = options(small_folder, checkpoint_seconds=0)
    for epochs in (3, 12):
        process = killer.start(command, tmp_path)
        killer.when_reported(process, tmp_path, epochs)
        sent = time.monotonic()
        os.kill(process.pid, number)
        process.join(10)
        assert process.exitcode == code
        assert time.monotonic() - sent < 5
    assert killer.run(command, tmp_path) == 0
    assert everything(tmp_path) == undisturbed


def test_a_second_signal_ends_at_once(small_folder: Path, tmp_path: Path) -> None:
    command = options(small_folder, epochs=60, min_epochs=20)
    process = killer.start(command, tmp_path)
    while not (tmp_path / "runs" / "s" / "parts.json").exists():
        process.join(0.1)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    process.join(5)
    assert process.exitcode in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    check = sqlite3.connect(tmp_path / "optuna.db").execute("PRAGMA integrity_check").fetchone()
    assert check == ("ok",)


def test_two_runners_of_one_study_share_its_trials(small_folder: Path, tmp_path: Path) -> None:
    command = options(small_folder)
    runners = [killer.start(command, tmp_path) for _ in range(2)]
    for runner in runners:
        runner.join()
        assert runner.exitcode == 0
    trials, _, openings, check = everything(tmp_path)
    assert [number for number, *_ in trials] == list(range(12))
    assert (openings, check) == (1, ("ok",))
