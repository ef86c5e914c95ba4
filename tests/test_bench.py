"""Every benchmark runs, with the smallest sizes; and their harness goes on after a stop."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import killer, slides
from tests.conftest import SHARED

BENCH = Path(__file__).resolve().parents[1] / "scripts" / "bench"

WORDS = {
    "batch": "--points 2 --epochs 1",
    "busy": "--rounds 1 --seconds 0.05 --networks small --threads 1 --busy 1",
    "checkpoint": "--networks smallest --size 32",
    "commands": "--runs 1",
    "dashboard": "--trials 60 --epochs 6 --patience 60",
    "curves": "digits=digits --lengths 3",
    "coverage": "--cells 2 --replications 3",
    "decoding": "--images 20 --side 64 --runs 2 --many 50",
    "engines": "--only ours --tasks tiny",
    "folders": "TISSUE --minutes 1.2",
    "hours": "--each 1 --seconds 40 --conditions later",
    "groups": "TISSUE shapes --processes 1 2 --sizes 60 --second",
    "imbalance": "--epochs 6 --seeds 2",
    "overhead": "--sizes 20 --trials 2 --samplers tpe --workers 2 --crew-trials 6",
    "peers": "TISSUE --minutes 0.9 --only ours,recipe,frozen",
    "predict": "--images 20 --side 64 --size 32 --runs 1",
    "reference": "TISSUE --each 18 --size 32 --base 2 --configurations 1 --epochs 3",
    "search": "--orders 2",
    "serve": "MODEL DIGITS --clients 2 --seconds 1",
    "slides": "MODEL SLIDE --um 32 --runs 1 --tiles 40",
    "sql": "--trials 60 --epochs 6 --runs 1",
    "temperature": "--draws 2 --sizes 10 100",
    "stale": "TABLES --workers 1 --seeds 1 --tasks 1",
    "training": "--size 32 --patience 0.1 --batches 4",
    "workers": "--trials 2 --runs 1",
}
FIXTURES = {"TISSUE": "tissue_folder", "MODEL": "model", "DIGITS": "small_folder", "TABLES": "tables", "SLIDE": "slide"}


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slides.slide(tmp_path_factory.mktemp("slides") / "one.svs")


@pytest.fixture(scope="module")
def model(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small study's model."""
    folder = tmp_path_factory.mktemp("study")
    assert killer.run(killer.options(small_folder), folder) == 0
    return folder / "runs" / "s" / "model"


@pytest.fixture
def tables() -> Path:
    """Learning curves that others have measured."""
    folder = SHARED.parent / "tables"
    if not folder.exists():
        pytest.skip(f"needs {folder}")
    return folder


def test_every_benchmark_is_run_below() -> None:
    assert {file.stem for file in BENCH.glob("*.py")} - {"harness", "pretrained"} == set(WORDS)


@pytest.mark.long
@pytest.mark.timeout(600)  # four sides of a minute each, and what is before and after them
@pytest.mark.parametrize("name", WORDS)
def test_a_benchmark_runs_with_small_sizes(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if name == "dashboard" and not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no Chromium is installed (on Debian: apt install chromium)")
    if name == "serve":
        pytest.importorskip("aiohttp")
    words = [str(request.getfixturevalue(FIXTURES[word])) if word in FIXTURES else word for word in WORDS[name].split()]
    if name == "peers" and find_spec("ray") and find_spec("pyarrow"):  # which ray.tune imports
        words[-1] += ",ray"
    command = [sys.executable, BENCH / f"{name}.py", *words, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"]
    assert "| --- |" in found["shown"]


TWO_CELLS = """
import sys
from pathlib import Path

from harness import run


def measured(name):
    with Path("measured.log").open("a") as file:
        file.write(name + chr(10))
    if Path("stop").exists() and name == "two":
        sys.exit("stopped")
    return {"seconds": 1.5}


run("A benchmark.", lambda given: [(name, lambda name=name: measured(name)) for name in ("one", "two")], {"--size": 3})
"""


def test_rows_outlive_a_stop_and_are_measured_once(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO_CELLS)
    environment = {**os.environ, "PYTHONPATH": str(BENCH)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "two.py", "--json", "--keep", "rows.jsonl", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    def measured() -> list[str]:
        return (tmp_path / "measured.log").read_text().split()

    (tmp_path / "stop").touch()
    assert run().returncode == 1
    assert measured() == ["one", "two"]
    kept = json.loads((tmp_path / "rows.jsonl").read_text())
    assert kept == {"settings": {"size": "3"}, "row": {"name": "one", "seconds": 1.5}}

    (tmp_path / "stop").unlink()
    both = [{"name": name, "seconds": 1.5} for name in ("one", "two")]
    assert json.loads(run().stdout)["rows"] == both
    assert measured() == ["one", "two", "two"]
    assert json.loads(run().stdout)["rows"] == both  # all are known
    assert measured() == ["one", "two", "two"]
    assert json.loads(run("--size", "4").stdout)["rows"] == both  # which is another benchmark
    assert measured() == ["one", "two", "two", "one", "two"]
