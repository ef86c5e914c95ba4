"""A study's clock: counted once, whoever works; little is lost by a kill."""

import multiprocessing
import os
import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import optuna
import pytest

from study.attributes import CLOCK
from study.storage.door import open_storage
from study.storage.owners import clock as clocks
from study.storage.owners import processes
from study.storage.owners.clock import Clock, ClockState, Holder
from study.storage.owners.processes import now, this_process


@pytest.fixture
def study(url: str) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=open_storage(url, create=True))


def clock_of(url: str) -> Clock:
    storage = open_storage(url, create=False)
    return Clock(storage, storage.get_study_id_from_name("s"))


def test_it_counts_from_the_command_on_and_stands_still_in_pauses(study: optuna.Study, url: str) -> None:
    clock = clock_of(url)
    assert clock.spent() == 0.0
    with clock.running(now() - 5):
        assert 5 <= clock.spent() < 6
        time.sleep(0.1)
    spent = clock_of(url).spent()
    assert 5.1 <= spent < 6
    time.sleep(0.2)
    assert clock_of(url).spent() == spent
    with clock.running(now()):
        pass
    assert spent <= clock_of(url).spent() < spent + 1


def test_of_two_at_once_one_counts(study: optuna.Study, url: str) -> None:
    first, second = clock_of(url), clock_of(url)
    with first.running(now()), second.running(now() - 100):  # its hundred seconds went by while the first one worked
        time.sleep(0.2)
        assert second.spent() < 10
    assert clock_of(url).spent() < 10
    with ExitStack() as both:  # also when the first one ends first
        first_ends = both.enter_context(ExitStack())
        first_ends.enter_context(first.running(now()))
        both.enter_context(second.running(now() - 100))
        first_ends.close()
    assert clock_of(url).spent() < 10


def _work(url: str) -> None:
    clocks.TICK_SECONDS = 0.1
    with clock_of(url).running(now()):
        time.sleep(60)


def test_a_kill_loses_little_and_the_next_goes_on(study: optuna.Study, url: str) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=_work, args=(url,))
    worker.start()
    while clock_of(url).spent() < 0.5:
        time.sleep(0.05)
        assert worker.is_alive()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    spent = clock_of(url).spent()
    assert spent >= 0.5
    holder: Any = optuna.load_study(study_name="s", storage=url).user_attrs[CLOCK]
    assert holder["holder"]["process"]["pid"] == worker.pid
    with clock_of(url).running(now()):
        time.sleep(0.1)
    assert spent + 0.1 <= clock_of(url).spent() < spent + 2


def test_the_start_of_a_process_counts_if_the_holder_turns_out_to_be_dead(
    study: optuna.Study, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill in another container: it takes a while until the holder is known to be dead."""
    monkeypatch.setattr(clocks, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.3)
    elsewhere = replace(this_process(), namespace="pid:[1]")
    holder = Holder(clock="theirs", process=elsewhere)
    kept = ClockState(seconds=50.0, holder=holder).model_dump(mode="json")
    study.set_user_attr(CLOCK, kept)
    with clock_of(url).running(now() - 100):
        end = time.monotonic() + 60
        while clock_of(url).spent() < 150:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert 150 < clock_of(url).spent() < 160

    study.set_user_attr(CLOCK, kept)
    with clock_of(url).running(now() - 100):  # it is at work for a while, and has counted this time
        kept["seconds"] = 50.5
        kept["holder"]["beat"] = 1
        study.set_user_attr(CLOCK, kept)
        end = time.monotonic() + 60
        while optuna.load_study(study_name="s", storage=url).user_attrs[CLOCK]["holder"]["clock"] == "theirs":
            assert time.monotonic() < end
            time.sleep(0.05)
    assert 50.5 < clock_of(url).spent() < 60
