"""Trouble with disks, databases and clocks, real wherever it can be: a clear line, nothing broken, and on it goes."""

import contextlib
import datetime
import functools
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc

from study import StudyError
from study import __main__ as entry
from study.config.resolve import resolve
from study.storage.door import load_study, open_storage
from study.storage.sqlite import file as files
from study.storage.sqlite import line
from study.storage.sqlite.file import file_system
from tests import killer
from tests.conftest import Shell, open_config, tiny_options
from tests.killer import everything, options

pytestmark = pytest.mark.slow


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small file system can be mounted here: " + mounted.stderr.decode().strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """The write lock, held by another process."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    holder = context.Process(target=_hold, args=(file, theirs))
    holder.start()
    ours.recv()
    try:
        yield
    finally:
        holder.kill()
        holder.join()


def _hold(file: Path, ready: Any) -> None:
    connection = sqlite3.connect(file, isolation_level=None, timeout=60)
    connection.execute("BEGIN EXCLUSIVE")
    ready.send(1)
    time.sleep(1000)


def last_line(folder: Path) -> str:
    lines = (folder / "output.log").read_text().splitlines()
    assert not any("Traceback" in line for line in lines), "\n".join(lines)
    return lines[-1] if lines else ""


def test_a_locked_database_is_waited_for(small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...]) -> None:
    process = killer.start(options(small_folder), tmp_path)
    killer.when_reported(process, tmp_path, 5)
    with locked(tmp_path / "optuna.db"):
        end = time.monotonic() + 60  # it says so after ten seconds of waiting
        while "is locked" not in last_line(tmp_path) and time.monotonic() < end:
            process.join(0.5)
        assert process.exitcode is None
        assert "optuna.db is locked by another program; waiting for it" in last_line(tmp_path)
        assert killer.run(["status"], tmp_path) == 0  # readers do not wait
    process.join(60)
    assert process.exitcode == 0
    assert everything(tmp_path) == undisturbed


def test_a_signal_is_heard_while_the_database_is_locked(
    small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    process = killer.start(options(small_folder), tmp_path)
    killer.when_reported(process, tmp_path, 5)
    with locked(tmp_path / "optuna.db"):
        process.join(1.5)
        sent = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        process.join(10)
        assert time.monotonic() - sent < 5
        assert process.exitcode == 128 + signal.SIGTERM
    assert "nothing is lost" in last_line(tmp_path)
    assert killer.run(options(small_folder), tmp_path) == 0
    assert everything(tmp_path) == undisturbed


def test_patience_with_a_lock_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    storage = open_storage(url, create=True)
    monkeypatch.setattr(line, "PATIENCE", 0.5)
    monkeypatch.setattr(files, "SLICE", 0.1)
    with locked(tmp_path / "optuna.db"):
        with pytest.raises(StudyError, match="has been locked by another program for"):
            storage.get_all_studies()
        with storage.engine.connect().execution_options(patience=0.1) as connection, pytest.raises(StudyError):
            connection.begin()
    assert storage.get_all_studies() == []


def test_a_full_disk_under_the_database(small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...]) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        command = [*options(small_folder), "--storage", "sqlite:///disk/optuna.db"]
        process = killer.start(command, tmp_path)
        killer.when_reported(process, disk, 5)
        os.kill(process.pid, signal.SIGSTOP)
        filler = disk / "filler"
        with suppress_full(), filler.open("wb") as handle:
            while True:
                handle.write(b"0" * 4096)
                handle.flush()
        os.kill(process.pid, signal.SIGCONT)
        process.join(60)
        assert process.exitcode == 2
        assert "full" in last_line(tmp_path) or "No space left" in last_line(tmp_path)
        assert "then give the same command" in last_line(tmp_path)
        filler.unlink()
        assert sqlite3.connect(disk / "optuna.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert killer.run(command, tmp_path) == 0
        assert everything(disk) == undisturbed


@contextmanager
def suppress_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        assert error.errno == 28  # noqa: PT017 - it is the disk that is meant to be full


def test_a_full_disk_under_the_report(small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...]) -> None:
    with small_disk(tmp_path / "runs" / "s" / "model", "16k"):
        assert killer.run(options(small_folder), tmp_path) == 2
        assert "No space left on device" in last_line(tmp_path)
        assert "then give the same command" in last_line(tmp_path)
    assert killer.run(options(small_folder), tmp_path) == 0
    assert everything(tmp_path) == undisturbed


