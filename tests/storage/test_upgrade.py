"""`study db upgrade`: tables of an older Optuna, with our views out of the way and back afterwards."""

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage

from study.storage.backend import VIEWS
from study.storage.door import open_storage
from study.storage.owners import processes
from study.storage.owners.leases import Leases
from study.storage.owners.processes import this_process
from tests.conftest import Shell

DATABASES = Path(__file__).parent / "databases"


@pytest.fixture
def old(tmp_path: Path, shell: Shell) -> Path:
    """A database of Optuna 3, with views of ours."""
    file = tmp_path / "optuna.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript((DATABASES / "optuna_3.sql").read_text())
        for name in VIEWS:
            connection.execute(f"CREATE VIEW {name} AS SELECT state, value, value_type FROM trials JOIN trial_values")
        connection.commit()
    return file


def contents(file: Path) -> list[Any]:
    storage = RDBStorage(f"sqlite:///{file}")
    found = [(study, storage.get_all_trials(study._study_id)) for study in storage.get_all_studies()]
    storage.engine.dispose()
    return [(study.study_name, study.user_attrs, list(map(repr, trials))) for study, trials in found]


def test_old_tables_are_brought_up_to_date(old: Path, shell: Shell, tmp_path: Path) -> None:
    code, out, err = shell("status")
    assert (code, out) == (2, "")
    assert "study db upgrade --storage sqlite:///optuna.db" in err
    theirs = shutil.copy(old, tmp_path / "theirs.db")
    with contextlib.closing(sqlite3.connect(theirs)) as connection:
        for name in VIEWS:
            connection.execute(f"DROP VIEW IF EXISTS {name}")
    plain = RDBStorage(f"sqlite:///{theirs}", skip_compatibility_check=True, skip_table_creation=True)
    plain.upgrade()
    code, out, err = shell("db", "upgrade")
    assert (code, out) == (0, "")
    assert "from v3.0.0.d to v3.2.0.a; as it was: optuna.db.v3.0.0.d" in err
    assert contents(old) == contents(theirs)
    assert shell("sql", "SELECT count(*) AS n FROM trials_flat", "--csv")[1] == "n\n5\n"
    with contextlib.closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT count(*) FROM trials_flat").fetchone() == (5,)
    with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db.v3.0.0.d")) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("v3.0.0.d",)
    assert "is up to date (v3.2.0.a)" in shell("db", "upgrade")[2]


def test_a_database_that_is_up_to_date_is_left_alone(url: str, shell: Shell, tmp_path: Path) -> None:
    open_storage(url, create=True).create_new_study([_maximize()], "s")
    code, _, err = shell("db", "upgrade", "--storage", url)
    assert code == 0
    assert "is up to date" in err
    assert not list(tmp_path.glob("*.db.v*"))


def _maximize() -> Any:
    from optuna.study import StudyDirection

    return StudyDirection.MAXIMIZE


