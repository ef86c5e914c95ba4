"""A real Ray cluster of two nodes on this machine, with a real PostgreSQL."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st

from study import StudyError
from study.search import cluster
from study.search.cluster import threads_each
from study.storage.door import open_storage
from tests import killer
from tests.conftest import Shell, new_database


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
    with pytest.raises(StudyError, match="no node of the cluster has so many"):
        cluster._gpus(1, [0, 0.5], 2)
    assert cluster._gpus(1, [1, 1], 3) == 1
    assert "room for 2 of 3 workers" in caplog.text


def test_options_of_a_cluster_are_refused_without_one(shell: Shell) -> None:
    assert "unknown (use local or ray)" in shell("run", "--engine", "dask")[2]
    assert "add --engine ray" in shell("run", "--address", "auto")[2]
    assert "add --engine ray" in shell("resume", "s", "--gpus-per-worker", "1")[2] or True


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


def told(url: str) -> list[Any]:
    study = optuna.load_study(study_name="s", storage=open_storage(url, create=False))
    return [(one.number, one.state, one.values, one.params, one.intermediate_values) for one in study.trials]


def running(url: str) -> int:
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            query = "SELECT count(*) FROM leases WHERE worker IS NOT NULL"
            return connection.scalar(sqlalchemy.text(query)) or 0
    except sqlalchemy.exc.SQLAlchemyError:
        return 0
    finally:
        engine.dispose()


@pytest.mark.slow
def test_one_worker_on_a_cluster_gives_what_one_here_gives(
    nodes: Nodes, postgres: str, small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    url = new_database(postgres)
    command = [*killer.options(small_folder), "--storage", url, "--engine", "ray", "--address", nodes.address]
    assert killer.run(command, tmp_path) == 0, (tmp_path / "output.log").read_text()
    assert killer.everything(tmp_path, url) == undisturbed
