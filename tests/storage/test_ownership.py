"""A folder under runs/ belongs to one database and study: with real second databases, copied, moved and deleted."""

import json
import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest

from study.storage.ownership import FILE
from tests import killer
from tests.conftest import Shell, tiny_options

pytestmark = pytest.mark.slow


@pytest.fixture
def ran(shell: Shell, small_folder: Path, tmp_path: Path) -> list[str]:
    """The options of a small study that has ended, in another process: nothing is left in the database's log."""
    options = ["run", *tiny_options(small_folder, trials=2, epochs=2), "--name", "s"]
    assert killer.run(options, tmp_path) == 0
    return options


def settled(tmp_path: Path, name: str = "optuna.db") -> None:
    """Put what this process has written into the file itself, which is moved alone."""
    with sqlite3.connect(tmp_path / name) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def weights(tmp_path: Path) -> bytes:
    return (tmp_path / "runs" / "s" / "model" / "model.safetensors").read_bytes()


def test_deleting_a_study_of_a_copy_leaves_the_originals_files(ran: list[str], shell: Shell, tmp_path: Path) -> None:
    before = weights(tmp_path)
    assert shell("db", "copy", "optuna.db", "backup.db")[0] == 0
    code, _, err = shell("db", "delete", "s", "--storage", "sqlite:///backup.db", "--yes")
    assert code == 0
    assert "runs/s stays, since it is not this study's for certain" in err
    assert weights(tmp_path) == before
    assert shell("status", "s", "--storage", "sqlite:///backup.db")[0] == 2
    assert shell("status", "s")[0] == 0
    assert shell("db", "delete", "s", "--yes")[0] == 0
    assert not (tmp_path / "runs" / "s").exists()


def test_another_database_may_not_use_the_folder(ran: list[str], shell: Shell, tmp_path: Path) -> None:
    before = weights(tmp_path)
    shell("db", "copy", "optuna.db", "backup.db")
    for options in ([*ran, "--set", "seed=5"], ran, ["resume", "s"]):
        other = "new.db" if options[0] == "run" else "backup.db"
        code, _, err = shell(*options, "--storage", f"sqlite:///{other}")
        assert code == 2
        assert "runs/s belongs to the study 's' of optuna.db (go on with that database, choose another --name" in err
    assert weights(tmp_path) == before
    with sqlite3.connect(tmp_path / "new.db") as connection:  # the refusal made no study
        assert connection.execute("SELECT count(*) FROM studies").fetchone() == (0,)
    assert shell(*ran)[0] == 0  # it goes on to be its own


def test_a_database_that_moved_or_is_gone_owns_nothing(ran: list[str], shell: Shell, tmp_path: Path) -> None:
    settled(tmp_path)
    (tmp_path / "optuna.db").rename(tmp_path / "renamed.db")
    assert shell("resume", "s", "--storage", "sqlite:///renamed.db")[0] == 0
    assert json.loads((tmp_path / "runs" / "s" / FILE).read_text())["database"] == "renamed.db"
    for file in tmp_path.glob("renamed.db*"):
        file.unlink()
    assert shell(*ran)[0] == 0  # begun anew
    optuna.delete_study(study_name="s", storage=f"sqlite:///{tmp_path}/optuna.db")
    assert shell(*ran)[0] == 0


def test_a_whole_folder_moves(ran: list[str], shell: Shell, tmp_path: Path) -> None:
    settled(tmp_path)
    (tmp_path / "new").mkdir()
    for name in ("optuna.db", "runs"):
        shutil.move(tmp_path / name, tmp_path / "new" / name)
    assert shell("resume", "s", "--storage", f"sqlite:///{tmp_path}/new/optuna.db")[0] == 0
    assert shell("db", "delete", "s", "--yes", "--storage", f"sqlite:///{tmp_path}/new/optuna.db")[0] == 0
    assert not (tmp_path / "new" / "runs" / "s").exists()


def test_a_folder_of_an_earlier_version_gets_its_identity_at_the_next_run(
    ran: list[str], shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "runs" / "s" / FILE).unlink()
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.execute("DELETE FROM study_user_attributes WHERE key = 'identity'")
    settled(tmp_path)
    shutil.copy(tmp_path / "optuna.db", tmp_path / "backup.db")
    assert shell("resume", "s")[0] == 0
    assert (tmp_path / "runs" / "s" / FILE).exists()
    code, _, err = shell("resume", "s", "--storage", "sqlite:///backup.db")
    assert (code, "belongs to the study 's' of optuna.db" in err) == (2, True)


def test_a_database_that_cannot_be_asked_keeps_its_files(ran: list[str], shell: Shell, tmp_path: Path) -> None:
    shell("db", "copy", "optuna.db", "backup.db")
    locked = sqlite3.connect(tmp_path / "optuna.db", isolation_level=None)
    locked.execute("PRAGMA locking_mode = EXCLUSIVE")
    locked.execute("BEGIN EXCLUSIVE")
    code, _, err = shell("db", "delete", "s", "--storage", "sqlite:///backup.db", "--yes")
    locked.close()
    assert (code, "runs/s stays" in err) == (0, True)
    assert weights(tmp_path)


def test_another_study_under_the_same_names_is_not_taken_for_it(ran: list[str], shell: Shell, tmp_path: Path) -> None:
    settled(tmp_path)
    (tmp_path / "optuna.db").rename(tmp_path / "old.db")
    optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/optuna.db")
    code, _, err = shell("db", "delete", "s", "--yes")
    assert (code, "runs/s stays" in err) == (0, True)
    assert weights(tmp_path)
