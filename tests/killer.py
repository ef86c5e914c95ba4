"""Run `study` in a process of its own that kills itself with SIGKILL at a named point, or is killed from outside.

A fork server that has imported everything once gives a real process in milliseconds instead of seconds. What happens
is written to files in the study's folder: `kills.log`, and with `watch` also `workers.log`, `epochs.log` and
`wrong.log`.
"""

import functools
import json
import multiprocessing
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy

from tests import quick

quick.make()  # in the test process, and in the server that its children are forked from

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "study.cli.display",
        "study.cli.planning",
        "study.cli.standing",
        "study.result.report",
        "sklearn.metrics",
        "scipy.optimize",
        "plotly.io",
        "alembic.command",
        "torch._dynamo",
        "torch.export._trace",
        "torch.export.pt2_archive._package",
        "torch.onnx._internal.exporter._fx_passes",
        "torch._functorch.aot_autograd",
        "optuna.importance._fanova",
        "data.grouping.find",
        "onnxscript",
        "onnxruntime",
        "tests.killer",
    ]
)

POINTS: dict[str, tuple[str, str]] = {
    "suggest": ("study.storage.lean:LeanStorage", "set_params"),
    "report": ("optuna.storages._cached_storage:_CachedStorage", "set_trial_intermediate_value"),
    "rung": ("optuna.storages._cached_storage:_CachedStorage", "set_trial_system_attr"),
    "verdict": ("optuna:Trial", "should_prune"),
    "attribute": ("study.storage.lean:LeanStorage", "set_attributes"),
    "tell": ("optuna.storages._cached_storage:_CachedStorage", "set_trial_state_values"),
    "checkpoint": ("models.training.checkpoint:", "write"),
    "checkpoint rename": ("models.files:", "flush"),
    "ask": ("optuna:Study", "ask"),
    "lease": ("study.storage.owners.leases:Leases", "_row"),
    "lease end": ("study.storage.owners.leases:Lease", "__exit__"),
    "create": ("optuna.storages._cached_storage:_CachedStorage", "set_study_user_attr"),
    "enqueue": ("optuna:Study", "enqueue_trial"),
    "cache": ("data.cache:", "_write"),
    "weights": ("models.bundle.folder:", "save_weights"),
    "opening": ("study.result.final:", "open_test"),
    "bundle": ("models.files:", "write_json"),
    "model": ("models.bundle.folder:", "save"),
    "model file": ("models.files:", "write"),
    "report page": ("study.result.report:", "write_report"),
    "keep": ("study.result.shipped:", "_keep"),
}
"""Name -> (owner, function): the process dies just before or just after the n-th call."""

Plan = tuple[str, str, int]
"""Point, "before" or "after", and at which call."""

Crew = list[Plan | list[tuple[str, str]] | None]
"""What each worker of a crew dies of, as it is hired; a list is of deaths that they share, see `arm_in_turn`."""


def note(file: str, *words: object) -> None:
    """Add a line to a file in the current folder; several processes may do so at once."""
    with Path(file).open("a") as handle:
        handle.write(" ".join(map(str, words)) + "\n")


def arm(plan: Plan | None) -> None:
    """Make this process kill itself at a point."""
    if plan:

        def die() -> None:
            note("kills.log", *plan[:2])
            os.kill(os.getpid(), signal.SIGKILL)

        at(*plan, die)


def arm_in_turn(deaths: list[tuple[str, str]]) -> None:
    """Make this process kill itself at the point where the next death of its crew is due, whoever comes there first.

    `deaths`: point, and "before" or "after", in the order in which the crew dies of them.
    """
    for number, (point, when) in enumerate(deaths):

        def die(number: int = number, point: str = point, when: str = when) -> None:
            if len(list(Path().glob("death-*"))) == number:
                with suppress(FileExistsError):  # another one died of it
                    Path(f"death-{number}").touch(exist_ok=False)
                    note("kills.log", point, when)
                    os.kill(os.getpid(), signal.SIGKILL)

        at(point, when, None, die)


