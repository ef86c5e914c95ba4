"""The shell scripts and the Dockerfile are linted; the recipe for Slurm is run by a stand-in that starts processes."""

import ast
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from tests import killer
from tests.conftest import tiny_options

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

SCONTROL = """#!/usr/bin/env bash
# `scontrol requeue JOB`: start it again, as Slurm would.
[ "$1" = requeue ] || exit 1
echo "$2" >> requeued.log
eval "set -- $WORDS"
setsid bash "$RECIPE" "$@" >> "job-$SLURM_ARRAY_TASK_ID.log" 2>&1 &
echo $! >> "pids-$SLURM_ARRAY_TASK_ID"
"""


def test_scripts_and_dockerfile_are_linted() -> None:
    for tool, files in (("shellcheck", sorted((ROOT / "scripts").glob("*.sh"))), ("hadolint", [ROOT / "Dockerfile"])):
        assert files
        done = subprocess.run([BIN / tool, *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_recipe_without_a_study_says_how_it_is_used(tmp_path: Path) -> None:
    done = subprocess.run(["bash", ROOT / "scripts" / "slurm.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr[:13]) == (2, "usage: sbatch")


@pytest.mark.long
def test_an_array_of_jobs_brings_a_study_to_its_end_and_outlives_preemption(small_folder: Path, tmp_path: Path) -> None:
    """Three jobs on one machine; two of them get SIGTERM and are queued again, one of these the first."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text(SCONTROL)
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    words = ["s", "sqlite:///optuna.db", *tiny_options(small_folder, trials=16, epochs=16, min_epochs=4)]
    recipe = str(ROOT / "scripts" / "slurm.sh")
    shared = {"RECIPE": recipe, "WORDS": shlex.join(words), "SLURM_ARRAY_TASK_MIN": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **shared, "PATH": f"{tmp_path}/bin:{BIN}:{os.environ['PATH']}"}
    jobs = {}
    for task in ("1", "2", "3"):
        own = {"SLURM_ARRAY_TASK_ID": task, "SLURM_JOB_ID": f"70{task}"}
        with (tmp_path / f"job-{task}.log").open("w") as log:
            jobs[task] = subprocess.Popen(
                ["bash", recipe, *words], cwd=tmp_path, env={**environment, **own}, stdout=log, stderr=log
            )
    for task, epochs in (("2", 8), ("1", 40)):
        end = time.monotonic() + 60
        while killer.reports(tmp_path) < epochs and time.monotonic() < end:
            time.sleep(0.05)
        jobs[task].send_signal(signal.SIGTERM)
        assert jobs[task].wait(20) == 0
    end = time.monotonic() + 120
    while not (tmp_path / "runs" / "s" / "model" / "report.html").exists() and time.monotonic() < end:
        time.sleep(0.2)
    assert jobs["3"].wait(60) == 0, (tmp_path / "job-3.log").read_text()
    for task in ("1", "2"):
        for pid in (tmp_path / f"pids-{task}").read_text().split():
            while Path(f"/proc/{pid}").exists() and time.monotonic() < end and not killer.is_dead(pid):
                time.sleep(0.1)
    assert sorted((tmp_path / "requeued.log").read_text().split()) == ["701", "702"]
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/optuna.db")
    assert [trial.number for trial in study.trials] == list(range(16))
    assert all(trial.state.is_finished() for trial in study.trials)
    assert len(study.user_attrs["openings"]) == 1
    logs = "".join((tmp_path / f"job-{task}.log").read_text() for task in jobs)
    assert "Traceback" not in logs


@pytest.mark.long
def test_the_recall_of_a_rare_class_rises_with_weights(tmp_path: Path) -> None:
    """The networks of the benchmark, on digits: the same weights at the start, the same images."""
    command = [sys.executable, ROOT / "scripts" / "bench" / "imbalance.py", "digits", "--epochs", "6", "--seeds", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    gained = [row["balanced"]["rare_recall"] - row["none"]["rare_recall"] for row in rows]
    assert len(gained) == 5
    assert sum(gained) / 5 > 0.1


def names_cuda(node: ast.AST) -> bool:
    """Whether code asks for CUDA, or for the processor in its place."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and part.attr == "cuda":
            return True
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.startswith("cuda"):
            return True
        if isinstance(part, ast.Compare) and any(
            isinstance(one, ast.Constant) and one.value in ("cpu", "mps") for one in part.comparators
        ):
            return True
    return False


def branches_for_cuda() -> Iterator[str]:
    """The outermost functions of the program that name CUDA: models.training.step.autocast."""
    for file in (file for room in ("data", "models", "study") for file in sorted((ROOT / room).rglob("*.py"))):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(file.read_text()).body:
            room, inner = (f"{module}.{node.name}", node.body) if isinstance(node, ast.ClassDef) else (module, [node])
            for function in inner:
                if isinstance(function, ast.FunctionDef) and names_cuda(function):
                    yield f"{room}.{function.name}"


def test_every_branch_for_cuda_is_gone_through_where_there_is_one() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "gpu_check.py"), run_name="gpu_check")
    known = {name for _, names in script["CHECKS"] for name in names} | set(script["ELSEWHERE"])
    assert set(branches_for_cuda()) == known


@pytest.mark.long
def test_the_check_of_a_gpu_runs_small_without_one() -> None:
    done = subprocess.run([ROOT / "scripts" / "gpu_check.sh", "--tiny"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("## On ")
    assert "Tiny, for a test: the figures mean nothing." in done.stdout
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    assert [row[0] for row in rows if len(row) == 3 and row[2].isdigit()] == [
        *("number types", "graph", "host memory", "out of memory", "resuming", "workers", "export")
    ]
    assert [row[0] for row in rows if len(row) == 8][2:] == ["smallest", "published best", "largest"]
    assert all(len(row) in (3, 8) for row in rows)
    assert re.search(r"`study run --hours 0.0075` on \d+ of them: \d+ s of 27 s", done.stdout)
    assert "wrong" not in done.stdout
