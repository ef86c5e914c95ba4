"""How busy a machine is, and how much of it this process may use."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from data import processes
from study.budget import load
from study.budget.load import Load, take_threads


def test_how_much_slower_others_make_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([{"1": (100, 50)}, {"1": (200, 150), "2": (100, 100)}, {"1": (200, 150)}, {}])
    monkeypatch.setattr(load, "_counted", lambda: next(counts))
    watch = Load()
    assert watch.times_slower() == pytest.approx((200 + 200) / 200)
    assert watch.times_slower() == 1.0  # nothing ran
    assert watch.times_slower() == 1.0  # nobody counts


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not count it")
def test_busy_processes_are_felt() -> None:
    there = sorted(os.sched_getaffinity(0))[:1]
    os.sched_setaffinity(0, there)  # one processor for all
    try:
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        watch, end = Load(), time.monotonic() + 2
        for number in itertools.count():
            if time.monotonic() > end:
                break
            number * number
        assert watch.times_slower() > 1.4
    finally:
        busy.kill()
        busy.wait()
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


@pytest.mark.parametrize(
    ("quotas", "processors"),
    [({}, 8), ({"": "max 100000"}, 8), ({"": "250000 100000"}, 3), ({"": "max 100000", "..": "50000 100000"}, 1)],
)
def test_a_containers_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quotas: dict[str, str], processors: int
) -> None:
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    root = tmp_path / "cgroup"
    place = root / own.strip("/") if own.strip("/") else root
    for where, text in quotas.items():
        folder = (place / where).resolve()
        if not folder.is_relative_to(root):
            pytest.skip("this process is in the outermost group")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(f"{text}\n")
    monkeypatch.setattr(processes, "CGROUPS", root)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert processes.usable_cpus() == processors


def test_threads_are_those_of_the_study_or_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(load, "usable_cpus", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    take_threads(3)
    assert taken == []  # somebody says it
    monkeypatch.delenv("OMP_NUM_THREADS")
    take_threads(3)
    take_threads()
    assert taken == [3, 4]
