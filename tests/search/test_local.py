"""Several workers on one machine: exact, replaced when they die, stopped together."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from study import StudyError
from study.search.local import local_processes
from study.storage.door import open_storage
from tests import killer
from tests.killer import everything, options
from tests.storage.test_faults import last_line, locked

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def crew_options(folder: Path, workers: int, **changes: Any) -> list[str]:
    return [*options(folder, **changes), "--workers", str(workers)]


def log(folder: Path, name: str) -> list[str]:
    file = folder / name
    return file.read_text().splitlines() if file.exists() else []


def leases(folder: Path) -> list[Any]:
    with sqlite3.connect(folder / "optuna.db") as connection:
        return connection.execute("SELECT worker FROM leases").fetchall()


def are_gone(pids: list[str]) -> bool:
    return all(killer.is_dead(pid) for pid in pids)


def test_a_worker_that_dies_is_replaced_and_the_parent_says_so(small_folder: Path, tmp_path: Path) -> None:
    crew: list[Any] = [("report", "before", 2), ("tell", "after", 2), ("ask", "after", 1)]
    process = killer.start(crew_options(small_folder, 2, rivals=[]), tmp_path, crew=crew, watched=True)
    process.join()
    assert process.exitcode == 0
    said = [line for line in log(tmp_path, "output.log") if "died (SIGKILL); another one takes its place" in line]
    assert len(said) == len(log(tmp_path, "kills.log")) == 3
    assert len(log(tmp_path, "workers.log")) == 5
    assert log(tmp_path, "wrong.log") == []
    trials, _, openings, check = everything(tmp_path)
    assert [number for number, *_ in trials] == list(range(12))
    assert (openings, check, leases(tmp_path)) == (1, ("ok",), [])


def test_workers_share_what_is_trained_after_the_search_and_it_stays_the_same(
    small_folder: Path, tmp_path: Path
) -> None:
    alone, crew = tmp_path / "alone", tmp_path / "crew"
    alone.mkdir()
    command = options(small_folder, confirm=2, final_seeds=2, leaky_score=True)
    assert killer.run(command, alone, "opening", "before") == -signal.SIGKILL
    shutil.copytree(alone, crew)
    shutil.rmtree(crew / "runs" / "s" / "final")  # searched, and nothing more
    shutil.rmtree(crew / "runs" / "s" / "leaky")
    assert killer.run(command, alone) == 0
    searching: list[Any] = [None, None]  # find nothing to do
    plans = [*searching, *[[("bundle", "before"), ("bundle", "after"), ("weights", "after")]] * 9]
    process = killer.start([*command, "--workers", "2"], crew, crew=plans, watched=True)
    process.join()
    assert process.exitcode == 0
    assert len(log(crew, "kills.log")) == 1 + 3  # one of them in the run that was copied
    assert everything(crew) == everything(alone)

    def made(folder: Path) -> dict[str, Any]:
        found = {file.name: json.loads(file.read_text()) for file in (folder / "runs" / "s").glob("*/*-seed-?.json")}
        for record in found.values():
            for epoch in record["epochs"]:
                del epoch["seconds"]
        return found

    assert len(made(alone)) >= 4 + 3
    assert made(crew) == made(alone)
    times = Counter(log(crew, "epochs.log"))
    assert len(times) == 3 * len(made(crew))
    assert sum(times.values()) <= len(times) + 3 * 3  # what the dead had not written down
    said = [line for line in log(crew, "output.log") if "done (trial" in line]
    assert any("confirmation: 4 of 4 done" in line for line in said)


def test_workers_that_die_at_once_are_not_replaced_for_ever(small_folder: Path, tmp_path: Path) -> None:
    crew: list[Any] = [("lease", "before", 1)] * 30
    process = killer.start(crew_options(small_folder, 2), tmp_path, crew=crew)
    process.join()
    assert process.exitcode == 2
    assert "7 workers died one after another, the last by SIGKILL" in last_line(tmp_path)


def test_what_a_worker_complains_of_is_the_parents_last_word(small_folder: Path, tmp_path: Path) -> None:
    process = killer.start(crew_options(small_folder, 2), tmp_path)
    killer.when_reported(process, tmp_path, 3)
    while len(leases(tmp_path)) < 2:  # by now both have opened the database
        assert process.exitcode is None
        time.sleep(0.01)
    (tmp_path / "optuna.db").rename(tmp_path / "away.db")
    process.join(30)
    assert process.exitcode == 2
    assert "was deleted or replaced while the study ran" in last_line(tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_all_and_gives_their_trials_back(
    small_folder: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = crew_options(small_folder, 2)
    process = killer.start(command, tmp_path, watched=True)
    killer.when_reported(process, tmp_path, 4)
    sent = time.monotonic()
    os.kill(process.pid, number)
    process.join(10)
    assert time.monotonic() - sent < 5
    assert process.exitcode == code
    assert "nothing is lost. Go on with study resume s" in last_line(tmp_path)
    assert are_gone(log(tmp_path, "workers.log"))
    assert all(worker is None for (worker,) in leases(tmp_path))
    assert killer.run(command, tmp_path) == 0
    assert len(everything(tmp_path)[0]) == 12


def test_workers_end_with_their_parent(small_folder: Path, tmp_path: Path) -> None:
    process = killer.start(crew_options(small_folder, 2, epochs=60, min_epochs=20), tmp_path, watched=True)
    killer.when_reported(process, tmp_path, 4)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    end = time.monotonic() + 5
    while not are_gone(log(tmp_path, "workers.log")) and time.monotonic() < end:
        time.sleep(0.05)
    assert are_gone(log(tmp_path, "workers.log"))
    assert len(log(tmp_path, "workers.log")) == 2


def test_a_worker_of_another_shell_helps_and_leaves_the_end_to_run(
    small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    assert killer.run(options(small_folder), tmp_path, "report", "after", 3) == -signal.SIGKILL
    assert killer.run(["worker", "s", "--threads", "1"], tmp_path) == 0
    assert not (tmp_path / "runs" / "s" / "model").exists()
    assert killer.run(options(small_folder), tmp_path) == 0
    assert everything(tmp_path) == undisturbed


def test_the_images_are_in_memory_once(small_folder: Path, tmp_path: Path) -> None:
    """Workers map the cache's file; none has a copy of its own."""
    process = killer.start(crew_options(small_folder, 2, epochs=60, min_epochs=20), tmp_path, watched=True)
    killer.when_reported(process, tmp_path, 2)

    def mapped(pid: str) -> bool:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        return any("runs/cache" in line and line.split()[1].startswith("r") for line in maps)

    end = time.monotonic() + 20  # the second may still be opening the study when the first reports
    while not all(map(mapped, log(tmp_path, "workers.log"))) and time.monotonic() < end:
        time.sleep(0.05)
    assert all(map(mapped, log(tmp_path, "workers.log")))
    os.kill(process.pid, signal.SIGTERM)
    process.join()


