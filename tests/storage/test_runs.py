"""Where the files of studies lie, when a database is on a server: one folder that every worker sees."""

import os
from pathlib import Path

import pytest

from study.storage.door import runs_folder
from tests.conftest import Shell, new_database, tiny_options


@pytest.fixture
def server(postgres: str) -> str:
    return new_database(postgres)


@pytest.mark.slow
def test_beside_sqlite_they_always_lie_beside_the_file() -> None:
    assert runs_folder("sqlite:////a/b/optuna.db", "/shared/runs") == Path("/a/b/runs")
    assert runs_folder("postgresql+psycopg://host/d", "/shared/runs") == Path("/shared/runs")
    assert runs_folder("postgresql+psycopg://host/d") == Path("runs")


@pytest.mark.slow
def test_a_named_folder_is_used_from_everywhere(server: str, shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    storage = ("--storage", server)
    code, _, err = shell("run", *tiny_options(small_folder, trials=2), "--name", "s", "--set", "runs=shared", *storage)
    assert (code, "not in" in err) == (0, False)
    report = (tmp_path / "shared" / "s" / "model" / "report.html").read_text()
    assert "study resume s --trials MORE --storage " in report
    other = tmp_path / "other"
    other.mkdir()
    os.chdir(other)  # the fixture of `shell` puts it back
    # The command without the field, and by the name alone: the study knows where its files are.
    assert shell("run", *tiny_options(small_folder, trials=3), "--name", "s", *storage)[0] == 0
    assert shell("resume", "s", "--trials", "4", *storage)[0] == 0
    assert shell("worker", "s", *storage)[0] == 0
    assert list(other.iterdir()) == []
    (tmp_path / "moved").mkdir()
    (tmp_path / "shared").rename(tmp_path / "moved" / "runs")
    assert (
        shell("run", *tiny_options(small_folder, trials=4, runs=tmp_path / "moved/runs"), "--name", "s", *storage)[0]
        == 0
    )
    assert not (tmp_path / "shared").exists()
    assert shell("db", "delete", "s", "--yes", *storage)[0] == 0
    assert not (tmp_path / "moved" / "runs" / "s").exists()


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_files_says_so(
    server: str, shell: Shell, small_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = ("--storage", server)
    assert shell("run", *tiny_options(small_folder, trials=1), "--name", "s", *storage)[0] == 0
    other = tmp_path / "other"
    other.mkdir()
    os.chdir(other)
    for command in ("worker", "retrain"):
        code, _, err = shell(command, "s", *storage)
        assert code == 2
        assert f"the files of 's' are not in {other}/runs/s" in err
        assert "--set runs=FOLDER" in err
    assert not (other / "runs" / "s" / "owner.json").exists()
    # They may have been removed: it goes on, and says so.
    assert shell("resume", "s", "--trials", "2", *storage)[0] == 0
    assert f"the files of 's' are not in {other}/runs/s" in caplog.text
