"""What others do to a study's database and processes: other programs, other machines, deleted and replaced studies."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState, create_trial

from study import StudyError
from study.config.schema import StudyConfig
from study.search.deletion import delete
from study.search.members import Membership
from study.search.open_study import existing
from study.search.standing import winner
from study.search.trial import TrialEpoch, objective
from study.search.worker import search
from study.storage.door import open_storage
from study.storage.owners import processes
from study.storage.owners.leases import LEASES, Leases
from study.training.workspace import Workspace
from tests.conftest import Shell, open_config, tiny_options

URL = "sqlite:///optuna.db"
pytestmark = pytest.mark.slow
MakeWork = Callable[..., Workspace]
MakeConfig = Callable[..., StudyConfig]


def plain(name: str = "s") -> optuna.Study:
    """The study as another program sees it."""
    return optuna.load_study(study_name=name, storage=optuna.storages.RDBStorage(URL))


def test_finished_trials_of_other_programs_neither_win_nor_use_up_the_budget(shell: Shell, small_folder: Path) -> None:
    run = [*tiny_options(small_folder), "--name", "s"]
    assert shell("run", *run, "--trials", 2)[0] == 0
    ours = plain().trials[0]
    kinds = ours.distributions
    strangers = [
        create_trial(value=5.0, params={"x": 1}, distributions={"x": optuna.distributions.IntDistribution(0, 3)}),
        create_trial(value=4.0, params=ours.params, distributions=kinds),
        create_trial(value=4.0, params=ours.params, distributions=kinds, intermediate_values={1: 4.0}),
        create_trial(state=TrialState.PRUNED),
        create_trial(state=TrialState.FAIL, params=ours.params, distributions=kinds),
    ]
    plain().add_trials(strangers)
    assert shell("resume", "s", "--trials", 4)[0] == 0
    study = existing(open_storage(URL, create=False), "s", URL)
    assert [trial.number for trial in study.own_trials()] == [0, 1, 7, 8]
    assert winner(study).number in (0, 1, 7, 8)
    card = json.loads(Path("runs/s/model/card.json").read_text())
    assert (card["study"]["trials"], card["study"]["trial"]) == (4, winner(study).number)
    assert len(json.loads(Path("runs/s/model/results.json").read_text())) <= 4
    status = json.loads(shell("status", "s", "--json")[1])
    assert status["not_counted"].pop("2").startswith("not a point of this study: x is not searched (there are: ")
    assert status["not_counted"] == {
        "3": "its value was set by another program",
        "4": "its value was set by another program",
        "5": "it lacks parameters of this study",
        "6": "closed by another program",
    }
    code, _, err = shell("retrain", "s", "--trial", 2)
    assert (code, err) == (2, "study: no finished trial 2 in 's' (there are: 0, 1, 7, 8)\n")


def test_what_this_program_finished_is_its_own(tiny: MakeConfig, workspace: MakeWork, tmp_path: Path) -> None:
    config = tiny(trials=9)
    study = open_config(f"sqlite:///{tmp_path}/optuna.db", config)
    list(search(study, objective(workspace(config))))
    reasons = [Membership(config).stranger(trial) for trial in study.study.get_trials()]
    assert reasons == [None] * 9
    assert {trial.state for trial in study.study.get_trials()} == {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE])
def test_a_running_trial_that_another_program_ends_is_let_go(
    tiny: MakeConfig, workspace: MakeWork, url: str, state: TrialState, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(trials=3)
    study = open_config(url, config)
    other = optuna.load_study(study_name="s", storage=optuna.storages.RDBStorage(url))
    for news in search(study, objective(workspace(config))):
        if isinstance(news, TrialEpoch) and (news.number, news.epoch) == (1, 1):
            other.tell(1, 0.5 if state == TrialState.COMPLETE else None, state=state)
    assert "another program has ended trial 1" in caplog.text
    counted = state == TrialState.PRUNED  # a value after one epoch is no value of this study's
    assert [trial.number for trial in study.own_trials()] == ([0, 1, 2] if counted else [0, 2, 3])
    with study.storage.engine.connect() as connection:
        Leases(study.storage).prepare()
        assert connection.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(LEASES)) == 0


@pytest.mark.parametrize("name", ["s", "t"])
def test_a_study_made_in_the_place_of_a_deleted_one_is_left_alone(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path, name: str
) -> None:
    """SQLite gives a deleted study's number to the next one."""
    url = f"sqlite:///{tmp_path}/optuna.db"
    config = tiny(trials=3)
    study = open_config(url, config)

    def run() -> None:
        with study.while_it_exists():
            for news in search(study, objective(workspace(config))):
                if isinstance(news, TrialEpoch) and news.number == 1:
                    optuna.delete_study(study_name="s", storage=open_storage(url, create=False))
                    other = open_config(url, tiny(seed=5), name)
                    assert other.study._study_id == study.study._study_id

    with pytest.raises(StudyError, match="was deleted from the database"):
        run()
    assert open_config(url, tiny(seed=5), name).trials() == []


