"""A stranger's database: nothing in the place of a table is asked without end, and nothing beside it waited for."""

import os
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from study import StudyError
from study.storage.door import open_storage
from study.storage.sqlite.copies import copy_file
from study.storage.sqlite.file import reader
from study.storage.sqlite.tables import names_in
from tests.conftest import Shell

ENDLESS = "WITH RECURSIVE n(study_id) AS (SELECT 1 UNION ALL SELECT study_id + 1 FROM n)"

STRANGE = {
    "is a view": f"CREATE VIEW studies AS {ENDLESS} SELECT study_id, 'x' || study_id AS study_name FROM n",
    "has a column study_name that is computed": "CREATE TABLE studies (study_id INTEGER PRIMARY KEY, study_name TEXT "
    "GENERATED ALWAYS AS (hex(zeroblob(10000000 + study_id))) VIRTUAL); INSERT INTO studies VALUES (1), (2)",
    "is a virtual table": f"CREATE VIEW s AS {ENDLESS} SELECT study_id, 'x' || study_id AS study_name FROM n; "
    "CREATE VIRTUAL TABLE studies USING fts5(study_id, study_name, content='s', content_rowid='study_id')",
    "is a trigger": "CREATE TABLE studies (study_id INTEGER PRIMARY KEY, study_name TEXT); "
    "CREATE TRIGGER t AFTER INSERT ON studies BEGIN DELETE FROM studies; END",
    "forged": f"CREATE TABLE studies (a); PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = 0, sql = "
    f"'CREATE VIEW studies AS {ENDLESS} SELECT study_id, 1 AS study_name FROM n'",
}


def strange(file: Path, script: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.executescript(script)
    connection.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_table_is_named_and_not_asked(shell: Shell, tmp_path: Path, kind: str) -> None:
    strange(tmp_path / "optuna.db", STRANGE[kind])
    started = time.monotonic()
    assert names_in(tmp_path / "optuna.db") == []
    assert time.monotonic() - started < 2
    for words in (["status"], ["resume", "x"], ["sql", "SELECT * FROM studies"], ["db", "copy", "optuna.db", "b.db"]):
        code, _, err = shell(*words)
        assert (code, err.count("\n")) == (2, 1), err
        assert kind == "forged" or (kind in err and "is no database of studies: its " in err)  # it sees that itself


def test_a_value_that_an_expression_makes_large_is_none(tmp_path: Path) -> None:
    optuna.create_study(study_name="s", storage=open_storage(f"sqlite:///{tmp_path}/x.db", create=True))
    with pytest.raises(sqlite3.DataError, match="too big"):
        reader(tmp_path / "x.db").execute("SELECT zeroblob(100000000)")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ending", ["", "-journal", "-wal"])
def test_a_pipe_beside_a_database_is_not_waited_for(shell: Shell, tmp_path: Path, ending: str) -> None:
    optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/optuna.db")
    assert names_in(tmp_path / "optuna.db") == ["s"]
    if not ending:
        (tmp_path / "optuna.db").unlink()
    os.mkfifo(tmp_path / f"optuna.db{ending}")
    assert names_in(tmp_path / "optuna.db") == []
    code, _, err = shell("status")
    assert (code, err.count("\n")) == (2, 1)
    assert "pipe" in err or "is not a regular file, and SQLite would hang on it" in err


def test_a_completion_takes_no_time_and_offers_no_more_than_a_shell_can_show(tmp_path: Path) -> None:
    rows = f"{ENDLESS} INSERT INTO studies SELECT study_id, 'x' || study_id FROM n LIMIT 300000"
    strange(tmp_path / "x.db", f"CREATE TABLE studies (study_id INTEGER, study_name TEXT); {rows}")
    started = time.monotonic()
    assert len(names_in(tmp_path / "x.db")) == 1000
    assert time.monotonic() - started < 1


def as_nobody(look: Callable[[], object]) -> str:
    """What somebody sees, or is told, who may not do everything, as root may."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(theirs, str(look()).encode())
        except Exception as error:
            os.write(theirs, str(error).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.wait()
    with os.fdopen(ours) as pipe:
        return pipe.read()


def test_a_link_in_a_folder_that_may_only_be_read_hides_no_changes(tmp_path: Path) -> None:
    """What lies beside the database counts, not what lies beside the link."""
    real, links = tmp_path / "real", tmp_path / "links"
    for folder in (real, links):
        folder.mkdir()
    (links / "x.db").symlink_to(real / "optuna.db")
    writer = sqlite3.connect(real / "optuna.db")
    writer.executescript("PRAGMA journal_mode = WAL; CREATE TABLE studies (study_id INTEGER, study_name TEXT);")
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    writer.execute("INSERT INTO studies VALUES (1, 's')")
    writer.commit()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IXGRP)
    links.chmod(0o555)

    def seen() -> str:
        return as_nobody(lambda: reader(links / "x.db").execute("SELECT study_name FROM studies").fetchall())

    real.chmod(0o555)
    assert "optuna.db-wal holds changes that are not in it yet" in seen()
    real.chmod(0o777)
    for file in real.iterdir():
        file.chmod(0o666)
    assert seen() == "[('s',)]"
    writer.close()


def test_a_copy_goes_over_no_link_that_leads_nowhere(tmp_path: Path) -> None:
    optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/optuna.db")
    (tmp_path / "b.db").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StudyError, match="exists already"):
        copy_file(tmp_path / "optuna.db", tmp_path / "b.db")


def test_a_link_to_itself_is_a_line(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "optuna.db").symlink_to("optuna.db")
    assert names_in(tmp_path / "optuna.db") == []
    for words in (["status"], ["run", "--preset", "quick"], ["db", "copy", "optuna.db", "b.db"]):
        code, _, err = shell(*words)
        assert (code, err.splitlines()[-1].startswith("study: ")) == (2, True)
