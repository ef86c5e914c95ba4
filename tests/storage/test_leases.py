"""Leases on trials pass from dead workers to living ones, and never from the living; in every kind of database."""

import dataclasses
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from study.config.schema import StudyConfig
from study.search.open_study import OpenStudy
from study.search.trial import TrialEnd, TrialNews, objective
from study.search.worker import search as run_trials
from study.signals import StopRequest, stoppable, unmasked
from study.storage.door import open_storage
from study.storage.owners import leases, processes
from study.storage.owners.leases import LEASES, Lease, LeaseLostError, Leases
from study.storage.owners.locks import alone
from study.training.workspace import Workspace
from tests.conftest import open_work

MakeWork = Callable[..., Workspace]
MakeConfig = Callable[..., StudyConfig]


def asked(url: str) -> tuple[Any, int]:
    """A storage, and the id of a RUNNING trial in it."""
    storage = open_storage(url, create=True)
    study = optuna.create_study(study_name="s", storage=storage)
    Leases(storage).prepare()
    return storage, study.ask()._trial_id


def change(storage: Any, **values: Any) -> None:
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.update(LEASES).values(**values))


def rows(storage: Any) -> list[Any]:
    with storage.engine.begin() as connection:
        return list(connection.execute(sqlalchemy.select(LEASES)))


def test_a_living_process_keeps_its_trial(url: str) -> None:
    storage, trial = asked(url)
    first, second = Leases(storage), Leases(storage)
    with first.take_new(trial) as lease:
        assert second.adopt(trial, 0) is None
        lease.confirm()
        assert rows(storage)[0].beat == 1
    assert rows(storage) == []


def test_a_trial_given_back_is_free_at_once_and_nobody_died(url: str) -> None:
    storage, trial = asked(url)
    with pytest.raises(KeyboardInterrupt), Leases(storage).take_new(trial):
        raise KeyboardInterrupt
    adopted = Leases(storage).adopt(trial, 0)
    assert adopted
    assert adopted.deaths == 0


def test_a_worker_takes_over_what_it_left_itself(url: str) -> None:
    """As when the answer to its lease was cut off, or what should have given it back: it is idle, and alive."""
    storage, trial = asked(url)
    mine, others = Leases(storage), Leases(storage)
    mine.take_new(trial)
    assert others.adopt(trial, 0) is None
    for steps in (0, 1):
        again = mine.adopt(trial, steps)
        assert again
        assert again.deaths == 0
    with again:
        again.confirm()
    assert rows(storage) == []


def test_what_was_taken_and_not_begun_is_given_back(url: str) -> None:
    storage, trial = asked(url)
    first, second = Leases(storage), Leases(storage)
    first.take_new(trial)
    second.give_back()
    assert second.adopt(trial, 0) is None
    first.give_back()
    adopted = second.adopt(trial, 0)
    assert adopted
    assert adopted.deaths == 0


