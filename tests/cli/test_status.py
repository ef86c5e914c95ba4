"""`study status`: what stands in its sentences while a study waits, runs, was stopped, and is finished."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial

from models.bundle.card import StudyCard
from models.bundle.folder import CARD
from study.config.schema import StudyConfig
from study.search.open_study import existing
from study.storage.door import open_storage
from study.storage.owners.processes import now
from tests import killer
from tests.conftest import Shell, open_config, tiny_options


@pytest.fixture(scope="module")
def finished(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a tiny study was run to its end, once."""
    place = tmp_path_factory.mktemp("finished")
    assert killer.run(["run", *tiny_options(small_folder, trials=2), "--name", "s"], place) == 0
    return place


def test_a_finished_study_is_called_so(shell: Shell, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = json.loads(shell("status", "s", "--json")[1])
    assert {"name", "complete", "best_selection_score", "best_params", "trials_wanted", "go_on"} <= before.keys()
    assert (before["stage"], before["worked_on"]) == ("finished", False)
    card = StudyCard.model_validate_json((tmp_path / "runs" / "s" / "model" / CARD).read_text())
    code, out, _ = shell("status", "s")
    lines = out.replace(f"{tmp_path}/", "").splitlines()
    assert code == 0
    assert lines[0].startswith("s is finished: 2 of 2 trials ended (")
    assert lines[1].startswith("Test accuracy ")
    assert f"({card.test.images} images of {card.test.groups} sources)" in lines[1]
    assert any(line.startswith("Best selection score (validation): ") for line in lines[2:])
    assert "The model is in runs/s/model, the report is runs/s/model/report.html." in lines
    assert lines[-2:] == ["  study predict runs/s/model IMAGE", "  study dashboard"]
    assert "study resume" not in out
    code, out, _ = shell("status", "s", "--watch")
    assert code == 0
    assert out.splitlines()[0].startswith("s: finished; 2 of 2 trials done, ")
    assert out.splitlines()[1:] == shell("status", "s")[1].splitlines()
    shutil.rmtree(tmp_path / "runs" / "s" / "model")
    out = shell("status", "s")[1]
    assert "s was stopped in the final stage, after the search: 2 of 2 trials ended" in out
    assert "is finished" not in out
    assert out.endswith("\n  study resume s\n")


def test_a_study_whose_search_is_over_is_finished_though_a_trial_was_under_way(
    shell: Shell, finished: Path, tmp_path: Path
) -> None:
    """As where the hours of the search end in the middle of a trial, which keeps its number."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    url = f"sqlite:///{tmp_path}/optuna.db"
    existing(open_storage(url, create=False), "s", url).study.ask()
    assert json.loads(shell("status", "s", "--json")[1])["running"] == 1
    code, out, _ = shell("status", "s")
    assert code == 0
    assert out.startswith("s is finished: ")
    assert "\nTest accuracy " in out
    assert "Trial 2: was left unfinished when the search ended" in out
    code, out, _ = shell("status", "s", "--watch")  # which ends
    assert out.splitlines()[0].startswith("s: finished; ")


def test_only_a_study_that_nobody_works_on_is_to_be_resumed(
    shell: Shell, tmp_path: Path, tiny: Callable[..., StudyConfig]
) -> None:
    study = open_config(f"sqlite:///{tmp_path}/optuna.db", tiny(preset="quick", trials=1), folder=tmp_path / "runs/s")
    code, out, _ = shell("status", "s")
    assert (code, out.partition(".")[0]) == (0, "s has not begun its search: 0 of 1 trial ended")
    assert out.endswith("\n  study resume s\n")
    with study.clock.running(now()):
        study.study.ask()
        out = shell("status", "s")[1]
        assert out.startswith("s is running, in the search: 0 of 1 trial ended, 1 running.\n")
        assert out.endswith("\n  study status s --watch\n  study dashboard\n")
        assert "study resume" not in out
    out = shell("status", "s")[1]
    assert out.startswith("s was stopped in the search: 0 of 1 trial ended, 1 cut off.\n")
    assert "\nTrial 0: left behind; the next run goes on with it\n" in out
    assert out.endswith("\n  study resume s\n")


def test_a_study_of_another_program_has_its_note(
    shell: Shell, tmp_path: Path, tiny: Callable[..., StudyConfig]
) -> None:

    storage = open_config(f"sqlite:///{tmp_path}/optuna.db", tiny(preset="quick")).storage
    other = optuna.create_study(study_name="a\nb", storage=storage)
    other.add_trial(create_trial(value=1.0))
    code, out, _ = shell("status")
    assert code == 0
    assert "\n\na\\nb: 1 trial ended (1 complete). the study" in out or out.startswith("a\\nb: 1 trial ended")
