"""A finished study: what adds nothing ends at once, what adds says what it costs, and no model is lost."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from models.bundle.folder import is_whole
from study.attributes import MODELS, OPENINGS
from study.storage.door import load_study, open_storage
from tests import killer
from tests.conftest import Shell, tiny_options

pytestmark = pytest.mark.slow

MODEL = Path("runs/s/model")


def attributes() -> dict[str, Any]:
    return load_study(open_storage("sqlite:///optuna.db", create=False, write=False), "s").user_attrs


def card(folder: Path = MODEL) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return found


def begun(folder: Path, trials: int) -> list[str]:
    """A command that says how many trials, and the same without."""
    return ["run", "--name", "s", *tiny_options(folder, trials=trials, pruner="none")]


def without(options: list[str], word: str) -> list[str]:
    place = next(i for i, one in enumerate(options) if one.startswith(word))
    return [*options[: place - 1], *options[place + 1 :]]


def test_a_default_adds_nothing_to_a_finished_study(shell: Shell, small_folder: Path) -> None:
    command = begun(small_folder, 2)
    assert shell(*command)[0] == 0
    written, known = (MODEL / "card.json").stat().st_mtime_ns, attributes()
    line = (
        "s is finished, and nothing was added: the model is in runs/s/model, the report is runs/s/model/report.html "
        "(to add: study resume s --trials 4)\n"
    )
    bare = without(command, "trials=")  # the preset has 12 of them
    for again in (command, bare, ["resume", "s"], ["resume", "s", "--finish"], [*command, "--trials", "1"]):
        assert shell(*again)[:2] == (0, line), again
        assert (MODEL / "card.json").stat().st_mtime_ns == written
    assert {**attributes(), "config": None} == {**known, "config": None}  # the clock too
    assert shell(*bare)[2] == ""
    (MODEL / "model.onnx").unlink()  # no longer whole: written again, not opened again
    assert "test accuracy" in shell(*bare)[1]
    assert is_whole(MODEL)
    assert len(attributes()[OPENINGS]) == 1
    assert not Path("runs/s/model-1").exists()
    assert "test accuracy" in shell(*bare, "--set", "positive=['1']")[1]  # it changes the report
    assert len(attributes()[OPENINGS]) == 1
    assert shell(*bare)[1] == line
    assert card()["study"]["config"]["positive"] == ["1"]


def test_hours_that_are_only_a_default_add_nothing(shell: Shell, small_folder: Path) -> None:
    command = [*begun(small_folder, 400), "--set", "epochs=30", "--hours", "0.01"]
    assert shell(*command)[0] == 0
    written = (MODEL / "card.json").stat().st_mtime_ns
    for again in (command, command[:-2], ["resume", "s"]):
        code, out, _ = shell(*again)
        assert (code, "(to add: study resume s --hours 0.02)" in out) == (0, True), again
        assert (MODEL / "card.json").stat().st_mtime_ns == written
    assert attributes()["config"]["hours"] == 0.01


def test_what_adds_says_first_that_the_test_is_opened_again_and_keeps_the_model(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = Path("output.log")
    assert killer.run(begun(small_folder, 1), tmp_path) == 0
    assert "the test part was opened" not in said.read_text().lower()
    before = card()
    for trials, times, place in ((5, "once", "model-1"), (8, "2 times", "model-2")):
        said.unlink()
        assert killer.run(["resume", "s", "--trials", str(trials)], tmp_path) == 0
        warning = (
            f"the test part was opened {times} in this study, and will be opened again if another trial wins, or is "
            f"compared: the score is then optimistic; the model in runs/s/model is then kept in runs/s/{place}"
        )
        text = said.read_text()
        assert text.index(warning) < text.index("study s: ") < text.index("\ntrial ")
    kept = Path("runs/s/model-1")
    assert card(kept) == before
    assert is_whole(kept)
    paths = [(row["path"], row["opening"]) for row in attributes()[MODELS]]
    assert ("model-1", 1) in paths
    assert ("model", card()["test_opening"]["number"]) in paths
    number, count = card()["test_opening"]["number"], card()["test_openings"]
    assert number > 1
    said_there = f"| openings of the test part | {count}; these scores are from opening {number} |"
    assert said_there in (MODEL / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(("point", "when"), [("keep", "before"), ("keep", "after"), ("weights", "after")])
def test_killed_while_a_model_takes_another_ones_place(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, when: str
) -> None:
    """Nothing is lost, nothing kept twice, and the test is opened no more often."""
    monkeypatch.chdir(tmp_path)
    assert killer.run(begun(small_folder, 1), tmp_path) == 0
    first = card()
    assert killer.run(["resume", "s", "--trials", "5"], tmp_path, point, when) in (-signal.SIGKILL, 0)
    assert killer.run(["resume", "s"], tmp_path) == 0
    assert is_whole(MODEL)
    opened = attributes()[OPENINGS]
    assert len(opened) == 2
    assert card()["test_opening"]["number"] == 2
    assert card(Path("runs/s/model-1")) == first
    assert not Path("runs/s/model-2").exists()
    assert [(row["path"], row["opening"]) for row in attributes()[MODELS]] == [("model-1", 1), ("model", 2)]
