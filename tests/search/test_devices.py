"""Which device each worker trains on."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from study import StudyError, launch
from study.config.resolve import ask
from study.search import local
from study.search.devices import VISIBLE, environment_for_device, named, spread
from study.search.engine import Work
from study.search.local import local_processes
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("asked", "there", "chosen"),
    [
        ("auto", 0, ("cpu",)),
        ("auto", 1, ("cuda:0",)),
        ("auto", 3, ("cuda:0", "cuda:1", "cuda:2")),
        ("cpu", 3, ("cpu",)),
        ("cuda", 2, ("cuda:0", "cuda:1")),
        ("cuda:1", 2, ("cuda:1",)),
        ("cuda:2, cuda:0", 3, ("cuda:2", "cuda:0")),
        ("cuda:01", 2, ("cuda:1",)),
    ],
)
def test_devices_by_name(asked: str, there: int, chosen: tuple[str, ...]) -> None:
    assert named(asked, there) == chosen


def test_the_gpu_of_a_mac_is_taken_where_it_is_named() -> None:
    assert named("mps", 0, mps=True) == ("mps",)
    assert named("auto", 0, mps=True) == ("cpu",)
    assert environment_for_device("mps", {}) == {}


@pytest.mark.parametrize(
    ("asked", "there", "why"),
    [
        ("cuda", 0, "no CUDA device was found"),
        ("cuda:0", 0, "no CUDA device was found"),
        ("cuda:2", 2, "there is no cuda:2 (there are: cuda:0, cuda:1)"),
        ("cuda:1,cuda:1", 2, "name each device only once"),
        ("cuda,cuda:0", 2, "name each device only once"),
        ("cuda:0,cpu", 2, "'cpu' is unknown"),
        ("cuda:-1", 2, "'cuda:-1' is unknown"),
        ("gpu", 2, "'gpu' is unknown"),
        ("", 2, "'' is unknown"),
        ("mps", 2, "no Apple GPU was found"),
        ("cuda:0,", 2, "'' is unknown"),
    ],
)
def test_devices_that_are_not_there(asked: str, there: int, why: str) -> None:
    with pytest.raises(StudyError, match=r"^--device ") as error:
        named(asked, there)
    assert why in str(error.value)


@given(st.integers(1, 8), st.integers(1, 40))
def test_workers_are_spread_evenly(devices: int, workers: int) -> None:
    names = [f"cuda:{index}" for index in range(devices)]
    placed = spread(names, workers)
    counts = [placed.count(name) for name in names]
    assert sum(counts) == workers
    assert max(counts) - min(counts) <= 1
    assert placed[:devices] == tuple(names[:workers])


@pytest.mark.parametrize(
    ("device", "visible", "alone"),
    [
        ("cuda:1", None, {VISIBLE: "1"}),
        ("cuda:1", "4,6", {VISIBLE: "6"}),
        ("cuda:0", "GPU-5f8a, GPU-77", {VISIBLE: "GPU-5f8a"}),
        ("cpu", "4,6", {}),
    ],
)
def test_a_worker_sees_its_device_only(device: str, visible: str | None, alone: dict[str, str]) -> None:
    assert environment_for_device(device, {} if visible is None else {VISIBLE: visible}) == alone


@pytest.mark.slow
def test_every_worker_is_handed_its_device(small_folder: Path, tmp_path: Path) -> None:
    handed: list[Sequence[str]] = []

    def engine(name: str, url: str, devices: Sequence[str], work: Work) -> Iterator[Any]:
        handed.append(devices)
        yield from local_processes(name, url, devices, work)

    asked = ask(None, {**TINY, "preset": "quick", "data": str(small_folder), "workers": 3, "trials": 3})
    for _ in launch.run(asked, "s", f"sqlite:///{tmp_path}/optuna.db", ["cpu"], engine=engine):
        pass
    assert handed == [("cpu", "cpu", "cpu"), ("cpu",)]  # for the search, and for its only final training


def test_a_workers_process_sees_its_device_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process; only the work itself is not CUDA's."""

    def work(name: str, url: str, device: torch.device, threads: int | None) -> Iterator[Any]:
        yield os.environ.get(VISIBLE), str(device)

    monkeypatch.setenv(VISIBLE, "5,7")
    context = multiprocessing.get_context("fork")  # takes the changed module along
    for device, seen in (("cuda:1", ("7", "cuda:0")), ("cpu", ("5,7", "cpu"))):
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(
            target=local._live, args=(theirs, local.Order("s", "sqlite:///none.db", device, 1, work))
        )
        worker.start()
        assert ours.recv() == seen
        worker.join(20)
        assert worker.exitcode == 0


def test_devices_that_stay_idle_are_named(small_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = ask(None, {**TINY, "preset": "quick", "data": str(small_folder), "trials": 1})
    next(launch.run(asked, "s", f"sqlite:///{tmp_path}/optuna.db", ["cpu", "cuda:1"]))
    assert "cuda:1: not used (--workers 2 uses all 2)" in caplog.text