@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_that_is_taken_away(
    small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...], replaced: bool
) -> None:
    database, away = tmp_path / "optuna.db", tmp_path / "away.db"
    process = killer.start(options(small_folder), tmp_path)
    killer.when_reported(process, tmp_path, 5)
    os.kill(process.pid, signal.SIGSTOP)
    database.rename(away)
    if replaced:
        sqlite3.connect(database).execute("CREATE TABLE other (x)")
    os.kill(process.pid, signal.SIGCONT)
    process.join(30)
    assert process.exitcode == 2
    assert "optuna.db was deleted or replaced while the study ran" in last_line(tmp_path)
    assert "go on with --storage sqlite:///optuna.db.rescued" in last_line(tmp_path)
    assert killer.run([*options(small_folder), "--storage", "sqlite:///optuna.db.rescued"], tmp_path) == 0
    if replaced:
        for end in ("", "-wal", "-shm"):
            (tmp_path / f"optuna.db{end}").unlink(missing_ok=True)
        (tmp_path / "optuna.db.rescued").rename(database)
    else:
        away.rename(database)
        assert killer.run(options(small_folder), tmp_path) == 0
    assert everything(tmp_path) == undisturbed


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("point", "count"),
    [
        ("ask", 3),
        ("suggest", 11),
        ("attribute", 5),
        ("report", 7),
        ("rung", 4),
        ("verdict", 3),
        ("tell", 3),
        ("lease end", 2),
        ("opening", 1),
    ],
)
def test_a_study_that_is_deleted_while_it_runs(
    small_folder: Path, tmp_path: Path, point: str, count: int, when: str
) -> None:
    deleting = functools.partial(killer.at, point, when, count, killer.delete_study)
    process = killer.start(options(small_folder), tmp_path, first=deleting)
    process.join()
    assert process.exitcode == 2
    assert "the study was deleted from the database sqlite:///optuna.db while it ran" in last_line(tmp_path)


