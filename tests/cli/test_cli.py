"""The shell: what it prints, what it refuses, and its frozen surface."""

import json
import os
import re
import shutil
from pathlib import Path

import optuna
import pytest
import torch
from PIL import Image

from study.storage.door import open_storage
from tests.conftest import Shell, random_images, shrink, tiny_options

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def run_tiny(shell: Shell, folder: Path, *more: object) -> tuple[int, str, str]:
    return shell("run", *tiny_options(folder, trials=2), "--name", "s", *more)


@pytest.mark.slow
def test_the_whole_way(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    code, out, err = run_tiny(shell, small_folder)
    assert code == 0
    said = [line.split()[0] for line in err.splitlines()]  # a line a stage and a trial, in a log
    assert said == ["archstudy", "4", "160", "study", "trial", "trial", "trial", "final"]  # classes, files
    assert re.search(r"trial 1 \w+ at [\d.]+ %; 2 done, \d pruned; best [\d.]+ %; \d+ s left\n", err)
    assert "test accuracy" in out
    assert "95 % interval" in out
    assert "not a performance" in " ".join(out.split())
    predict, resume, dashboard = (line.strip() for line in out.splitlines()[-3:])

    # The three next commands work as printed.
    code, out, _ = shell(*predict.split()[1:])
    assert code == 0
    assert "probability" in out
    code, out, _ = shell(*resume.split()[1:])
    assert code == 0
    assert "4 trials" in out
    assert dashboard == "study dashboard"

    # Again: nothing to do, the same answer.
    card = tmp_path / "runs" / "s" / "model" / "card.json"
    before = card.stat().st_mtime_ns
    assert shell("resume", "s")[0] == 0
    assert card.stat().st_mtime_ns == before

    code, out, _ = shell("status", "s", "--json")
    status = json.loads(out)
    assert status["complete"] + status["pruned"] == 4
    assert status["running"] == 0
    assert shell("status", "--json")[1].startswith("[")
    assert "s is finished: 4 of 4 trials ended (" in shell("status")[1]

    other = 1 - status["best_trial"] if status["best_trial"] < 2 else 0
    code, out, _ = shell("retrain", "s", "--trial", other)
    assert code == 0
    assert (tmp_path / "runs" / "s" / f"model-trial-{other}" / "card.json").exists()
    code, _, err = shell("retrain", "s", "--trial", 77)
    assert (code, err) == (2, "study: no finished trial 77 in 's' (there are: 0, 1, 2, 3)\n")


@pytest.fixture
def model(shell: Shell, small_folder: Path) -> Path:
    assert run_tiny(shell, small_folder)[0] == 0
    return Path("runs/s/model")


def few_images(root: Path) -> Path:
    for seed, (name, count) in enumerate({"big": 30, "small": 3}.items()):
        (root / name).mkdir(parents=True)
        for number, image in enumerate(random_images(count, 8, seed)):
            Image.fromarray(image).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--data", "nowhere"],
            "/nowhere (give a folder of class folders, a CSV list, or one of: digits, tissue)",
        ),
        (
            ["run", "--data", "few", "--preset", "full"],
            "class small has 3 images of 3 sources; the parts train, val, cal, test need at least 4",
        ),
        (["run", "--data", "few/big"], "few/big (one folder per class is needed"),
        (["run", "--preset", "fast"], "unknown preset 'fast' (there are: quick, reference, full, auto)"),
        (["run", "--set", "epoch=3"], "unknown field 'epoch'; did you mean epochs?"),
        (["run", "--set", "epochs"], "--set takes field=value"),
        (["run", "--set", "min_epochs=9"], "Hyperband cannot prune before epoch 9 of 9"),
        (["run", "--storage", "sqlite:////nowhere/x.db"], "there is no folder /nowhere"),
        (["run", "--storage", "optuna.db"], "not a storage address: 'optuna.db' (for example sqlite:///optuna.db)"),
        (["run", "--storage", "sqlite://"], "a study in memory cannot be resumed"),
        (["run", "--storage", "sqlite:///text.db"], "cannot open text.db as a SQLite database: file is not a database"),
        (["run", "--storage", "sqlite:////proc/optuna.db"], "cannot make /proc/optuna.db: No such file"),
        (["run", "--storage", "sqlite+foo:///x.db"], "not a storage address: 'sqlite+foo:///x.db'"),
        (["run", "--storage", "postgresql+pg8000://u@h/d"], "the driver pg8000 is not installed"),
        (["run", "--storage", "mysql://u@h/d"], "storage mysql://u@h/d: studies are kept in SQLite or PostgreSQL"),
        (["run", "--set", "seed=99999999999"], "seed = 99999999999: input should be less than 4294967296"),
        (["run", "--data", ""], "data = '': string should have at least 1 character"),
        (["run", "--name", "a/b"], "not a study name: 'a/b'"),
        (["run", "--device", "gpu"], "--device gpu: 'gpu' is unknown (use auto, cpu, cuda, cuda:0,cuda:2, or mps)"),
        (["run", "none.toml"], "no such study file: none.toml"),
        (["run", "broken.toml"], "broken.toml is not valid TOML: "),
        (["resume", "x"], "no database at optuna.db (start a study with: study run; or name it with --storage)"),
        (["status"], "no database at optuna.db"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_2(
    shell: Shell, tmp_path: Path, arguments: list[str], message: str
) -> None:
    few_images(tmp_path / "few")
    (tmp_path / "broken.toml").write_text("trials = [\n")
    (tmp_path / "text.db").write_text("this is not a database, but long enough to look at" * 10)
    code, out, err = shell(*arguments)
    assert code == 2
    assert out == ""
    begun, _, err = err.rpartition("study: ")  # images may have been looked at before
    assert re.fullmatch(r"(archstudy [\d.]+ \(.*\); device: .*\n)?", begun)
    assert message in err
    assert err.count("\n") == 1


def test_cuda_that_is_not_there(shell: Shell) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    code, _, err = shell("run", "--device", "cuda")
    assert (code, err) == (2, "study: --device cuda: no CUDA device was found (use --device cpu, or auto)\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--trials", "-3"], "Invalid value for '--trials': Input should be greater than or equal to 1"),
        (["run", "--trials", "many"], "Invalid value for '--trials'"),
        (["run", "--nonsense"], "No such option: --nonsense (see: study run --help)"),
        (["predict"], "Missing argument"),
        (["nothing"], "No such command 'nothing'"),
    ],
)
def test_a_command_line_that_does_not_parse(shell: Shell, arguments: list[str], message: str) -> None:
    code, out, err = shell(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("study: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_device_that_a_cluster_would_not_use_is_refused(shell: Shell) -> None:
    pytest.importorskip("ray")
    for words in (("--device", "cpu"), ("--device", "cpu", "--gpus-per-worker", 1), ("--device", "cuda:1")):
        code, _, err = shell("run", "--data", "digits", "--engine", "ray", *words)
        assert (code, err.count("\n")) == (2, 1)
        assert "a cluster's workers have the devices that Ray gives them" in err


def test_without_arguments_it_helps(shell: Shell) -> None:
    code, out, err = shell()
    assert code == 2
    assert "Usage: study" in out + err


def test_a_study_of_another_version_does_not_hide_the_others(shell: Shell, model: Path) -> None:
    storage = open_storage("sqlite:///optuna.db", create=False)
    study = optuna.create_study(study_name="later", storage=storage)
    study.set_user_attr("config", {"preset": "quick", "warp_drive": True})
    code, out, _ = shell("status", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["s"]["complete"] + rows["s"]["pruned"] == 2
    assert "made by another version: unknown field 'warp_drive'" in rows["later"]["note"]
    code, _, err = shell("resume", "later")
    assert code == 2
    assert "made by another version" in err


def test_the_same_image_in_two_classes_is_said(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    folder = shrink(small_folder, tmp_path / "photos", classes=4, each=40)
    shutil.copy(folder / "0" / "0000.png", folder / "1" / "twin.png")
    code, _, err = run_tiny(shell, folder)
    assert code == 0
    assert "2 files have the same content but different classes" in err


def test_an_unknown_study_names_those_there_are(shell: Shell, model: Path) -> None:
    code, _, err = shell("resume", "t")
    assert (code, err) == (2, "study: no study named 't' in this database (there are: s)\n")
    assert shell("status", "t")[0] == 2
    assert shell("retrain", "t")[0] == 2


def test_another_definition_under_the_same_name(shell: Shell, model: Path, small_folder: Path) -> None:
    code, _, err = run_tiny(shell, small_folder, "--set", "epochs=8")
    assert code == 2
    assert "the study 's' exists with a different definition: epochs (was 4, now 8)" in err
    assert "study resume s;" in err


def test_a_read_only_folder_is_named(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = shell("run", "--storage", f"sqlite:///{tmp_path}/locked/optuna.db")
    assert code == 2
    assert "no permission" in err


def test_skip_bad_is_counted_and_recorded(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    folder = shrink(small_folder, tmp_path / "photos", classes=4, each=40)
    (folder / "0" / "broken.png").write_bytes(b"nothing")
    code, _, err = run_tiny(shell, folder)
    assert code == 2
    assert "1 of 161 files cannot be read as images: 0/broken.png: not an image" in err
    assert run_tiny(shell, folder, "--skip-bad")[0] == 0
    card = json.loads((tmp_path / "runs" / "s" / "model" / "card.json").read_text())
    assert card["data"]["skipped"] == ["0/broken.png: not an image"]


def test_the_leaky_protocol_is_marked_wherever_it_is_shown(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    leaky = ["--set", "protocol=random", "--set", "final_data=train"]
    code, out, _ = run_tiny(shell, small_folder, *leaky)
    assert code == 0
    assert "leaky accuracy" in out
    assert "LEAKY" in out
    assert "test accuracy" not in out
    model = tmp_path / "runs" / "s" / "model"
    card = json.loads((model / "card.json").read_text())
    assert card["leaky"] is True
    study = optuna.load_study(study_name="s", storage=open_storage("sqlite:///optuna.db", create=False))
    assert all(trial.user_attrs["leaky"] for trial in study.trials)
    assert card["temperature"] == 1.0
    assert all(row["leaky"] for row in json.loads((model / "results.json").read_text()))
    assert (model / "classification_report.txt").read_text().startswith("LEAKY")
    assert "LEAKY" in (model / "report.html").read_text()
    assert "LEAKY" in shell("status", "s")[1]
    code, _, err = run_tiny(shell, small_folder, "--name", "t", "--set", "protocol=random")
    assert code == 2
    assert 'set final_data = "train"' in err


@pytest.mark.slow
def test_resume_takes_a_larger_budget_and_keeps_it(shell: Shell, small_folder: Path) -> None:
    assert run_tiny(shell, small_folder)[0] == 0
    assert shell("resume", "s", "--trials", 3, "--hours", 5)[0] == 0
    status = json.loads(shell("status", "s", "--json")[1])
    assert (status["trials_wanted"], status["hours_wanted"]) == (3, 5.0)
    assert status["complete"] + status["pruned"] == 3
    code, _, err = shell("resume", "s", "--hours", 0)
    assert (code, err) == (2, "study: hours = 0.0: input should be greater than 0\n")
    assert json.loads(shell("status", "s", "--json")[1])["hours_wanted"] == 5.0


@pytest.mark.slow
def test_status_says_what_becomes_of_unfinished_trials(shell: Shell, small_folder: Path) -> None:
    assert run_tiny(shell, small_folder)[0] == 0
    study = optuna.load_study(study_name="s", storage=open_storage("sqlite:///optuna.db", create=False))
    study.ask()
    study.enqueue_trial({"dense_units": "77"})
    out = shell("status", "s")[1]
    assert "2: was left unfinished when the search ended; a longer search goes on with it" in out
    assert ", 1 waiting." in out.splitlines()[0]
    assert shell("resume", "s", "--trials", 4)[0] == 0
    status = json.loads(shell("status", "s", "--json")[1])
    assert status["not_counted"] == {"3": "not a point of this study: dense_units = '77' lies outside the space"}
    assert "running_trials" not in status


SURFACE = {
    "run": [
        *("--preset", "--data", "--name", "--storage", "--trials", "--hours", "--workers", "--device"),
        *("--engine", "--address", "--gpus-per-worker", "--set", "--skip-bad", "--from", "--quiet"),
    ],
    "resume": [
        *("--storage", "--trials", "--hours", "--workers", "--device", "--engine", "--address", "--gpus-per-worker"),
        *("--finish", "--quiet"),
    ],
    "plan": [
        *("--preset", "--data", "--name", "--storage", "--trials", "--hours", "--workers", "--device", "--set"),
        *("--skip-bad", "--from", "--json"),
    ],
    "retrain": ["--trial", "--on", "--storage", "--device"],
    "status": ["--storage", "--json", "--watch"],
    "predict": [
        *("--json", "--jsonl", "--csv", "--csv-safe", "--top", "--explain", "--set-level", "--device", "--skip-bad"),
        *("--max-megapixels", "--out", "--mpp", "--um"),  # slides: what a file shows is no field of a study
    ],
    "evaluate": [
        "--groups",
        "--labels-from",
        "--without",
        "--only",
        "--json",
        "--device",
        "--skip-bad",
        "--max-megapixels",
    ],
    "serve": ["--port", "--device", "--max-megapixels"],
    "dashboard": ["--storage", "--port", "--write"],
    "data audit": [
        "--groups",
        "--parts",
        "--labels-from",
        "--without",
        "--only",
        "--seed",
        "--json",
        "--html",
        "--skip-bad",
        "--max-megapixels",
    ],
    "data split": [
        "--groups",
        "--parts",
        "--labels-from",
        "--without",
        "--only",
        "--seed",
        "--csv",
        "--csv-safe",
        "--skip-bad",
        "--max-megapixels",
    ],
    "data bad": ["--labels-from", "--without", "--only", "--csv", "--csv-safe", "--max-megapixels"],
    "data fetch": [],
    "data tiles": ["--out", "--um", "--most", "--table", "--mpp"],
    "models fetch": [],
    "help": [],
    "db copy": [],
    "db delete": ["--storage", "--yes"],
}


def test_the_surface_is_frozen(shell: Shell) -> None:
    """A new knob is a field of the configuration, not an option. Change this list only with a reason."""
    _, out, _ = shell("--help")
    listed = re.findall(r"^[│\s]*([a-z-]+)\s{2,}\S", ANSI.sub("", out), re.MULTILINE)
    assert set(listed) >= {command.split()[0] for command in SURFACE}
    for command, options in SURFACE.items():
        _, out, _ = shell(*command.split(), "--help")
        found = dict.fromkeys(re.findall(r"(?<![\w-])--[a-z-]+", ANSI.sub("", out).split("Example:")[0]))
        assert [option for option in found if option != "--help"] == options
        assert "Example: study" in out
