"""A command imports what it needs: most need none of the packages that take seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from study.config.schema import StudyConfig
from tests.conftest import open_config

SLOW = {
    "torch",
    "torchvision",
    "plotly",
    "matplotlib",
    "scipy",
    "sklearn",
    "cv2",
    "pandas",
    "onnx",
    "onnxruntime",
    "captum",
}
MORE = {*SLOW, "optuna", "sqlalchemy", "alembic", "numpy", "PIL", "tqdm"}

CHILD = """
import json, sys
from study.__main__ import main
sys.argv = ["study", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code
print("\\n" + json.dumps([code, sorted(name for name in sys.modules if "." not in name)]), file=sys.stderr)
"""


def imported(place: Path, *words: str, **environment: str) -> tuple[int, set[str]]:
    """The exit code of a command, and the packages that it imported."""
    environ = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", CHILD, *words], cwd=place, env=environ, capture_output=True, text=True)
    code, names = json.loads(done.stderr.splitlines()[-1])
    return code or 0, set(names)


@pytest.mark.parametrize(
    "words",
    [("--help",), ("--version",), ("run", "--help"), ("predict", "--help"), ("data", "audit", "--help")],
    ids=" ".join,
)
def test_help_and_version_import_nothing_that_takes_time(words: tuple[str, ...], tmp_path: Path) -> None:
    code, names = imported(tmp_path, *words)
    assert code == 0
    assert not names & MORE


@pytest.mark.parametrize(
    ("line", "forbidden"),
    [
        ("study ", MORE),
        ("study resume ", MORE),
        ("study run --preset ", MORE),
        ("study run --set ", SLOW),
        ("study help ", SLOW),
    ],
)
def test_completion_imports_little(line: str, forbidden: set[str], tmp_path: Path) -> None:
    asked = {"_STUDY_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()))}
    code, names = imported(tmp_path, **asked)
    assert code == 0
    assert not names & forbidden


def test_commands_about_the_database_need_no_torch(tmp_path: Path, tiny: Callable[..., StudyConfig]) -> None:
    open_config(f"sqlite:///{tmp_path}/optuna.db", tiny(), folder=tmp_path / "runs" / "s")
    for words in (
        ("help", "epochs"),
        ("status",),
        ("status", "s", "--json"),
        ("sql", "SELECT count(*) FROM trials"),
        ("sql", "--schema"),
        ("db", "copy", "optuna.db", "copied.db"),
        ("db", "upgrade"),
        ("db", "delete", "s", "--storage", "sqlite:///copied.db", "--yes"),
    ):
        code, names = imported(tmp_path, *words)
        assert code == 0, words
        assert not names & SLOW, words


def test_a_study_begins_without_what_its_end_needs(tmp_path: Path) -> None:
    code, names = imported(tmp_path, "run", "--data", "/nowhere")
    assert code == 2
    assert "torch" in names
    assert not names & (SLOW - {"torch"})