def test_a_disk_that_may_only_be_read(small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...]) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        assert killer.run(options(small_folder), disk, "report", "after", 7) == -signal.SIGKILL
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = subprocess.run(
            [sys.executable, "-m", "study", *options(small_folder)], cwd=disk, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert (
            done.stderr
            == "study: cannot write optuna.db: no permission (name another place with --storage sqlite:///FILE)\n"
        )
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert killer.run(options(small_folder), disk) == 0
        assert everything(disk) == undisturbed


def test_a_file_that_may_only_be_read(tmp_path: Path) -> None:
    """As another user: root may write everything."""
    if os.getuid():
        pytest.skip("only root can become another user")
    place = Path("/tmp") / f"archstudy-{os.getpid()}"
    place.mkdir(mode=0o777)
    try:
        place.chmod(0o777)
        open_storage(f"sqlite:///{place}/optuna.db", create=True)
        (place / "optuna.db").chmod(0o444)
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe()
        process = context.Process(target=_open_as_nobody, args=(f"sqlite:///{place}/optuna.db", theirs))
        process.start()
        assert ours.recv() == (
            f"cannot write {place}/optuna.db: no permission (name another place with --storage sqlite:///FILE)"
        )
        assert ours.recv() == "no study named 's' in this database (there are none; start one with: study run)"
        process.join()
    finally:
        shutil.rmtree(place)


def _open_as_nobody(url: str, answer: Any) -> None:
    os.setgid(65534)
    os.setuid(65534)
    for write in (True, False):
        try:
            load_study(open_storage(url, create=False, write=write), "s")
        except StudyError as error:
            answer.send(str(error))


def turn_the_clock_back() -> None:
    """Every look at the clock is an hour before the last."""
    from optuna.storages._rdb import storage

    from study.storage import lean as rdb

    now = datetime.datetime.now()

    class Backwards(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            nonlocal now
            now -= datetime.timedelta(hours=1)
            return now.replace(tzinfo=tz)

    storage.datetime = rdb.datetime = Backwards  # type: ignore[attr-defined]
    seconds = time.time()

    def earlier() -> float:
        nonlocal seconds
        seconds -= 3600
        return seconds

    time.time = earlier


def test_a_clock_that_goes_backwards(small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...]) -> None:
    command = options(small_folder)
    first = killer.start(command, tmp_path, "report", "after", 9, first=turn_the_clock_back)
    first.join()
    assert first.exitcode == -signal.SIGKILL
    second = killer.start(command, tmp_path, first=turn_the_clock_back)
    second.join()
    assert second.exitcode == 0
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        query = "SELECT count(*) FROM trials WHERE datetime_complete < datetime_start"
        assert connection.execute(query).fetchone() > (0,)
    assert everything(tmp_path) == undisturbed


@pytest.mark.parametrize(
    ("point", "when", "count", "later"),
    [
        ("checkpoint", "after", 3, 1),
        ("checkpoint", "before", 6, 2),
        ("report", "before", 4, 1),
        ("report", "after", 9, 3),
        ("rung", "before", 1, 1),
        ("rung", "after", 2, 1),
        ("tell", "before", 3, 0),
        ("tell", "after", 2, 1),
        ("ask", "after", 3, 1),
    ],
)
def test_a_power_cut_takes_back_the_last_commits(
    small_folder: Path,
    tmp_path: Path,
    undisturbed: tuple[Any, ...],
    point: str,
    when: str,
    count: int,
    later: int,
) -> None:
    """The database is what it was some commits before the end; the files in runs/ are ahead of it."""
    command = options(small_folder, checkpoint_seconds=0)
    copying = functools.partial(killer.at, point, when, count, killer.keep_copy)
    process = killer.start(command, tmp_path, point, "after", count + later, first=copying)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    go_back(tmp_path)
    assert killer.run(command, tmp_path) == 0
    assert everything(tmp_path) == undisturbed


@pytest.mark.parametrize("point", ["opening", "model", "report page"])
def test_a_power_cut_takes_back_the_end(
    small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...], point: str
) -> None:
    command = options(small_folder)
    copying = functools.partial(killer.at, "tell", "before", 11, killer.keep_copy)
    process = killer.start(command, tmp_path, point, "after", first=copying)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    go_back(tmp_path)
    assert killer.run(command, tmp_path) == 0
    assert everything(tmp_path) == undisturbed


def go_back(folder: Path) -> None:
    for end in ("-wal", "-shm"):
        (folder / f"optuna.db{end}").unlink(missing_ok=True)
    (folder / "earlier.db").replace(folder / "optuna.db")


def test_a_network_file_system_is_refused(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "overlay / overlay rw 0 0\n"
        f"server:/home {tmp_path}/net nfs4 rw 0 0\n"
        f"server:/x {tmp_path}/a\\040b fuse.sshfs rw 0 0\n"
        f"/dev/sda {tmp_path}/net/local ext4 rw 0 0\n"
    )
    assert file_system(tmp_path / "optuna.db", mounts) == "overlay"
    assert file_system(tmp_path / "net" / "deep" / "optuna.db", mounts) == "nfs4"
    assert file_system(tmp_path / "network" / "optuna.db", mounts) == "overlay"
    assert file_system(tmp_path / "a b" / "optuna.db", mounts) == "fuse.sshfs"
    assert file_system(tmp_path / "net" / "local" / "optuna.db", mounts) == "ext4"
    assert file_system(Path("/proc/self/x.db")) == "proc"
    monkeypatch.setattr(files, "file_system", lambda file: "nfs4")
    code, _, err = shell("run", "--data", "digits")
    assert code == 2
    assert "optuna.db lies on a network file system (nfs4)" in err
    assert "postgresql+psycopg://" in err


def test_ctrl_c_during_the_imports_shows_no_insides(tmp_path: Path) -> None:
    for wait in (0.2, 0.5, 1.0):
        process = subprocess.Popen(
            [sys.executable, "-m", "study", "run"],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a suite in the background
        )
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (130, -signal.SIGINT), err
        assert b"Traceback" not in err


