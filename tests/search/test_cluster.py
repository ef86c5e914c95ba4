"""A real Ray cluster of two nodes on this machine, with a real PostgreSQL."""

import functools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import sqlalchemy
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from models.bundle.folder import is_whole
from study import StudyError
from study.attributes import REPLAY_DIFFERS
from study.search import cluster
from study.search.cluster import threads_each
from study.storage.door import open_storage
from tests import killer
from tests.conftest import Shell, new_database, tiny_options
from tests.storage.test_server import Server, own_server, reports, until

__all__ = ["own_server"]


@given(st.lists(st.integers(0, 64), max_size=6), st.integers(1, 40))
def test_each_worker_gets_as_many_threads_as_all_can_have(cpus: list[int], workers: int) -> None:
    each = threads_each(cpus, workers)
    if each:
        assert sum(one // each for one in cpus) >= workers
        assert sum(one // (each + 1) for one in cpus) < workers
    else:
        assert sum(cpus) < workers


@pytest.mark.parametrize(
    ("asked", "there", "workers", "share"),
    [(None, [0, 0], 2, 0), (None, [0, 4], 4, 1), (0.5, [2], 4, 0.5), (0, [4], 4, 0), (2, [1, 2], 1, 2)],
)
def test_gpus_of_each_worker(
    asked: float | None, there: list[float], workers: int, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    assert cluster._gpus(asked, there, workers) == share
    assert caplog.text == ""


def test_gpus_that_are_not_there(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StudyError, match="no node of the cluster has that many GPUs"):
        cluster._gpus(1, [0, 0.5], 2)
    assert cluster._gpus(1, [1, 1], 3) == 1
    assert "room for 2 of 3 workers" in caplog.text


def test_silence_is_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies whenever it starts is started again without end, and has no news."""
    monkeypatch.setattr(cluster, "SILENCE", 0.02)
    place = SimpleNamespace(news=SimpleNamespace(remote=lambda: "question"))
    rounds = iter(range(100))

    def wait(asked: list[str], timeout: float) -> tuple[list[str], list[str]]:
        time.sleep(0.01)
        return (asked, []) if next(rounds) == 8 else ([], asked)

    ray = SimpleNamespace(wait=wait, get=lambda one: [None], kill=lambda one: None, nodes=list)
    assert list(cluster._follow(ray, [place])) == []
    lines = [record.message for record in caplog.records]
    assert 1 < len(lines) < 8
    assert all("no worker has said anything for" in line for line in lines)


def test_options_of_a_cluster_are_refused_without_one(shell: Shell) -> None:
    assert "unknown (use local or ray)" in shell("run", "--engine", "dask")[2]
    assert "add --engine ray" in shell("run", "--address", "auto")[2]
    assert "add --engine ray" in shell("run", "--gpus-per-worker", "1")[2]


class Nodes:
    """Two nodes of two processors each, beside an empty head."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = [self._cluster.add_node(num_cpus=2) for _ in range(2)]
        self.address: str = self._cluster.address

    def kill(self, number: int) -> None:
        """As a machine that loses its power: none of its processes says goodbye."""
        self._cluster.remove_node(self.nodes.pop(number), allow_graceful=False)

    def end(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    found = Nodes()
    yield found
    found.end()


def held(url: str) -> int:
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            query = "SELECT count(*) FROM leases WHERE worker IS NOT NULL"
            return connection.scalar(sqlalchemy.text(query)) or 0
    except sqlalchemy.exc.SQLAlchemyError:
        return 0
    finally:
        engine.dispose()


@pytest.mark.long
def test_one_worker_on_a_cluster_gives_what_one_here_gives(
    nodes: Nodes, postgres: str, small_folder: Path, tmp_path: Path
) -> None:
    """Trials and weights agree; each node has two processors, so both have two threads."""
    url, here, there = new_database(postgres), tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    two = functools.partial(torch.set_num_threads, 2)
    alone = killer.start(killer.options(small_folder), here, first=two)
    command = [*killer.options(small_folder), "--storage", url, "--engine", "ray", "--address", nodes.address]
    process = killer.start(command, there, first=two)
    for one in (alone, process):
        one.join()
    assert (alone.exitcode, process.exitcode) == (0, 0), (there / "output.log").read_text()
    assert killer.everything(there, url) == killer.everything(here)


@pytest.mark.long
def test_a_study_outlives_a_node_and_a_restart_of_its_database(
    nodes: Nodes, own_server: Server, small_folder: Path, tmp_path: Path
) -> None:
    url = own_server.url
    options = killer.options(small_folder, trials=40, workers=4, epochs=8, min_epochs=2)
    process = killer.start([*options, "--storage", url, "--engine", "ray", "--address", nodes.address], tmp_path)
    until(lambda: reports(url) >= 20, process)
    until(lambda: held(url) >= 3, process)  # some are between two trials
    nodes.kill(0)
    before = reports(url)
    until(lambda: reports(url) >= before + 20, process)
    own_server.control("restart", "-m", "immediate")
    process.join(200)
    log = (tmp_path / "output.log").read_text()
    assert process.exitcode == 0, log
    assert "1 of the cluster's nodes went away" in log
    assert "Traceback" not in log
    study = optuna.load_study(study_name="s", storage=open_storage(url, create=False))
    assert [trial.number for trial in study.trials] == list(range(40))
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert not [trial.number for trial in study.trials if REPLAY_DIFFERS in trial.user_attrs]
    for trial in study.trials:
        assert sorted(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
        assert len(trial.intermediate_values) == 8 or trial.state == TrialState.PRUNED
    assert held(url) == 0
    assert len(study.user_attrs["openings"]) == 1
    assert is_whole(tmp_path / "runs" / "s" / "model")


@pytest.mark.long
def test_hours_are_kept_on_a_cluster(nodes: Nodes, postgres: str, small_folder: Path, tmp_path: Path) -> None:
    """The search ends in the middle of trials, by the clock of all, and the model is there in time."""
    url, hours = new_database(postgres), 0.015
    long = killer.options(small_folder, epochs=200, min_epochs=50, trials=200, workers=2, hours=hours)
    start = time.monotonic()
    process = killer.start([*long, "--storage", url, "--engine", "ray", "--address", nodes.address], tmp_path)
    process.join(150)
    assert process.exitcode == 0, (tmp_path / "output.log").read_text()
    assert time.monotonic() - start < 3600 * hours + 15  # as in test_hours.py
    study = optuna.load_study(study_name="s", storage=open_storage(url, create=False))
    assert [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    assert held(url) == 0
    assert is_whole(tmp_path / "runs" / "s" / "model")


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_workers_and_gives_their_trials_back(
    nodes: Nodes, postgres: str, small_folder: Path, tmp_path: Path, number: int, code: int
) -> None:
    url = new_database(postgres)
    options = killer.options(small_folder, trials=40, workers=2, epochs=100, min_epochs=50)
    process = killer.start([*options, "--storage", url, "--engine", "ray", "--address", nodes.address], tmp_path)
    until(lambda: reports(url) >= 3, process)
    os.kill(process.pid, number)
    process.join(20)
    assert process.exitcode == code, (tmp_path / "output.log").read_text()
    end = time.monotonic() + 10
    while held(url) and time.monotonic() < end:
        time.sleep(0.1)
    assert held(url) == 0


@pytest.mark.long
def test_what_a_worker_complains_of_is_the_last_word(
    nodes: Nodes, postgres: str, shell: Shell, small_folder: Path, tmp_path: Path
) -> None:
    url = new_database(postgres)
    ray = ("--engine", "ray", "--address", nodes.address)
    code, _, err = shell("run", *tiny_options(small_folder), "--storage", url, *ray, "--gpus-per-worker", "1")
    assert (code, err.splitlines()[-1]) == (
        2,
        "study: --gpus-per-worker 1: no node of the cluster has that many GPUs (0: train on processors)",
    )
    elsewhere = ("--engine", "ray", "--address", "127.0.0.1:1")
    code, _, err = shell("run", *tiny_options(small_folder), "--name", "other", *elsewhere)
    assert code == 2
    assert "Ray at 127.0.0.1:1 cannot be reached" in err
