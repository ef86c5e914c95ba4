"""Studies from Python: the same as from the shell, with exceptions for errors."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import study
from models import ModelError
from tests.conftest import TINY

FIELDS: dict[str, Any] = {name: value for name, value in TINY.items() if "." not in name and name != "trials"}
SET = {name: value for name, value in TINY.items() if "." in name}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_run_resume_and_use(place: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {**FIELDS, "preset": "quick", "set": SET}
    result = study.run(small_folder, name="s", trials=2, **given)
    said = capsys.readouterr()
    assert said.out == ""
    assert "trial 0" in said.err
    assert result.folder == Path("runs/s/model")
    assert result.card.test.images > 0
    assert result.verdict.startswith("Test accuracy")
    assert "<s: test accuracy" in repr(result)
    image = next(small_folder.glob("*/*.png"))
    frame = result.model([image])
    assert frame["label"][0] in result.card.classes
    assert study.load_model(place / "runs/s/model")([str(image)]).equals(frame)
    assert len(result.history.frame()) == 2
    assert study.run(small_folder, name="s", trials=2, quiet=True, **given).card == result.card  # finished already
    more = study.resume("s", trials=3, quiet=True)
    assert capsys.readouterr().err.count("\n") <= 3  # that the test part was opened before
    assert len(study.History("s").frame()) == 3
    assert more.card.study.trials == 3


def test_errors_are_exceptions(place: Path, small_folder: Path) -> None:
    with pytest.raises(study.StudyError, match="unknown preset 'qick'"):
        study.run(small_folder, preset="qick")
    with pytest.raises(study.StudyError, match=r"unknown field .image_sise."):
        study.run(small_folder, image_sise=32)
    with pytest.raises(study.StudyError, match=r"optuna\.db"):
        study.resume("nobody")
    with pytest.raises(ModelError):
        study.load_model(place)
    with pytest.raises(AttributeError, match="there are: run, resume, load_model, History"):
        study.begin  # noqa: B018
    assert {"run", "resume", "load_model", "History", "StudyError"} <= set(dir(study))


SCRIPT = """
import study

result = study.run("four", name="s", preset="quick", trials=2, workers=2, quiet=True, set={set}, **{fields})
print(result.model(["four/0/0010.png"])["label"][0])
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_starts_workers(place: Path, small_folder: Path) -> None:
    (place / "four").symlink_to(small_folder)
    first = sorted((small_folder / "0").iterdir())[0].name
    text = SCRIPT.format(set=SET, fields=FIELDS).replace("0010.png", first)
    (place / "mine.py").write_text(text)
    done = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 1  # and no worker ran the script again


def test_a_folder_with_a_file_called_data_gets_a_line(place: Path) -> None:
    (place / "data.py").write_text("raise SystemExit('was run')")
    (place / "mine.py").write_text("import study\nstudy.run()\n")
    done = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "hides the package 'data' of this program (rename it" in done.stderr.splitlines()[-1]
    assert "was run" not in done.stderr