def test_what_cannot_be_upgraded_is_left_as_it_is(old: Path, shell: Shell, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
        connection.commit()
    (tmp_path / "text.db").write_text("no database at all, but long enough to look like one" * 100)
    newer = shutil.copy(old, tmp_path / "newer.db")
    with contextlib.closing(sqlite3.connect(newer)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.0.0.a'")
        connection.commit()
    for address in ("mysql://host/studies", "postgresql+nothing://host/studies"):
        code, _, err = shell("db", "upgrade", "--storage", address)
        assert (code, len(err.splitlines())) == (2, 1), err
    for name, words in (
        ("other", "no studies in other.db"),
        ("text", "cannot open text.db as a SQLite database"),
        ("newer", "a newer one made it"),
        ("none", "no database at none.db"),
    ):
        before = {path.name: path.read_bytes() for path in tmp_path.glob("*.db*")}
        code, _, err = shell("db", "upgrade", "--storage", f"sqlite:///{name}.db")
        assert code == 2, name
        assert words in err
        assert len(err.splitlines()) == 1
        assert {path.name: path.read_bytes() for path in tmp_path.glob("*.db*")} == before


def test_nobody_may_work_on_it(old: Path, shell: Shell, tmp_path: Path) -> None:
    fresh = open_storage(f"sqlite:///{tmp_path}/fresh.db", create=True)
    study = fresh.create_new_study([_maximize()], "s")
    held = Leases(fresh)
    held.prepare()
    with held.take_new(fresh.create_new_trial(study)):
        with contextlib.closing(sqlite3.connect(tmp_path / "fresh.db")) as connection:
            made = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'leases'").fetchone()[0]
            rows = connection.execute("SELECT * FROM leases").fetchall()
        with contextlib.closing(sqlite3.connect(old)) as connection:
            connection.execute(made)
            connection.execute("UPDATE trials SET state = 'RUNNING' WHERE trial_id = ?", [rows[0][0]])
            connection.executemany(f"INSERT INTO leases VALUES ({', '.join('?' * len(rows[0]))})", rows)
            connection.commit()
        code, _, err = shell("db", "upgrade")
        assert code == 2
        assert "a process works on a study in sqlite:///optuna.db" in err
        assert not list(tmp_path.glob("optuna.db.v*"))
    assert len(rows) == 1


def test_a_migration_that_fails_says_where_the_copy_is(
    old: Path, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: RDBStorage) -> None:
        raise ValueError("strange contents\nand more")

    with monkeypatch.context() as patch:
        patch.setattr(RDBStorage, "upgrade", fails)
        code, _, err = shell("db", "upgrade")
    assert code == 2
    assert "could not upgrade the tables: strange contents (it is as it was in optuna.db.v3.0.0.d)" in err
    assert (tmp_path / "optuna.db.v3.0.0.d").exists()
    code, _, err = shell("db", "upgrade")  # again, and this time it works: no earlier copy is in its way, or lost
    assert code == 0
    assert "as it was: optuna.db.v3.0.0.d-2" in err
    assert (tmp_path / "optuna.db.v3.0.0.d").exists()


def hold_the_clock(file: Path, **changes: object) -> None:
    holder = {"clock": "c", "process": {**vars(this_process()), **changes}, "beat": 3}
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("DELETE FROM study_user_attributes WHERE key = 'clock'")
        add = "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1, 'clock', ?)"
        connection.execute(add, [json.dumps({"seconds": 1.0, "holder": holder})])
        connection.commit()


def test_a_process_between_two_trials_is_seen_and_a_dead_one_is_not(old: Path, shell: Shell) -> None:
    hold_the_clock(old)
    code, _, err = shell("db", "upgrade")
    assert (code, "a process works on a study" in err) == (2, True)
    hold_the_clock(old, pid=0)
    assert shell("db", "upgrade")[0] == 0


def test_a_clock_that_another_program_changed_is_said(old: Path, shell: Shell) -> None:
    with contextlib.closing(sqlite3.connect(old)) as connection:
        add = "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1, 'clock', ?)"
        connection.execute(add, ['{"seconds": -1}'])
        connection.commit()
    code, _, err = shell("db", "upgrade")
    assert (code, "a study's clock cannot be read: another program has changed it" in err) == (2, True)


def test_what_cannot_be_looked_at_is_watched_and_then_counts_no_more(
    old: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.4)
    monkeypatch.setattr(processes, "WATCH_SECONDS", 0.1)
    hold_the_clock(old, namespace="pid:[1]")
    assert shell("db", "upgrade")[0] == 0


def test_tables_from_before_optuna_1_2_are_named_as_such(old: Path, shell: Shell) -> None:
    with contextlib.closing(sqlite3.connect(old)) as connection:
        connection.execute("DROP TABLE alembic_version")
        connection.commit()
    code, _, err = shell("status")
    assert code == 2
    assert "was made before Optuna 1.2" in err
    assert "study db upgrade --storage sqlite:///optuna.db" in err