def at(point: str, when: str, count: int | None, act: Callable[[], None]) -> None:
    """Act just before or just after the n-th call, or each call, of what a point names, in this process."""
    place, name = POINTS[point]
    module, _, attribute = place.partition(":")
    owner: Any = import_module(module)
    owner = getattr(owner, attribute) if attribute else owner
    function = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        now = count is None or calls == count
        if now and when == "before":
            act()
        result = function(*args, **kwargs)
        if now and when == "after":
            act()
        return result

    setattr(owner, name, wrapped)


def reports(folder: Path, url: str | None = None) -> int:
    """How many epochs the database knows of: the SQLite file in the folder, unless another one is given."""
    query = "SELECT count(*) FROM trial_intermediate_values"
    if url and not url.startswith("sqlite"):
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with suppress(sqlalchemy.exc.ProgrammingError), engine.connect() as connection:  # no tables yet
            return int(connection.scalar(sqlalchemy.text(query)) or 0)
        return 0
    with suppress(sqlite3.Error), sqlite3.connect(f"file:{folder}/optuna.db?mode=ro", uri=True) as connection:
        return int(connection.execute(query).fetchone()[0])
    return 0


def when_reported(process: Any, folder: Path, epochs: int) -> None:
    """Wait until the database knows of so many epochs."""
    while reports(folder) < epochs:
        assert process.exitcode is None
        process.join(0.01)


def watch() -> None:
    """Write down what this process trains, and what must never happen."""
    from optuna.storages._cached_storage import _CachedStorage

    from study.search import trial as trials
    from study.training import start as training

    report, fit, run = _CachedStorage.set_trial_intermediate_value, training.fit, trials.run_trial

    def reported_once(self: Any, trial_id: int, step: int, value: float) -> Any:
        query = sqlalchemy.text("SELECT count(*) FROM trial_intermediate_values WHERE trial_id = :id AND step = :step")
        with self._backend.reading() as connection:
            if connection.scalar(query, {"id": trial_id, "step": step}):
                note("wrong.log", f"step {step} of trial id {trial_id} is reported twice")
        return report(self, trial_id, step, value)

    def counted(learner: Any, config: Any, train: Any, steps: int, val: Any, seed: int, *rest: Any) -> Iterator[Any]:
        for result in fit(learner, config, train, steps, val, seed, *rest):
            note("epochs.log", seed, result.epoch)
            yield result

    def run_by_one(run_now: Any, *args: Any) -> Iterator[Any]:
        study, trial = run_now.study.study, run_now.trial
        held = Path(f"held-{trial.number}")
        if held.exists() and (text := held.read_text()) and Path(f"/proc/{text}").exists() and not is_dead(text):
            note("wrong.log", f"trial {trial.number} is run by process {text} and by {os.getpid()}")
        held.write_text(str(os.getpid()))
        note("runs.log", trial.number, len(study._storage.get_trial(trial._trial_id).intermediate_values))
        try:
            yield from run(run_now, *args)
        finally:
            held.unlink(missing_ok=True)

    _CachedStorage.set_trial_intermediate_value = reported_once  # type: ignore[method-assign]
    training.fit = counted
    trials.run_trial = run_by_one


def keep_copy() -> None:
    """Copy the database to earlier.db: what a power cut may take it back to."""
    with sqlite3.connect("optuna.db") as database, sqlite3.connect("earlier.db") as earlier:
        database.backup(earlier)


def delete_study() -> None:
    """As `optuna delete-study` would, from another program."""
    from study.storage.door import open_storage

    optuna.delete_study(study_name="s", storage=open_storage("sqlite:///optuna.db", create=False))