@pytest.mark.parametrize("alive", [False, True])
def test_a_study_of_a_process_that_cannot_be_seen_is_deleted_when_its_heart_stands_still(
    shell: Shell, small_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, alive: bool
) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 1.5)
    monkeypatch.setattr(processes, "WATCH_SECONDS", 0.1)
    assert shell("run", *tiny_options(small_folder), "--name", "s", "--trials", 2)[0] == 0
    storage = open_storage(URL, create=False)
    Leases(storage).take_new(optuna.load_study(study_name="s", storage=storage).ask()._trial_id)

    def change(**values: Any) -> None:
        with storage.engine.begin() as connection:
            connection.execute(sqlalchemy.update(LEASES).values(**values))

    change(namespace="pid:[1]")
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(0.2):
            change(beat=LEASES.c.beat + 1)

    heart = threading.Thread(target=live)
    if alive:
        heart.start()
    code, _, err = shell("db", "delete", "s", "--yes")
    ended.set()
    if alive:
        heart.join()
    assert "watching its heartbeat" in caplog.text
    if alive:
        assert (code, "another process works on 's'" in err) == (2, True)
    else:
        assert code == 0
        assert not Path("runs/s").exists()


def test_a_study_whose_files_lie_elsewhere_is_deleted(
    tiny: MakeConfig, workspace: MakeWork, postgres: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    open_config(postgres, tiny())
    delete("s", postgres)
    assert optuna.get_all_study_names(postgres) == []


def test_a_rescue_never_takes_the_place_of_another(tmp_path: Path) -> None:
    database, older = tmp_path / "optuna.db", tmp_path / "optuna.db.rescued"
    storages = [open_storage(f"sqlite:///{database}", create=True) for _ in range(2)]
    optuna.create_study(study_name="s", storage=storages[0])
    older.write_text("somebody's work")
    database.unlink()
    for storage in storages * 2:
        with pytest.raises(StudyError, match=r"what it held is in .*optuna\.db\.rescued-2:"):
            storage.get_all_studies()
    assert older.read_text() == "somebody's work"
    rescued = open_storage(f"sqlite:///{tmp_path}/optuna.db.rescued-2", create=False)
    assert optuna.get_all_study_names(rescued) == ["s"]
    assert sorted(file.name for file in tmp_path.glob("*rescued*")) == [
        "optuna.db.rescued",
        "optuna.db.rescued-2",
        "optuna.db.rescued-2-shm",
        "optuna.db.rescued-2-wal",
    ]


def test_bad_input_leaves_nothing_behind(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for command in (
        ["run", "--data", "nowhere"],
        ["run", "--data", "folder"],
        ["run", "--storage", "sqlite:///folder"],
        ["db", "copy", "folder", "x.db"],
        ["status", "--storage", "sqlite:///folder"],
    ):
        code, _, err = shell(*command)
        assert (code, err.count("\n")) == (2, 1), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


REPLACED = """
import os, signal
from study.signals import StopRequest, as_stopped, stoppable

with stoppable():
    try:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except StopRequest:  # as Ray does
            raise KeyboardInterrupt from None
    except KeyboardInterrupt as error:
        print("stopped", as_stopped(error).exit_code)
print(type(as_stopped(KeyboardInterrupt())).__name__)
"""


def test_a_signal_that_a_library_has_replaced_keeps_its_number() -> None:
    done = subprocess.run([sys.executable, "-c", REPLACED], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("stopped 143\nKeyboardInterrupt\n", "", 0)


SWALLOWED = """
import os, signal, time
from study.signals import StopRequest, stoppable

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)  # the signal comes here, where Python lets no exception out

try:
    with stoppable():
        Last()
        time.sleep(3)
except StopRequest as stop:
    print("stopped", stop.exit_code)
"""


def test_a_signal_is_not_lost_where_python_lets_no_exception_out() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("stopped 143\n", "", 0)
