"""A later Optuna without one of the private names that make us faster: its own way, the same trials, and a log line."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.pruners import HyperbandPruner
from optuna.storages import RDBStorage

from study.storage.private import CHECKED, FASTER
from tests.conftest import tiny_options

RUN = """
import importlib, sys
owner, name, *words = sys.argv[1:]
module, _, kind = owner.rpartition(".")
if name:
    owner = getattr(importlib.import_module(module), kind)
    ours, private = getattr(owner, name), f"_renamed{name}"
    setattr(owner, private, ours)
    delattr(owner, name)
    # Optuna itself calls it by its new name, as a version that renamed it would.
    for module in [one for one in sys.modules.values() if getattr(one, "__name__", "").startswith("optuna")]:
        for kind in [one for one in vars(module).values() if isinstance(one, type)]:
            for function in [one for one in vars(kind).values() if hasattr(one, "__code__")]:
                code = function.__code__
                if name in code.co_names:
                    function.__code__ = code.replace(
                        co_names=tuple(private if one == name else one for one in code.co_names))
sys.argv = ["study", *words]
from study.cli import main
main()
"""


def test_the_names_are_there_in_the_version_they_were_checked_with() -> None:
    assert all(hasattr(owner, name) for owner, name in FASTER)
    assert optuna.__version__ == CHECKED


def trials(folder: Path) -> list[object]:
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/optuna.db")
    return [(one.number, one.params, one.intermediate_values, one.state) for one in study.trials]


def ran(folder: Path, images: Path, owner: type | None, name: str) -> str:
    folder.mkdir()
    place = f"{owner.__module__}.{owner.__name__}" if owner else ""
    words = ["run", *tiny_options(images, trials=12, sampler="tpe"), "--name", "s", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, place, name, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def usual(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("usual") / "x"
    assert "has no" not in ran(folder, small_folder, None, "")
    return trials(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name"), FASTER, ids=lambda value: getattr(value, "__name__", value))
def test_without_a_name_trials_are_the_same(
    owner: type, name: str, usual: list[object], small_folder: Path, tmp_path: Path
) -> None:
    said = ran(tmp_path / "x", small_folder, owner, name)
    assert said.count(f"has no {owner.__name__}.{name}") == 1
    assert trials(tmp_path / "x") == usual
    if owner is HyperbandPruner or owner is RDBStorage:
        assert FASTER[owner, name] in said