def test_ctrl_c_that_a_library_turns_into_an_error_shows_no_insides(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_numpy(began: float | None) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        raise ImportError("cannot load module more than once per process")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("study.cli.main", import_numpy)
    monkeypatch.setattr(entry, "_in_utf8", lambda: None)  # which may begin this process again
    try:
        with pytest.raises(SystemExit) as caught:
            entry.main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code == 130
    monkeypatch.setattr("study.cli.main", lambda began: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a bug of ours stays loud
        entry.main()


def test_bugs_of_ours_in_sql_stay_loud(tmp_path: Path) -> None:
    from study.storage.trouble import storage_trouble

    url = f"sqlite:///{tmp_path}/optuna.db"
    with pytest.raises(sqlalchemy.exc.IntegrityError), storage_trouble(url):
        raise sqlalchemy.exc.IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE"))
    with pytest.raises(StudyError, match="disk is full"), storage_trouble(url):
        raise sqlalchemy.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))


def test_a_copy_while_a_study_runs(small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...]) -> None:
    process = killer.start(options(small_folder), tmp_path)
    killer.when_reported(process, tmp_path, 3)
    for number in range(3):
        process.join(0.2)
        assert killer.run(["db", "copy", "optuna.db", f"copy-{number}.db"], tmp_path) == 0
    process.join()
    assert process.exitcode == 0
    for number in range(3):  # each of them goes on by itself
        place = tmp_path / f"alone-{number}"
        place.mkdir()
        (tmp_path / f"copy-{number}.db").rename(place / "optuna.db")
        assert not list(tmp_path.glob("copy-*"))[number:0]
        assert killer.run(options(small_folder), place) == 0
        assert everything(place) == undisturbed


def test_a_copy_of_the_file_alone_is_whole_after_a_clean_end(small_folder: Path, tmp_path: Path) -> None:
    """As `cp optuna.db elsewhere` makes it: nothing is left in a -wal file when the last process has ended."""
    command = [sys.executable, "-m", "study", *tiny_options(small_folder, trials=2), "--workers", "2", "--name", "s"]
    command.insert(3, "run")
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert not [beside for beside in tmp_path.glob("optuna.db-*") if beside.stat().st_size]
    shutil.copy(tmp_path / "optuna.db", tmp_path / "alone.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "alone.db")) as alone:
        assert alone.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert alone.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0] >= 1
        keys = {key for (key,) in alone.execute("SELECT key FROM study_user_attributes")}
    assert "models" in keys  # what was written last


def test_the_last_to_close_leaves_one_file(tmp_path: Path) -> None:
    """The connection that only watches would close last otherwise, and it may not bring the file up to date."""
    study = open_config(f"sqlite:///{tmp_path}/optuna.db", resolve(None, {"preset": "quick", "data": "digits"}))
    assert (tmp_path / "optuna.db-wal").stat().st_size
    study.storage.close()
    assert [file.name for file in tmp_path.glob("optuna.db*")] == ["optuna.db"]


def test_what_another_database_left_beside_a_name_is_not_taken_for_a_copys(shell: Shell, tmp_path: Path) -> None:
    """A backup that is put back where a killed process has left a -wal file would be damaged by it."""
    for name in ("one", "two"):
        open_config(f"sqlite:///{tmp_path}/{name}.db", resolve(None, {"preset": "quick", "data": "digits"}), name)
    code, out, _ = shell("db", "copy", "one.db", "backup.db")
    assert (code, out) == (0, "backup.db\n")
    for ending in ("-wal", "-shm", "-journal"):
        left = tmp_path / f"again.db{ending}"
        left.write_bytes(b"of another database")
        code, _, err = shell("db", "copy", "backup.db", "again.db")
        assert (code, err.count("\n")) == (2, 1)
        assert f"again.db{ending} is left of another database" in err
        assert f"rm again.db{ending}" in err
        assert not (tmp_path / "again.db").exists()
        left.unlink()
    assert shell("db", "copy", "backup.db", "again.db")[0] == 0


