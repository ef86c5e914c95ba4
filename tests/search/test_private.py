"""A later Optuna without one of the private names that make us faster: its own way, the same trials, and a log line."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.pruners import HyperbandPruner
from optuna.storages import RDBStorage

from study.storage.private import CHECKED, FASTER, there
from tests.conftest import tiny_options

RUN = """
import importlib, sys, types
owner, name, *words = sys.argv[1:]
module, _, kind = owner.rpartition(".")

def renamed(code):
    names = tuple(private if one == name else one for one in code.co_names)
    inner = tuple(renamed(one) if isinstance(one, types.CodeType) else one for one in code.co_consts)
    return code.replace(co_names=names, co_consts=inner)

if name:
    owner = getattr(importlib.import_module(module), kind)
    ours, private = getattr(owner, name), f"_renamed{name}"
    setattr(owner, private, ours)
    delattr(owner, name)
    # Optuna itself calls it by its new name, as a version that renamed it would.
    modules = [vars(one) for one in list(sys.modules.values()) if getattr(one, "__name__", "").startswith("optuna")]
    kinds = {one for module in modules for one in list(module.values()) if isinstance(one, type)}
    for other in kinds:  # those that have a method of that name too
        if name in vars(other):
            setattr(other, private, vars(other)[name])
    for holder in [*modules, *map(vars, kinds)]:
        for function in [one for one in list(holder.values()) if isinstance(one, types.FunctionType)]:
            function.__code__ = renamed(function.__code__)
sys.argv = ["study", *words]
from study.cli import main
main()
"""


def test_the_names_are_there_in_the_version_they_were_checked_with() -> None:
    assert there(*FASTER)
    assert all(hasattr(owner, name) for owner, name in FASTER if name != "_pruners")
    assert hasattr(HyperbandPruner(), "_pruners")
    assert optuna.__version__ == CHECKED


def test_a_name_that_is_gone_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Ours is then never called. Studies have one of the same name, so it cannot be taken away from a running one."""
    monkeypatch.delattr(RDBStorage, "_get_trials")
    there.cache_clear()
    assert not there((RDBStorage, "_get_trials"))
    assert not there((RDBStorage, "_get_trials"))
    assert caplog.text.count("has no RDBStorage._get_trials (checked with") == 1
    monkeypatch.undo()
    there.cache_clear()
    assert there((RDBStorage, "_get_trials"))


OF_SEARCH = [one for one in FASTER if one[1] not in ("_get_trials", "_pruners")]
"""Those that can be taken away from a running program: the others are not one class's own."""


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
@pytest.mark.parametrize(("owner", "name"), OF_SEARCH, ids=lambda value: getattr(value, "__name__", value))
def test_without_a_name_trials_are_the_same(
    owner: type, name: str, usual: list[object], small_folder: Path, tmp_path: Path
) -> None:
    said = ran(tmp_path / "x", small_folder, owner, name)
    assert said.count(f"has no {owner.__name__}.{name}") == 1
    assert trials(tmp_path / "x") == usual
