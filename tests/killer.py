"""Run `study` in a process of its own that kills itself with SIGKILL at a named point, or is killed from outside.

A fork server that has imported everything once gives a real process in milliseconds instead of seconds.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["study.cli", "sklearn.metrics", "scipy.optimize", "plotly.io", "alembic.command", "torch._dynamo"]
)

POINTS: dict[str, tuple[str, str]] = {
    "suggest": ("optuna.storages._cached_storage:_CachedStorage", "set_trial_param"),
    "report": ("optuna.storages._cached_storage:_CachedStorage", "set_trial_intermediate_value"),
    "rung": ("optuna.storages._cached_storage:_CachedStorage", "set_trial_system_attr"),
    "verdict": ("optuna:Trial", "should_prune"),
    "attribute": ("optuna.storages._cached_storage:_CachedStorage", "set_trial_user_attr"),
    "tell": ("optuna.storages._cached_storage:_CachedStorage", "set_trial_state_values"),
    "checkpoint": ("models.checkpoint:", "write"),
    "checkpoint rename": ("models.checkpoint:", "_flush"),
    "ask": ("optuna:Study", "ask"),
    "create": ("optuna.storages._cached_storage:_CachedStorage", "set_study_user_attr"),
    "enqueue": ("optuna:Study", "enqueue_trial"),
    "weights": ("models.bundle:", "save_weights"),
    "opening": ("study.final:", "_open_test"),
    "bundle": ("models.bundle:", "write_json"),
    "report page": ("study.final:", "write_report"),
}
"""Name -> (owner, function): the process dies just before or just after the n-th call."""


def deadly(function: Callable[..., Any], when: str, count: int) -> Callable[..., Any]:
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


def _child(arguments: list[str], folder: str, point: str | None, when: str, count: int) -> None:
    import torch

    from study import cli

    torch.set_num_threads(1)
    os.chdir(folder)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    if point:
        place, name = POINTS[point]
        module, _, attribute = place.partition(":")
        owner = import_module(module)
        owner = getattr(owner, attribute) if attribute else owner
        setattr(owner, name, deadly(getattr(owner, name), when, count))
    sys.argv = ["study", *arguments]
    cli.main()


def start(arguments: list[str], folder: object, point: str | None = None, when: str = "before", count: int = 1) -> Any:
    """Start `study ARGUMENTS` in `folder`; join() it and read its exitcode (-9 when it was killed)."""
    process = CONTEXT.Process(target=_child, args=(arguments, str(folder), point, when, count))
    process.start()
    return process


def run(arguments: list[str], folder: object, point: str | None = None, when: str = "before", count: int = 1) -> int:
    process = start(arguments, folder, point, when, count)
    process.join()
    assert process.exitcode is not None
    return int(process.exitcode)
