"""A folder under runs/ belongs to one database and study: with real second databases, copied, moved and deleted."""

import json
import os
import shutil
import sqlite3
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from study.storage.door import open_storage
from study.storage.lean import LeanStorage
from study.storage.owners.ownership import FILE, claim_folder
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


def test_a_copy_that_is_named_like_a_rescue_is_a_copy(ran: list[str], shell: Shell, tmp_path: Path) -> None:
    assert shell("db", "copy", "optuna.db", "optuna.db.rescued")[0] == 0
    code, _, err = shell("db", "delete", "s", "--storage", "sqlite:///optuna.db.rescued", "--yes")
    assert (code, "runs/s stays" in err) == (0, True)
    assert weights(tmp_path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["damaged", "pipe"])
def test_a_folder_that_does_not_say_whose_it_is_is_nobodys(
    ran: list[str], shell: Shell, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "runs" / "s" / FILE
    file.unlink()
    file.write_text("{") if kind == "damaged" else os.mkfifo(file)
    code, _, err = shell("resume", "s")
    assert (code, err.count("\n")) == (2, 1)
    assert "runs/s/owner.json does not say to which study the folder belongs" in err
    code, _, err = shell("db", "delete", "s", "--yes")
    assert (code, "runs/s stays" in err) == (0, True)
    assert weights(tmp_path)


def made_in(url: str, folder: Path) -> LeanStorage:
    """A database with a study "s" that owns a folder."""
    storage = open_storage(url, create=True)
    claim_folder(optuna.create_study(study_name="s", storage=storage, load_if_exists=True), folder, storage)
    return storage


def test_a_server_s_database_is_told_from_its_copy(postgres: str, shell: Shell, tmp_path: Path) -> None:
    names = [f"o{time.monotonic_ns()}", f"c{time.monotonic_ns()}"]
    urls = [postgres.replace("/postgres?", f"/{name}?") for name in names]
    folder = tmp_path / "runs" / "s"
    with sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT").connect() as server:
        server.execute(sqlalchemy.text(f"CREATE DATABASE {names[0]}"))
        storage = made_in(urls[0], folder)
        storage.engine.dispose()
        server.execute(sqlalchemy.text(f"CREATE DATABASE {names[1]} TEMPLATE {names[0]}"))
    (folder / "kept").write_text("of the original")
    code, _, err = shell("db", "delete", "s", "--storage", urls[1], "--yes")
    assert (code, "runs/s stays" in err) == (0, True)
    assert (folder / "kept").exists()
    other_address = urls[0] + "&application_name=other"
    assert shell("db", "delete", "s", "--storage", other_address, "--yes")[0] == 0
    assert not folder.exists()
