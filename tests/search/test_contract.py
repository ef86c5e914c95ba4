"""What defines a study, compared with what an earlier version wrote down."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from data.grouping.settings import BEFORE, version
from study import StudyError
from study.config.schema import StudyConfig
from study.search.contract import DEFAULTS, Images, compare, contract_of
from study.storage.names import DEFAULT_URL
from tests.conftest import Shell, tiny_options

NOTHING = Images(Path("runs/s"), "photos", {})


def test_a_contract_of_a_version_without_some_fields_is_the_same(tiny: Callable[..., StudyConfig]) -> None:
    wanted = contract_of(tiny(), "d", "p")
    later = ("tta", "near_starts", "starts", "limit", "prune_starts")
    kept = {key: value for key, value in wanted.items() if key not in later}
    unnamed = wanted[DEFAULTS]
    assert isinstance(unnamed, dict)
    kept[DEFAULTS] = {key: value for key, value in unnamed.items() if key not in ("block", "augment_turns", "decayed")}
    augment = kept["augment"]
    assert isinstance(augment, dict)
    kept["augment"] = {key: value for key, value in augment.items() if key != "turns"}
    compare("s", DEFAULT_URL, kept, wanted, NOTHING)
    with pytest.raises(StudyError, match=r"defaults\.head \(was gap, now flatten\)"):
        compare("s", DEFAULT_URL, {**kept, DEFAULTS: {**unnamed, "head": "gap"}}, wanted, NOTHING)
    with pytest.raises(StudyError, match=r"tta \(was none, now flips\)"):
        compare("s", DEFAULT_URL, kept, contract_of(tiny(tta="flips"), "d", "p"), NOTHING)


def noted(change: str | None = None) -> list[str]:
    """Which version found the groups of the only study; `change` is SQL for that."""
    with closing(sqlite3.connect("optuna.db")) as database, database:
        if change:
            database.execute(change)
        query = "SELECT value_json FROM study_user_attributes WHERE key = 'groups_found_by'"
        return [json.loads(value) for (value,) in database.execute(query)]


@pytest.mark.slow
def test_a_study_goes_on_with_the_groups_that_an_earlier_method_found(shell: Shell, tissue_folder: Path) -> None:
    """As one looks that the commit before began: nothing is noted, and the cache has the name of the old method."""
    folder = Path(shutil.copytree(tissue_folder, "images"))
    (folder / "groups.csv").unlink()
    options = tiny_options(folder, trials=1, final_epochs=1)
    assert shell("run", *options, "--name", "s")[0] == 0
    assert noted() == [version()]
    assert noted("DELETE FROM study_user_attributes WHERE key = 'groups_found_by'") == []
    (found,) = Path("runs/cache").glob(f"groups-*-{version()}")
    kept = found.with_name(found.name.replace(version(), BEFORE))
    found.rename(kept)
    parts = Path("runs/s/parts.json").read_bytes()

    assert shell("resume", "s", "--trials", "2")[0] == 0
    assert noted() == [BEFORE]
    assert Path("runs/s/parts.json").read_bytes() == parts
    assert not found.exists()  # they were not found anew

    shutil.rmtree(kept)
    code, _, err = shell("resume", "s", "--trials", "3")
    assert code == 2
    assert err.count("\n") == 1
    assert "new groups would give other parts" in err
    assert f"study run --data {folder.resolve()} --name s-2" in err
    assert shell("run", *options, "--name", "s-2")[0] == 0


def test_files_that_changed_or_moved_are_named_with_the_command_that_works(
    shell: Shell, small_folder: Path, tmp_path: Path
) -> None:
    images = tmp_path / "photos"
    shutil.copytree(small_folder, images)
    assert shell("run", *tiny_options(images, trials=2), "--name", "s")[0] == 0
    shutil.copy(images / "0" / "0000.png", images / "1" / "new.png")
    shutil.copy(images / "0" / "0000.png", next(iter(sorted((images / "2").iterdir()))))
    gone = min((images / "3").iterdir())
    gone.unlink()
    code, _, err = shell("resume", "s", "--trials", "3")
    assert code == 2
    line = err.splitlines()[-1]
    altered = min((images / "2").iterdir()).name
    assert f"(added: 1/new.png; removed: 3/{gone.name}; altered: 2/{altered})" in line
    assert "study resume" not in line
    assert f"study run runs/s/model/study.toml --data {images} --name s-2" in line

    shutil.rmtree(images)
    shutil.copytree(small_folder, tmp_path / "moved")
    for command in (("resume", "s", "--trials", "3"), ("retrain", "s")):
        code, _, err = shell(*command)
        assert (code, err.count("\n")) == (2, 1)
        assert f"the images of 's' lay in {images}; nothing is there now" in err
    toml = err.partition("study run ")[2].partition(" --data NEW")[0]
    assert shell("run", toml, "--data", tmp_path / "moved", "--name", "s", "--trials", 3)[0] == 0