def test_eight_workers_share_waiting_and_new_trials_through_a_lock(small_folder: Path, tmp_path: Path) -> None:
    study = optuna.create_study(
        study_name="s", storage=open_storage(f"sqlite:///{tmp_path}/optuna.db", create=True), direction="maximize"
    )
    for number in range(40):
        study.enqueue_trial({"dense_units": ["none", "64"][number % 2], "learning_rate": 0.001 + 0.0005 * number})
    given = crew_options(small_folder, 8)
    given[given.index("trials=12")] = "trials=96"
    process = killer.start(given, tmp_path, watched=True)
    killer.when_reported(process, tmp_path, 20)
    with locked(tmp_path / "optuna.db"):
        process.join(5)
    process.join()
    assert process.exitcode == 0
    assert log(tmp_path, "wrong.log") == []
    runs = Counter(line.split()[0] for line in log(tmp_path, "runs.log"))
    assert runs == {str(number): 1 for number in range(96)}
    states = Counter(trial.state.name for trial in study.get_trials())
    assert states["COMPLETE"] + states["PRUNED"] == len(study.get_trials()) == 96
    enqueued = [t for t in study.get_trials() if "fixed_params" in t.system_attrs and "baseline" not in t.user_attrs]
    tried = [trial.params["learning_rate"] for trial in enqueued]
    assert sorted(tried) == pytest.approx([0.001 + 0.0005 * number for number in range(40)])


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_short_torture(url: str, tmp_path: Path) -> None:
    """The whole of it: scripts/torture.py."""
    server = [] if url.startswith("sqlite") else ["--server", url]
    command = [sys.executable, ROOT / "scripts" / "torture.py", "--rounds", "3", *server]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "no error"
    assert "kills at named points" in done.stdout


@dataclass(frozen=True)
class SameEpoch:
    """News of an epoch that every new worker trains again."""

    mark: tuple[str, int, int] = ("final training", 0, 1)


def dies_after_the_same_epoch(*_: object) -> Iterator[SameEpoch]:
    yield SameEpoch()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_training_that_kills_every_worker_at_one_place_ends_the_study(tmp_path: Path) -> None:
    """What was reported before, by a worker that died, is no progress."""
    url = f"sqlite:///{tmp_path}/optuna.db"
    open_storage(url, create=True)
    with pytest.raises(StudyError, match="5 workers died one after another, the last by SIGKILL"):
        for _ in local_processes("s", url, ["cpu"], dies_after_the_same_epoch):
            pass
