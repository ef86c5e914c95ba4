"""What people expect of any command: versions, help on a field, completion, no colours where none are wanted."""

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import optuna
import pytest

from data import counted
from study.cli import complete
from study.config.fields import describe, names
from study.config.presets import PRESETS
from study.config.resolve import parse_setting, resolve
from study.config.schema import StudyConfig
from study.storage.door import open_storage
from study.storage.sqlite.tables import names_in
from tests.conftest import Shell, open_config, shrink

COLOUR = re.compile(rb"\x1b\[(\d+;)*3[0-9][;m]")


def test_the_versions_that_numbers_depend_on(shell: Shell) -> None:
    code, out, _ = shell("--version")
    assert code == 0
    assert re.fullmatch(
        r"archstudy [\d.]+ \(torch [\w.+]+, torchvision [\w.+]+, optuna [\w.]+; Python [\w.+]+\)\n",
        out,
    )


def test_every_field_says_what_it_means_and_may_be() -> None:
    known = names()
    assert {name.partition(".")[0] for name in known} == set(StudyConfig.model_fields)
    for name in known:
        field = describe(name)
        assert field.meaning, name
        assert field.allowed, name


@pytest.mark.parametrize("name", StudyConfig.model_fields)
def test_the_default_that_a_field_names_is_the_one_a_study_gets(name: str) -> None:
    default = StudyConfig.model_fields[name].get_default(call_default_factory=True)
    if isinstance(default, int | float | str):
        assert describe(name).default == str(default).lower()
    for preset, said in describe(name).presets.items():
        given = PRESETS[preset][name]
        assert said == str(given).lower() or isinstance(given, dict | list), preset


def test_help_on_a_field(shell: Shell) -> None:
    code, out, _ = shell("help", "class_weights")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "class_weights"
    assert [line.split()[0] for line in lines[2:]] == ["default", "allowed", "example", "later"]
    assert "presets: auto auto" in out
    # The short name of a parameter of the space is enough, and a field says whether it may change.
    assert shell("help", "space.kernel_sizes")[1] == shell("help", "kernel_sizes")[1] != ""
    assert "may change when a study goes on" in shell("help", "trials")[1]
    assert "fixed once it exists" in shell("help", "epochs")[1]
    assert all(name in shell("help")[1] for name in StudyConfig.model_fields)
    code, _, err = shell("help", "epoch")
    assert (code, err) == (2, "study: no field 'epoch'; did you mean epochs?\n")


@pytest.mark.parametrize("name", names())
def test_the_example_of_a_field_is_accepted(name: str) -> None:
    text = shlex.split(describe(name).example)[1]
    if not text.endswith(("=...", "}")):
        assert resolve(None, dict([parse_setting(text)]))


def completed(words: list[str], folder: Path) -> list[str]:
    """What a shell is offered for the last word; by the real program, as bash calls it."""
    done = subprocess.run(
        [Path(sys.executable).with_name("study")],
        env={**os.environ, "_STUDY_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words)}
        | {"COMP_CWORD": str(len(words) - 1)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.slow
def test_a_shell_completes_studies_presets_and_fields(tmp_path: Path) -> None:
    assert completed(["study", "resume", "o"], tmp_path) == []  # no database: no complaint either
    optuna.create_study(study_name="one", storage=open_storage(f"sqlite:///{tmp_path}/optuna.db", create=True))
    assert completed(["study", "resume", "o"], tmp_path) == ["one"]
    assert completed(["study", "run", "--preset", "qu"], tmp_path) == ["quick"]
    assert completed(["study", "run", "--set", "class_w"], tmp_path) == ["class_weights="]
    assert completed(["study", "help", "space.ke"], tmp_path) == ["space.kernel_sizes"]
    assert complete.fields("kernel") == ["kernel_sizes"]


def test_no_name_is_offered_that_a_shell_would_obey(tmp_path: Path) -> None:
    """A stranger's database: zsh runs what stands in a word that it completes."""
    file = tmp_path / "optuna.db"
    storage = open_storage(f"sqlite:///{file}", create=True)
    bad = ("b$(touch PWNED)", "b\\$(touch PWNED)", "`touch PWNED`", "a b", "a;b", "a\nb", "-rf", "../x", "x" * 101, "")
    for name in (*bad, "good-1", "müll"):
        optuna.create_study(study_name=name, storage=storage)
    assert names_in(file) == ["good-1", "müll"]
    for shell in ("zsh", "bash", "fish"):
        environment = {"_STUDY_COMPLETE": f"complete_{shell}", "COMP_WORDS": "study resume ", "COMP_CWORD": "2"}
        environment |= {"_TYPER_COMPLETE_ARGS": "study resume ", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        program = [Path(sys.executable).with_name("study")]
        done = subprocess.run(program, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True)
        assert "good-1" in done.stdout, (shell, done.stderr)
        assert "touch" not in done.stdout + done.stderr
    assert not (tmp_path / "PWNED").exists()


def coloured(folder: Path, **variables: str) -> bool:
    """Whether `study --help` has colours on a terminal."""
    reader, writer = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI")}
    environment = {**inherited, "TERM": "xterm-256color", **variables}
    program = [Path(sys.executable).with_name("study"), "--help"]
    with subprocess.Popen(program, env=environment, cwd=folder, stdout=writer, stderr=writer) as process:
        os.close(writer)
        said = b""
        with suppress(OSError):  # Linux says so at the end of a terminal
            while part := os.read(reader, 4096):
                said += part
    os.close(reader)
    assert b"version" in said
    assert process.returncode == 0
    return bool(COLOUR.search(said))


@pytest.mark.slow
def test_no_colours_where_none_are_wanted(tmp_path: Path) -> None:
    assert coloured(tmp_path)
    assert not coloured(tmp_path, NO_COLOR="1")


def test_one_of_a_thing_is_not_called_many(
    shell: Shell, small_folder: Path, tmp_path: Path, tiny: Callable[..., StudyConfig]
) -> None:
    assert [counted(number, "image") for number in (0, 1, 1204)] == ["0 images", "1 image", "1,204 images"]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]
    folder = shrink(small_folder, tmp_path / "photos", classes=2, each=1)
    (folder / "0" / "broken.png").write_bytes(b"nothing")
    code, _, err = shell("data", "bad", folder)
    assert (code, err) == (0, "1 file cannot be read\n")
    assert "class 0 has 1 image of 1 source; " in shell("data", "split", folder, "--skip-bad")[2]
    (tmp_path / "parts.csv").write_text("path,part\nnone.png,train\n")
    assert "(it must list all 2 images)" in shell("data", "split", folder, "--parts", "parts.csv", "--skip-bad")[2]
    open_config(f"sqlite:///{tmp_path}/optuna.db", tiny(preset="quick")).study.ask()
    assert shell("db", "delete", "s")[2].startswith("study: this deletes s: 1 trial, and all files in ")