def test_a_finished_database_is_read_where_nothing_may_be_written(shell: Shell, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        config = resolve(None, {"preset": "quick", "data": "digits"})
        study = open_config(f"sqlite:///{tmp_path}/optuna.db", config, "s", tmp_path / "runs" / "s")
        for file in tmp_path.glob("optuna.db*"):  # as a kill leaves them: the last changes are in the -wal file
            shutil.copy(file, disk)
        study.storage.close()
        shutil.copy(tmp_path / "optuna.db", disk / "whole.db")
        url, whole = f"sqlite:///{disk}/optuna.db", f"sqlite:///{disk}/whole.db"
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        try:
            for words in (("status",), ("sql", "SELECT study FROM studies_overview", "--csv")):
                code, out, err = shell(*words, "--storage", whole)
                assert (code, err) == (0, "")
                assert "s" in out.split()
                code, _, err = shell(*words, "--storage", url)
                assert code == 2
                assert "optuna.db-wal holds changes that are not in it yet (copy both into a folder" in err
        finally:
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def test_copy_and_delete_are_careful(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    assert shell("run", *tiny_options(small_folder, trials=2), "--name", "s")[0] == 0
    assert shell("db", "copy", "optuna.db", "backup.db") == (0, "backup.db\n", "")
    code, _, err = shell("db", "copy", "sqlite:///optuna.db", "sqlite:///backup.db")
    assert (code, err) == (2, "study: backup.db exists already (name another place, or remove it first)\n")
    assert "no database at none.db" in shell("db", "copy", "none.db", "x.db")[2]
    assert (
        "cannot open the storage postgresql+psycopg://u@h.invalid/d"
        in shell("db", "copy", "postgresql+psycopg://u@h.invalid/d", "x.db")[2]
    )
    assert not (tmp_path / "x.db").exists()
    (tmp_path / "text.db").write_text("nothing of the kind, and longer than a header of 100 bytes" * 3)
    assert "cannot copy text.db to x.db: file is not a database" in shell("db", "copy", "text.db", "x.db")[2]
    assert not list(tmp_path.glob("x.db*"))

    code, _, err = shell("db", "delete", "s")
    assert code == 2
    assert "this deletes s: 2 trials, and all files in runs/s (add --yes to do so)" in err
    assert (tmp_path / "runs" / "s" / "model" / "card.json").exists()
    assert shell("db", "delete", "t", "--yes")[2] == "study: no study named 't' in this database (there are: s)\n"
    code, _, err = shell("db", "delete", "s", "--yes")
    assert code == 0
    assert err.startswith("deleted s: 2 trials")
    assert not (tmp_path / "runs" / "s").exists()
    assert "no studies yet" in shell("status")[2]
    assert shell("status", "s", "--storage", "sqlite:///backup.db")[0] == 0


def test_a_running_study_is_not_deleted(small_folder: Path, tmp_path: Path) -> None:
    process = killer.start(options(small_folder, epochs=40, min_epochs=10), tmp_path)
    killer.when_reported(process, tmp_path, 1)
    assert killer.run(["db", "delete", "s", "--yes"], tmp_path) == 2
    # Not the last line: the running study writes into the same log.
    assert "another process works on 's'" in (tmp_path / "output.log").read_text()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert killer.run(["db", "delete", "s", "--yes"], tmp_path) == 0


def test_a_database_of_an_older_version_goes_on(tmp_path: Path, shell: Shell) -> None:
    """Written before there were leases and checkpoints; one trial was being run when it was killed."""
    script = (Path(__file__).parent / "databases" / "before_leases.sql").read_text()
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.executescript(script)
    code, out, _ = shell("status", "old")
    assert code == 0
    assert "1: left behind; the next run goes on with it" in out
    code, out, err = shell("resume", "old")
    assert (code, err.splitlines()[-1]) == (0, "final training: 1 of 1 done (trial 1)")
    assert "3 trials" in out


def test_tables_of_another_optuna_are_named_with_the_command_that_upgrades_them(tmp_path: Path, shell: Shell) -> None:
    open_storage(f"sqlite:///{tmp_path}/optuna.db", create=True)
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    for command in (["run", "--data", "digits"], ["status"]):
        code, _, err = shell(*command)
        assert code == 2
        assert "study db upgrade --storage sqlite:///optuna.db" in err