def test_a_worker_that_is_stopped_between_taking_and_running_leaves_nothing_held(
    tiny: MakeConfig, workspace: MakeWork, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Leases.take_new

    def stopped(self: Leases, trial_id: int) -> Lease:
        take(self, trial_id)
        raise KeyboardInterrupt

    monkeypatch.setattr(Leases, "take_new", stopped)
    work = workspace(tiny(trials=1))
    study = open_work(work, url)
    with pytest.raises(KeyboardInterrupt):
        list(search(study, work))
    assert [row.worker for row in rows(study.storage)] == [None]


def test_a_stop_that_a_library_turned_into_its_own_error_is_a_stop(url: str) -> None:
    storage, trial = asked(url)

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            raise ValueError("a connection was cleaned up in the middle of a statement")  # noqa: B904

    with pytest.raises(StopRequest), stoppable(), unmasked(), Leases(storage).take_new(trial):
        work()
    adopted = Leases(storage).adopt(trial, 0)
    assert adopted
    assert adopted.deaths == 0


def test_deaths_count_until_the_trial_gets_further(url: str) -> None:
    storage, trial = asked(url)

    def die(lease: Lease | None) -> int:
        assert lease
        with pytest.raises(ZeroDivisionError), lease:
            raise ZeroDivisionError
        return lease.deaths

    assert die(Leases(storage).take_new(trial)) == 0
    assert [die(Leases(storage).adopt(trial, 0)) for _ in range(3)] == [1, 2, 3]
    assert [die(Leases(storage).adopt(trial, steps)) for steps in (2, 2, 3)] == [1, 2, 1]


def test_a_dead_process_is_noticed_at_once(url: str) -> None:
    storage, trial = asked(url)
    Leases(storage).take_new(trial)
    change(storage, pid=2**22 + 1)
    assert Leases(storage).adopt(trial, 0)
    change(storage, started=1)  # the number was given to another process
    assert Leases(storage).adopt(trial, 0)


def test_of_many_that_see_a_dead_one_exactly_one_takes_over(url: str) -> None:
    storage, trial = asked(url)
    Leases(storage).take_new(trial)
    change(storage, pid=0)
    won: list[Any] = []
    gate = threading.Barrier(8)

    def grab() -> None:
        mine = Leases(storage)
        gate.wait()
        won.append(mine.adopt(trial, 0))

    threads = [threading.Thread(target=grab) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in won) == 1


def test_a_machine_that_cannot_be_looked_at_gets_its_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another container on this machine, or another machine of the same database."""
    storage, trial = asked(url)
    Leases(storage).take_new(trial)
    change(storage, namespace="pid:[1]")
    now = 1000.0
    monkeypatch.setattr(processes, "now", lambda: now)
    monkeypatch.setattr(leases, "now", lambda: now)
    other = Leases(storage)
    for second in range(12):
        now = 1000.0 + second * 5
        assert other.adopt(trial, 0) is None
    change(storage, beat=1)  # it lives
    now += 5
    assert other.adopt(trial, 0) is None
    now += 3600  # nobody could look for an hour: that says nothing about the other
    assert other.adopt(trial, 0) is None
    for _ in range(10):
        now += 5
        assert other.adopt(trial, 0) is None
    now += 5
    adopted = other.adopt(trial, 0)
    assert adopted
    assert adopted.deaths == 1


def test_before_the_machine_was_started_again_nobody_lives(url: str) -> None:
    storage, trial = asked(url)
    Leases(storage).take_new(trial)
    change(storage, boot="another")
    one_machine = storage.backend.one_machine
    assert (Leases(storage).adopt(trial, 0) is not None) == one_machine


def test_whoever_lost_a_trial_is_told_before_it_writes(url: str) -> None:
    storage, trial = asked(url)
    lease = Leases(storage).take_new(trial)
    change(storage, pid=0)
    assert Leases(storage).adopt(trial, 0)
    with pytest.raises(LeaseLostError), lease:
        lease.confirm()
    assert len(rows(storage)) == 1  # the new holder's


def test_a_trial_that_ended_in_between_is_not_adopted(url: str) -> None:
    storage, trial = asked(url)
    storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
    assert Leases(storage).adopt(trial, 0) is None


def test_leases_of_ended_and_deleted_trials_go(url: str) -> None:
    storage, trial = asked(url)
    Leases(storage).take_new(trial)
    Leases(storage).prepare()
    assert len(rows(storage)) == 1
    optuna.delete_study(study_name="s", storage=storage)
    Leases(storage).prepare()
    assert rows(storage) == []


def hold(url: str, folder: Path, ready: Any) -> None:
    with alone(open_storage(url, create=False), folder):
        ready.send(1)
        time.sleep(100)


@pytest.mark.slow
def test_a_turn_is_one_processs_and_ends_with_it(url: str, tmp_path: Path) -> None:
    storage, _ = asked(url)
    folder = tmp_path / "runs" / "s"
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    holder = context.Process(target=hold, args=(url, folder, theirs))
    holder.start()
    ours.recv()
    entered = threading.Event()
    asked_for: list[int] = []

    def enter() -> None:
        with alone(storage, folder, waiting=lambda: asked_for.append(1)):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.3)
    assert asked_for == [1]
    assert holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    assert entered.wait(10)
    thread.join()
    with alone(storage, folder):
        pass


def search(study: OpenStudy, work: Workspace) -> Iterator[TrialNews]:
    return run_trials(study, objective(work))


def test_a_search_of_several_workers_is_exact(tiny: MakeConfig, workspace: MakeWork, url: str) -> None:
    """Threads of one process here; scripts/torture.py does it with processes."""
    work = workspace(tiny(trials=7))
    first = open_work(work, url)
    ended: list[Any] = []

    def run() -> None:
        study = open_work(work, url)
        ended.extend(news for news in search(study, work) if isinstance(news, TrialEnd))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [trial.state.is_finished() for trial in first.study.get_trials()] == [True] * 7
    assert sorted(end.number for end in ended) == list(range(7))
    assert rows(first.storage) == []


def test_a_trial_that_killed_three_workers_is_given_up(
    tiny: MakeConfig, workspace: MakeWork, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = workspace(tiny(trials=2, pruner="none"))
    study = open_work(work, url)
    report = optuna.Trial.report

    def crash(self: optuna.Trial, value: float, step: int) -> None:
        if self.number == 0 and step == 3:
            raise ZeroDivisionError  # a bug of ours, or of the machine: every time at this place
        report(self, value, step)

    monkeypatch.setattr(optuna.Trial, "report", crash)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            list(search(open_work(work, url), work))
    list(search(open_work(work, url), work))
    given_up, other = study.study.get_trials()
    assert given_up.state == TrialState.PRUNED
    assert given_up.user_attrs["pruned_because"].startswith("its worker died 3 times after the same epoch")
    assert given_up.value == given_up.intermediate_values[2]
    assert given_up.user_attrs["best_accuracy"] == max(given_up.intermediate_values.values())
    assert other.state == TrialState.COMPLETE
    assert rows(study.storage) == []


def test_what_plain_optuna_left_is_run_or_closed_with_the_reason(
    tiny: MakeConfig, workspace: MakeWork, url: str
) -> None:
    work = workspace(tiny(trials=5))
    study = open_work(work, url)
    study.study.ask()  # no parameters yet: any point will do
    study.study.ask().suggest_float("momentum", 0, 1)
    study.study.ask().report(0.5, step=0)  # counts its steps from 0
    study.study.enqueue_trial({"kernel_sizes": "3-3-3"})
    study.study.enqueue_trial({"kernel_sizes": "1-1-1"})
    study.study.enqueue_trial({"kernel_size": "3-3-3"})
    list(search(study, work))
    trials = study.study.get_trials()
    failed = {
        trial.number: trial.user_attrs.get("failed_because", "") for trial in trials if trial.state.name == "FAIL"
    }
    assert list(failed) == [1, 2, 4, 5]
    assert "momentum is not searched" in failed[1]
    assert "not this study's epochs" in failed[2]
    assert "kernel_sizes = '1-1-1' lies outside the space" in failed[4]
    assert "did you mean kernel_sizes" in failed[5]
    assert trials[3].params["kernel_sizes"] == "3-3-3"
    assert sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials) == 5


def test_the_budget_is_the_one_last_given(tiny: MakeConfig, workspace: MakeWork, url: str) -> None:
    """A worker that was started for 2 trials helps with the 4 that another command asked for since."""
    work = workspace(tiny(trials=2))
    study = open_work(work, url)
    news = search(study, work)
    next(news)
    open_work(dataclasses.replace(work, config=tiny(trials=4)), url)
    list(news)
    assert len(study.study.get_trials()) == 4


@pytest.mark.slow
def test_the_heart_beats_on_through_a_long_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the database for longer than the grace time; nobody is taken for dead."""
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 2.0)
    monkeypatch.setattr(leases, "GAP_SECONDS", 0.2)
    storage, trial = asked(f"sqlite:///{tmp_path}/optuna.db")
    with Leases(storage).take_new(trial) as lease:
        change(storage, namespace="pid:[1]")
        other = Leases(open_storage(f"sqlite:///{tmp_path}/optuna.db", create=False))
        assert other.adopt(trial, 0) is None
        time.sleep(0.5)
        before = rows(storage)[0].beat
        assert before > 0
        with sqlite3.connect(tmp_path / "optuna.db", isolation_level=None) as blocker:
            blocker.execute("BEGIN EXCLUSIVE")
            time.sleep(4)
            blocker.execute("COMMIT")
        for _ in range(10):
            assert other.adopt(trial, 0) is None
            time.sleep(0.1)
        assert rows(storage)[0].beat > before + 1
        lease.confirm()
