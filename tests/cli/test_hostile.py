"""Names, numbers and databases of strangers: one line and exit code 2, or handled; nothing hidden, nothing obeyed."""

import csv
import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
import sqlalchemy
from PIL import Image

from data import DataError
from data.grouping import sources
from models.bundle.card import StudyCard
from models.bundle.folder import read_card
from models.bundle.readable import markdown
from study.cli.console import RUN, plain, print_csv, storage_option
from study.cli.model import _show_table
from study.dashboard import application
from study.history.views import COLUMNS
from study.storage.address import parse_url
from tests import killer
from tests.conftest import Shell, shrink, tiny_options

PAGE = (Path(__file__).parents[2] / "study" / "use" / "serve.html").read_text(encoding="utf-8")
DATABASES = Path(__file__).parents[1] / "storage" / "databases"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accuracy", "macro avg", "weighted avg"])
def test_a_class_may_have_any_name(shell: Shell, small_folder: Path, tmp_path: Path, name: str) -> None:
    folder = shrink(small_folder, tmp_path / "images", classes=3, each=40)
    (folder / "0").rename(folder / name)
    assert shell("run", *tiny_options(folder, trials=2, epochs=2), "--name", "s")[0] == 0
    model = tmp_path / "runs" / "s" / "model"
    test = json.loads((model / "card.json").read_text())["test"]
    confusion = test["confusion"]
    place = sorted(["1", "2", name]).index(name)
    assert test["report"][name]["support"] == sum(confusion[place])
    assert test["report"][name]["recall"] == pytest.approx(confusion[place][place] / sum(confusion[place]))
    lines = (model / "classification_report.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines if line.strip()][-3:] == ["accuracy", "macro", "weighted"]
    assert len([line for line in lines if line.startswith(f"{name}  ")]) == 2
    code, out, _ = shell("evaluate", str(model), str(folder), "--json")
    assert (code, json.loads(out)["scores"]["accuracy"] <= 1) == (0, True)


NASTY = "x\x1b]52;c;aGk=\x07\x1b[2J<img src=x>\u202e|`"


def test_control_characters_never_reach_a_terminal() -> None:
    shown = plain(NASTY + "\n\tend")
    assert shown.endswith("|`\n\tend")
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


@pytest.mark.slow
def test_nasty_class_names_reach_neither_terminal_nor_markdown(
    shell: Shell, small_folder: Path, tmp_path: Path
) -> None:
    folder = shrink(small_folder, tmp_path / "images", classes=3, each=40)
    (folder / "0").rename(folder / NASTY.replace("/", ""))
    code, out, err = shell("run", *tiny_options(folder, trials=2, epochs=2), "--name", "s")
    assert code == 0
    model = tmp_path / "runs" / "s" / "model"
    for words in (["predict", model, folder], ["evaluate", model, folder], ["data", "audit", folder]):
        code, more_out, more_err = shell(*words)
        assert code == 0
        out, err = out + more_out, err + more_err
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    page = markdown(read_card(model, StudyCard))
    assert "\x1b" not in page
    assert "<img" not in page.replace("\\<img", "")


def broken(tmp_path: Path, statement: str) -> None:
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.execute(statement)


def attribute(key: str, text: str) -> str:
    return f"UPDATE study_user_attributes SET value_json = '{text}' WHERE key = '{key}'"


BROKEN = [
    *(
        attribute(key, text)
        for key in ("config", "contract", "clock", "planned", "stages", "models", "openings")
        for text in ('"x"', '{"seconds": "x", "hours": "x", "search": "x"}')
    ),
    attribute("config", "{"),
    attribute("config", "[1]"),
    attribute("config", "[" * 5000 + "]" * 5000),
    attribute("identity", "[7]"),
    attribute("final_stage", '{"trials": "x"}'),
    "UPDATE trial_user_attributes SET value_json = '\"x\"' WHERE key = 'seconds'",
    "UPDATE trial_user_attributes SET value_json = '1e999' WHERE key IN ('seconds', 'epoch_seconds', 'num_params')",
    "UPDATE trial_user_attributes SET value_json = '{' WHERE key = 'bracket'",
    "UPDATE trial_user_attributes SET value_json = '[]' WHERE key IN ('bracket', 'why', 'num_params')",
    "UPDATE trial_params SET distribution_json = '{'",
    'UPDATE trial_params SET distribution_json = \'{"name": "IntDistribution", "attributes": 7}\'',
    "UPDATE trial_params SET param_value = 99",
    "UPDATE trials SET state = 'GONE'",
    "UPDATE trials SET datetime_start = 'yesterday'",
    "UPDATE study_directions SET direction = 'SIDEWAYS'",
    "UPDATE trial_intermediate_values SET intermediate_value = NULL, intermediate_value_type = 'ODD'",
    "INSERT INTO study_system_attributes (study_id, key, value_json) SELECT study_id, 'x', '{' FROM studies",
    "INSERT INTO trial_system_attributes (trial_id, key, value_json) SELECT trial_id, 'fixed_params', '7' FROM trials",
    "INSERT INTO studies (study_name) VALUES (x'00ff')",
]
"""What another program may have written: of the study "bad", its trials, or the list of studies."""


@pytest.fixture(scope="module")
def ended(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database and the files of a study that has ended."""
    folder = tmp_path_factory.mktemp("ended")
    options = tiny_options(small_folder, trials=2, epochs=2, final_epochs=1)
    assert killer.run(["run", *options, "--name", "bad"], folder) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("statement", BROKEN, ids=lambda one: one[:100])
def test_what_another_program_changed_in_a_study_is_one_line_and_hides_no_other(
    shell: Shell, ended: Path, tmp_path: Path, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ended, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    broken(tmp_path / "here", statement)
    optuna.create_study(study_name="good", storage="sqlite:///optuna.db")
    code, out, _ = shell("status", "--json")
    assert code == 0
    assert {row["name"] for row in json.loads(out)} == {"bad", "good"}
    for view in COLUMNS:
        code, out, err = shell("sql", f"SELECT * FROM {view}", "--json")
        assert code == 0, err
    json.loads(out)
    page = dashboard_of("sqlite:///optuna.db")
    assert {one["study_name"] for one in page("/api/studies")["study_summaries"]} >= {"bad", "good"}
    for words in (
        ["status", "bad"],
        ["plan", "--name", "bad", "--preset", "quick"],
        ["resume", "bad", "--device", "cpu"],
        ["worker", "bad"],
        *([["retrain", "bad"]] if re.search("openings|models|final_stage|epoch_seconds", statement) else []),
        ["db", "delete", "bad", "--yes"],
    ):
        code, _, err = shell(*words)
        assert code in (0, 2), words
        assert code == 0 or len([line for line in err.splitlines() if line.startswith("study: ")]) == 1, words
    assert shell("status", "good")[0] == 0


def dashboard_of(url: str) -> Callable[[str], Any]:
    """Ask the dashboard's own application for a path."""
    served = application(url, write=False)

    def ask(path: str) -> Any:
        status: list[str] = []
        environment: dict[str, Any] = {}
        setup_testing_defaults(environment)
        environment |= {"PATH_INFO": path, "REQUEST_METHOD": "GET"}
        content = b"".join(served(environment, lambda code, *_: status.append(code)))
        assert status[0].startswith("200"), content
        return json.loads(content)

    return ask


@pytest.mark.timeout(60)
@pytest.mark.parametrize("view", ["studies", "Studies", "TRIAL_params", "leases"])
def test_an_endless_view_in_the_place_of_a_table_does_not_hang(shell: Shell, tmp_path: Path, view: str) -> None:
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.execute(
            f"CREATE VIEW {view} AS WITH RECURSIVE n(study_id) AS (SELECT 1 UNION ALL SELECT study_id + 1 FROM n) "
            "SELECT study_id, 'x' AS study_name FROM n"
        )
    for words in (["status"], ["resume", "x"], ["run", "--preset", "quick"]):
        code, _, err = shell(*words)
        assert (code, f"its {view} is a view" in err) == (2, True)


@pytest.mark.parametrize("name", ["../../escaped", "x; touch y", "a/b", ".", "x" * 101, "\u4e2d" * 90])
def test_names_are_checked_wherever_they_reach_a_path(shell: Shell, tmp_path: Path, name: str) -> None:
    optuna.create_study(study_name=name, storage=f"sqlite:///{tmp_path}/optuna.db")
    before = sorted(path for path in tmp_path.parent.rglob("*") if path.is_dir())
    for words in (["worker", name], ["resume", name], ["retrain", name], ["db", "delete", name, "--yes"]):
        code, _, err = shell(*words)
        assert (code, "not a study name" in err, err.count("\n")) == (2, True, 1)
    code, out, err = shell("status")
    assert code == 0
    assert "resume x; touch y" not in out + err
    assert sorted(path for path in tmp_path.parent.rglob("*") if path.is_dir()) == before


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://me:secret@host/studies", "postgresql+psycopg://host/studies?user=me&password=secret"]
)
def test_passwords_are_never_shown(shell: Shell, url: str) -> None:
    assert "secret" not in storage_option(url)
    _, out, err = shell("status", "--storage", url.replace("host", "127.0.0.1:9"))
    assert "secret" not in out + err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "url",
    ["postgres://me:secret@host/db", "postgresql://me:secret@host:abc/db", "nothing://host/db?password=secret&a=b"],
)
def test_passwords_of_what_is_no_address_are_not_shown(shell: Shell, url: str) -> None:
    code, out, err = shell("status", "--storage", url)
    assert code == 2
    assert "secret" not in out + err
    assert "***" in err


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--trials", "9" * 400],
        ["run", "--hours", "9" * 400],
        ["run", "--set", f"epochs={'9' * 400}"],
        ["run", "--set", f"epochs={'9' * 5000}"],
        ["run", "--set", f"space.head={'[' * 5000}{']' * 5000}"],
        ["run", "--set", "space.conv_dropout={low=0.0,high=0.5,step=1e-300}"],
        ["run", "--data", "x\0y"],
        ["run", "--data", "x" * 300],
        ["run", "--data", "/".join(["x" * 200] * 40)],
        ["run", "nested.toml"],
        ["run", "long.toml"],
        ["run", "x" * 300 + ".toml"],
        ["run", "--storage", f"sqlite:///{'x' * 300}.db"],
        ["predict", "x" * 300, "y"],
        ["predict", "x\0", "y"],
        ["evaluate", "x" * 300, "y"],
        ["data", "audit", "x" * 300],
        ["status", "--storage", "sqlite:///x\0y.db"],
    ],
)
def test_absurd_arguments_end_in_one_line(shell: Shell, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "nested.toml").write_text(f"space = {'[' * 5000}{']' * 5000}\n")
    (tmp_path / "long.toml").write_text(f"trials = {'9' * 5000}\n")
    code, out, err = shell(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.db"))


def test_printed_commands_quote_the_storage(shell: Shell, tmp_path: Path) -> None:
    place = tmp_path / "a b; touch y"
    place.mkdir()
    with sqlite3.connect(place / "old.db") as connection:
        connection.executescript((DATABASES / "optuna_3.sql").read_text())
    code, _, err = shell("status", "--storage", f"sqlite:///{place}/old.db")
    assert code == 2, err
    option, address = shlex.split(err.split("study db upgrade ")[1].rstrip(")\n"))
    assert (option, parse_url(address).database) == ("--storage", f"{place}/old.db")


@pytest.mark.slow
def test_a_study_s_folder_that_is_a_link_stays(shell: Shell, ended: Path, tmp_path: Path) -> None:
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    (tmp_path / "runs" / "bad").rename(tmp_path / "elsewhere")
    (tmp_path / "runs" / "bad").symlink_to(tmp_path / "elsewhere")
    code, _, err = shell("db", "delete", "bad", "--yes")
    assert (code, "runs/bad stays" in err) == (0, True)
    assert (tmp_path / "elsewhere" / "model" / "card.json").exists()


@pytest.mark.slow
def test_a_password_is_stored_nowhere(shell: Shell, small_folder: Path, tmp_path: Path, postgres: str) -> None:
    url = postgres.replace("postgres:@", "postgres:hunter2@")
    assert "hunter2" in url
    options = tiny_options(small_folder, trials=2, epochs=2, final_epochs=1)
    code, out, err = shell("run", *options, "--name", "secret", "--storage", url)
    assert code == 0
    for words in (["status"], ["sql", "SELECT * FROM models"], ["db", "upgrade"], ["resume", "nosuch"]):
        _, more_out, more_err = shell(*words, "--storage", url)
        out, err = out + more_out, err + more_err
    assert "hunter2" not in out + err
    kept = [path for path in (tmp_path / "runs").rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert not kept
    with sqlalchemy.create_engine(url).connect() as connection:
        for table in ("study_user_attributes", "study_system_attributes", "trial_user_attributes"):
            rows = connection.execute(sqlalchemy.text(f"SELECT value_json FROM {table}")).all()
            assert "hunter2" not in str(rows)
    assert shell("db", "delete", "secret", "--storage", url, "--yes")[0] == 0


@pytest.mark.slow
def test_the_limit_on_pixels_reaches_every_command(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    folder = shrink(small_folder, tmp_path / "images", classes=3, each=40)
    Image.new("RGB", (1200, 1000)).save(folder / "0" / "large.png")
    options = tiny_options(folder, trials=2, epochs=2, final_epochs=1, max_megapixels=1.0)
    code, _, err = shell("run", *options, "--name", "s")
    assert (code, "more than the 1 megapixels that are allowed" in err) == (2, True)
    words = " ".join(err.split()).rpartition("a list: study ")[2].strip(")")  # the advice lists what is too large here
    code, out, _ = shell(*shlex.split(words), "--csv")
    assert (code, out.count("large.png")) == (0, 1)
    assert shell("data", "bad", folder)[1].count("large.png") == 0
    assert shell("run", *options, "--name", "s", "--skip-bad")[0] == 0
    code, out, _ = shell("predict", "runs/s/model", folder / "0" / "large.png", "--json")
    assert (code, "more than the 1 megapixels" in json.loads(out)[0]["error"]) == (1, True)
    code, _, err = shell("evaluate", "runs/s/model", folder)
    assert (code, "more than the 1 megapixels" in err) == (2, True)


def test_a_folder_whose_name_is_not_utf_8(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    shrink(small_folder, folder, classes=3, each=40)
    for words in (
        ["data", "audit", folder, "--html", "page.html"],
        ["data", "split", folder, "--csv"],
        ["run", *tiny_options(folder, trials=2, epochs=2, final_epochs=1), "--name", "s"],
        ["plan", *tiny_options(folder), "--hours", "1"],
    ):
        code, out, err = shell(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), words
        assert "not UTF-8" in err or "unicode string" in err
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.slow
def test_csv_for_spreadsheets(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    assert shell("run", *tiny_options(small_folder, trials=2, epochs=2), "--name", "s")[0] == 0
    image = next((small_folder / "0").iterdir())
    shutil.copy(image, tmp_path / "=cmd.png")
    for option, shown in (("--csv", "=cmd.png"), ("--csv-safe", "'=cmd.png")):
        code, out, _ = shell("predict", "runs/s/model", "=cmd.png", option)
        assert code == 0
        assert next(iter(csv.DictReader(io.StringIO(out))))["path"] == shown


def test_csv_for_spreadsheets_of_the_history_and_the_parts(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    folder = shrink(small_folder, tmp_path / "images", classes=3, each=20)
    (folder / "1").rename(folder / "=1")
    optuna.create_study(study_name="+cmd", storage=f"sqlite:///{tmp_path}/optuna.db")
    for words, cell in (
        (["data", "split", folder], "=1"),
        (["sql", "SELECT study_name AS label, 1 AS path FROM studies"], "+cmd"),
    ):
        for option, shown in (("--csv", cell), ("--csv-safe", f"'{cell}")):
            code, out, _ = shell(*words, option)
            assert code == 0
            labels = {row["label"] for row in csv.DictReader(io.StringIO(out))}
            assert shown in labels
            assert (cell in labels) is (option == "--csv")


@pytest.mark.slow
def test_what_is_logged_and_printed_obeys_no_control_character(tmp_path: Path) -> None:
    """In a process of its own, where nobody but the log's last resort takes messages."""
    name = NASTY.replace("/", "")
    for folder in ("a", "real"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / folder / "x.png")
    (tmp_path / "images" / "real").rename(tmp_path / "real")
    (tmp_path / "images" / name).symlink_to(tmp_path / "real")
    (tmp_path / "images" / "a" / f"{name}.png").write_text("no image")
    command = [sys.executable, "-m", "study", "data", "split", "images", "--skip-bad"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "is a link to" in done.stderr
    assert "\\x1b]52" in done.stderr
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout + done.stderr)


@pytest.mark.slow
def test_names_that_are_not_utf_8_go_through_a_pipe(small_folder: Path, tmp_path: Path) -> None:
    assert killer.run([*killer.options(small_folder)], tmp_path) == 0
    name = b"caf\xe9.png"
    shutil.copy(next((small_folder / "0").iterdir()), os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    long = "x" * 240 + ".png"
    shutil.copy(next((small_folder / "0").iterdir()), tmp_path / long)
    command = [sys.executable, "-m", "study", "predict", "runs/s/model", "-", "--csv", "--explain", "seen"]
    done = subprocess.run(command, cwd=tmp_path, input=name + b"\n" + long.encode() + b"\n", capture_output=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].startswith(name + b",")
    assert len(list((tmp_path / "seen").iterdir())) == 2


@pytest.mark.slow
def test_names_that_the_terminal_cannot_show(small_folder: Path, tmp_path: Path) -> None:
    """Nothing that was printed ends a command: the model was written, and its exit code said so."""
    for place, folder in zip(("été", "łódź"), sorted(small_folder.iterdir()), strict=False):
        shutil.copytree(folder, tmp_path / "images" / place)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}

    def said(*words: object) -> bytes:
        command = [sys.executable, "-m", "study", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    assert b"images/?t?/" in said("run", *tiny_options(tmp_path / "images", trials=2), "--name", "s")
    assert b"?t?/0000.png,?t?," in said("data", "split", "images", "--csv")
    assert said("predict", "runs/s/model", "images/été", "--csv").startswith(b"path,label,?t?,??d?,")
    assert b"?t?" in said("data", "audit", "images")


@pytest.mark.slow
@pytest.mark.parametrize("language", ["de_DE.ISO-8859-1", pytest.param("C", marks=pytest.mark.long)])
def test_names_with_umlauts_in_any_locale(tmp_path: Path, small_folder: Path, language: str) -> None:
    """Where the system lacks that locale Python takes the C one, and `PYTHONUTF8=0` keeps it from being UTF-8."""
    root = tmp_path / "größe"
    for place, folder in zip(("ä", "ö", "ü", "ß"), sorted(small_folder.iterdir()), strict=True):
        shutil.copytree(folder, root / place)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    environment |= {"LC_ALL": language, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def said(*words: object) -> bytes:
        program = Path(sys.executable).with_name("study")
        done = subprocess.run([program, *words], cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    said("run", *tiny_options(root, trials=2), "--name", "s", "--workers", "2")
    model = tmp_path / "runs" / "s" / "model"
    assert json.loads((model / "card.json").read_text(encoding="utf-8"))["classes"] == ["ß", "ä", "ö", "ü"]
    assert len(said("predict", model, root, "--csv").splitlines()) == 161
    said("data", "split", root, "--csv")
    said("status")
    said("sql", "SELECT data FROM studies_overview")


@pytest.mark.parametrize("words", [("sql", "--schema", "--json"), ("help",), ("sql",)], ids=" ".join)
def test_output_that_cannot_be_written_is_a_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    program = Path(sys.executable).with_name("study")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([program, *words], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "study: cannot write what is printed: No space left on device\n")


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e300", "-1", "0"])
def test_a_time_that_is_none_is_refused(shell: Shell, seconds: str) -> None:
    code, _, err = shell("sql", "SELECT 1", f"--timeout={seconds}")
    assert (code, err.count("\n")) == (2, 1)
    assert "timeout" in err


@pytest.mark.slow
def test_folders_that_lie_too_deep_are_a_line(shell: Shell, ended: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    os.chdir(tmp_path / "deep")
    for _ in range(1100):
        os.mkdir("a")
        os.chdir("a")
    os.chdir(tmp_path)
    try:
        for words in (
            ("predict", ended / "runs/bad/model", "deep"),
            ("data", "split", "deep"),
            ("run", "--data", "deep"),
        ):
            code, _, err = shell(*words)
            assert code == 2, words
            assert err.splitlines()[-1].startswith("study: ")
    finally:
        subprocess.run(["rm", "-r", "deep"], check=True)


@pytest.mark.slow
def test_a_line_feed_in_a_name_forges_no_row(shell: Shell, ended: Path, tmp_path: Path, small_folder: Path) -> None:
    place = tmp_path / "x\nforged.png  0  100.0 %"
    place.mkdir()
    shutil.copy(next(small_folder.rglob("*.png")), place / "a.png")
    (place / "b.png").write_bytes(b"no image")
    code, out, err = shell("predict", ended / "runs/bad/model", place, "--skip-bad")
    assert code == 0
    assert not [line for line in (out + err).splitlines() if line.startswith("forged")]
    assert "x\\nforged.png" in out


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_database_that_is_a_pipe_or_a_device(shell: Shell, tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    file = tmp_path / "pipe" if kind == "pipe" else Path("/dev/null")
    code, _, err = shell("status", "--storage", f"sqlite:///{file}")
    words = f"{file} is a device or a pipe, not a database (name a file with --storage sqlite:///FILE)"
    assert (code, err) == (2, f"study: {words}\n")


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        *[("=1+1", "'=1+1"), ("x;=1+1", "x;'=1+1"), ("a,@b", "a,'@b"), ("a\n-b", "a\n'-b"), ("\tx", "'\tx")],
        *[("\ufeff=1+1", "'\ufeff=1+1"), ("\uff1d1+1", "'\uff1d1+1"), ("x;\u200b\uff20a", "x;'\u200b\uff20a")],
        *[("a=b", "a=b"), ("plain", "plain"), ("", "")],
    ],
)
def test_no_part_of_a_cell_is_run_by_a_spreadsheet(cell: str, safe: str) -> None:
    content = io.StringIO()
    print_csv(["name"], [["x", cell]], safe=True, to=content)
    assert list(csv.reader(io.StringIO(content.getvalue())))[1] == ["x", safe]
    assert f"const RUN = /{RUN.pattern}/g;" in PAGE  # what the page of `study serve` saves is no less safe


@pytest.mark.timeout(60)
def test_a_pattern_that_takes_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PATTERN_SECONDS", 0.5)
    with pytest.raises(DataError, match="takes too long on these names"):
        sources.match_groups("(?P<group>(a+)+)$", ["a" * 60 + "!"])
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_line_feed_in_a_name_of_a_study_or_a_class_forges_no_row(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna.create_study(study_name="s\nforged  100.0 %", storage=f"sqlite:///{tmp_path}/optuna.db")
    code, out, err = shell("status")
    assert code == 0
    assert "s\\nforged" in out
    row: Any = {
        "path": "x.png",
        "label": "a\nforged  b",
        "probabilities": {"a\nforged  b": 1.0},
        "set": ["a\nforged  b"],
    }
    for top in (None, 1):
        _show_table([row], top, sets=True)
    out += capsys.readouterr().out
    assert not [line for line in (out + err).splitlines() if line.strip().startswith("forged")]


@pytest.mark.parametrize("name", ["q?c.db", "a#b.db", "100%.db"])
def test_a_copy_has_the_name_that_was_given(shell: Shell, tmp_path: Path, name: str) -> None:
    optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/optuna.db")
    assert shell("db", "copy", "optuna.db", name) == (0, f"{name}\n", "")
    assert sorted(file.name for file in tmp_path.glob("*")) == sorted(["optuna.db", name])
    code, _, err = shell("db", "copy", name, "postgresql+psycopg://me@127.0.0.1:9/x")
    assert (code, err.count("\n"), "cannot stand in an address" in err) == (2, 1, "?" in name)


def test_json_on_a_terminal_holds_no_control_character(shell: Shell, tmp_path: Path) -> None:
    optuna.create_study(study_name="s\x9b2J\u202e", storage=f"sqlite:///{tmp_path}/optuna.db")
    reader, writer = pty.openpty()
    words = ["sql", "SELECT study_name FROM studies", "--json"]
    subprocess.run([sys.executable, "-m", "study", *words], stdout=writer, cwd=tmp_path, check=True)
    os.close(writer)
    said = os.read(reader, 4096).decode()
    os.close(reader)
    assert "\\u009b2J\\u202e" in said
    assert "\x9b2J\u202e" in shell(*words)[1]  # in a pipe as it is


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_what_is_closed_before_we_begin_leads_nowhere(tmp_path: Path, streams: str) -> None:
    optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/optuna.db")
    command = f"{shlex.quote(sys.executable)} -m study status {streams}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("options", [["-E"], ["-I"], []])
def test_another_locale_starts_us_again_once(tmp_path: Path, options: list[str]) -> None:
    """Also where the environment is not looked at, or UTF-8 refused for good: for ever, before."""
    command = [sys.executable, *options, "-X", "utf8=0", "-c", "from study.__main__ import main; main()", "--version"]
    places = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))
    }
    environment |= {"LC_ALL": "en_US.ISO-8859-1", "PYTHONPATH": places, "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("archstudy ")
