"""Files of the folder in which a command is given are looked at, never run, whatever process looks."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import tiny_options

pytestmark = pytest.mark.long

PROGRAM = Path(sys.executable).with_name("study")
NAMES = (
    *("signal", "struct", "pickle", "random", "json", "copyreg", "selectors", "socket", "multiprocessing", "typing"),
    *("torch", "numpy", "cv2", "optuna", "sqlalchemy", "pydantic", "PIL", "scipy", "sklearn", "plotly", "alembic"),
    *("ray", "fastapi", "uvicorn", "bottle", "optuna_dashboard", "data", "models", "study", "usercustomize"),
)
"""Of modules that one or another process imports first."""


@pytest.fixture
def theirs(small_folder: Path, tmp_path: Path) -> Path:
    """A folder of images with Python files in it that leave a mark when they are run."""
    place = tmp_path / "images"
    shutil.copytree(small_folder, place)
    for name in NAMES:
        (place / f"{name}.py").write_text(f"open({str(tmp_path / 'RUN')!r}, 'a').write('{name}\\n')\n")
    return place


def ran(place: Path) -> list[str]:
    mark = place.parent / "RUN"
    return sorted(set(mark.read_text().split())) if mark.exists() else []


def command(place: Path, *words: object) -> None:
    done = subprocess.run([PROGRAM, *map(str, words)], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_command_runs_a_file_of_the_folder(theirs: Path) -> None:
    """Workers from the fork server, a pool that looks for sources, questions, a worker beside others, prediction."""
    storage = ("--storage", f"sqlite:///{theirs.parent}/optuna.db")
    study = tiny_options(Path(), trials=4)
    command(theirs, "run", *study, "--name", "s", "--workers", "2", *storage, "--set", "groups=auto")
    command(theirs, "worker", "s", *storage)
    command(theirs, "data", "split", ".", "--groups", "auto")
    command(theirs, "sql", "SELECT count(*) FROM trials_flat", *storage)
    command(theirs, "predict", theirs.parent / "runs" / "s" / "model", ".")
    for words in (("dashboard", *storage), ("serve", theirs.parent / "runs" / "s" / "model")):
        process = subprocess.Popen(
            [PROGRAM, *map(str, words), "--port", "0"], cwd=theirs, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        assert process.stderr.readline().startswith("http")
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)
        process.stderr.close()
    assert ran(theirs) == []


def test_no_worker_on_a_cluster_runs_a_file_of_the_folder(theirs: Path) -> None:
    pytest.importorskip("ray")
    storage = ("--storage", f"sqlite:///{theirs.parent}/optuna.db")
    command(
        theirs, "run", *tiny_options(Path(), trials=4), "--name", "s", "--engine", "ray", "--workers", "2", *storage
    )
    assert ran(theirs) == []