def is_dead(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _live(plan: Any, watched: bool, *args: Any) -> None:
    """A crew's worker that will die at a point."""
    from study.search import local as crew

    if watched:
        watch()
    if isinstance(plan, list):
        arm_in_turn(plan)
    else:
        arm(plan)
    crew._live(*args)


def _arm_crew(plans: Crew, watched: bool) -> None:
    from study.search import local as crew

    hire = crew._hire

    def armed(hands: dict[Any, Any], *args: Any) -> None:
        crew._live = functools.partial(_live, plans.pop(0) if plans else None, watched)  # type: ignore[assignment]
        hire(hands, *args)
        worker, _ = list(hands.values())[-1]
        note("workers.log", worker.pid)

    crew._hire = armed


def _share_server(address: object) -> None:
    """Let a child start processes from its parent's fork server, instead of waiting seconds for one of its own."""
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    server._forkserver_address = address
    server.ensure_running = lambda: None
    forkserver.ensure_running = server.ensure_running


def _child(
    arguments: list[str],
    folder: str,
    server: object,
    plan: Plan | None,
    crew: Crew,
    watched: bool,
    first: Callable[[], None] | None,
) -> None:
    import torch

    from study import cli

    _share_server(server)
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.stdout = sys.stderr = Path("output.log").open("a")  # noqa: SIM115
    _arm_crew(crew, watched)
    if watched:
        watch()
    if first:
        first()
    arm(plan)
    sys.argv = ["study", *arguments]
    cli.main()


def start(
    arguments: list[str],
    folder: object,
    point: str | None = None,
    when: str = "before",
    count: int = 1,
    *,
    crew: Crew | None = None,
    watched: bool = False,
    first: Callable[[], None] | None = None,
) -> Any:
    """Start `study ARGUMENTS` in `folder`; join() it and read its exitcode (-9 when it was killed).

    `crew`: what the workers die of that it starts, in that order. `first` is called in the process before anything.
    """
    plan = (point, when, count) if point else None
    forkserver.ensure_running()
    server = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
    process = CONTEXT.Process(target=_child, args=(arguments, str(folder), server, plan, crew or [], watched, first))
    process.start()
    return process


def run(arguments: list[str], folder: object, point: str | None = None, when: str = "before", count: int = 1) -> int:
    process = start(arguments, folder, point, when, count)
    process.join()
    assert process.exitcode is not None
    return int(process.exitcode)


SECONDS: dict[str, float] = {}
"""How long the undisturbed run takes here: random kills are spread over it."""

BASELINE = {
    "num_conv_blocks": 1,
    "filters_multiplier": 2,
    "kernel_sizes": "3-3-3",
    "use_batch_norm": True,
    "conv_dropout": 0.0,
    "dense_units": "64",
    "learning_rate": 0.003,
}


def options(folder: Path, **changes: Any) -> list[str]:
    from tests.conftest import tiny_options

    given = tiny_options(folder, **{"trials": 12, **changes})
    for name, value in BASELINE.items():
        given += ["--set", f"baseline.{name}={json.dumps(value)}"]
    return ["run", "--name", "s", *given]


def everything(folder: Path, url: str | None = None) -> tuple[Any, ...]:
    """Trials as the database has them, the winner's weights, and the number of openings; the model folder is whole.

    Of the SQLite file in the folder, unless another database is given.
    """
    from models.bundle.folder import is_whole
    from study.storage.door import open_storage

    study = optuna.load_study(
        study_name="s", storage=open_storage(url or f"sqlite:///{folder}/optuna.db", create=False)
    )
    trials = [
        (
            trial.number,
            trial.state.name,
            trial.value,
            trial.params,
            trial.intermediate_values,
            {key: value for key, value in trial.system_attrs.items() if key.startswith("completed_rung")},
            trial.user_attrs["best_accuracy"],
            trial.user_attrs.get("pruned_because"),
        )
        for trial in study.trials
    ]
    card = json.loads((folder / "runs" / "s" / "model" / "card.json").read_text())
    assert is_whole(folder / "runs" / "s" / "model")
    check = ("ok",) if url else sqlite3.connect(folder / "optuna.db").execute("PRAGMA integrity_check").fetchone()
    kept = ("weights_sha256", "test", "temperature", "classes")
    return trials, [card[key] for key in kept], len(study.user_attrs["openings"]), check
