"""The `study` command: parse, print, exit code. Data goes to stdout, talk to stderr."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import optuna
import torch
import typer
from optuna.trial import FrozenTrial, TrialState

from data import DataError
from models import ModelError
from study import StudyError, launch
from study.cli import data as data_commands
from study.cli import db as db_commands
from study.cli import model as model_commands
from study.cli import sql as sql_commands
from study.cli.display import Display, err, print_table, show
from study.config.resolve import parse_setting, resolve
from study.config.schema import StudyConfig
from study.result.final import winner
from study.search.contract import stored_config
from study.search.local import work
from study.search.members import Membership
from study.search.opening import check_name, choose_device, default_name
from study.search.worker import search_seconds
from study.signals import Stopped, stoppable
from study.storage.door import DEFAULT_URL, backend, load_study, open_storage, storage_trouble, study_names
from study.storage.leases import holders

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Search CNN architectures on a folder of labelled images; get one model and a score to believe.",
    epilog="Start with: study run          (embedded digits, a minute)      then: study run --data FOLDER",
)

app.add_typer(model_commands.app)
app.add_typer(sql_commands.app)
app.add_typer(data_commands.app, name="data")
app.add_typer(db_commands.app, name="db")

Storage = Annotated[str, typer.Option(help="Database of studies: sqlite:///FILE or postgresql+psycopg://...")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Trials = Annotated[int | None, typer.Option(min=1, help="Total number of trials, over all runs and workers.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes that search at the same time.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.command(epilog="Example: study run --data images/ --trials 64 --set image_size=96")
def run(
    file: Annotated[Path | None, typer.Argument(metavar="[STUDY.toml]", help="A study of your own.")] = None,
    preset: Annotated[str | None, typer.Option(help="quick, reference or full")] = None,
    data: Annotated[str | None, typer.Option(help="digits, tissue, or a folder of class folders")] = None,
    name: Annotated[str | None, typer.Option(help="Default: preset and data, as in quick-digits.")] = None,
    storage: Storage = DEFAULT_URL,
    trials: Trials = None,
    workers: Workers = None,
    device: Device = "auto",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the study; repeatable.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable files out.")] = False,
) -> None:
    """Bring a study to its budget, then train, score and export the winner. Give it again to go on."""
    given: dict[str, Any] = dict(parse_setting(text) for text in settings or [])
    flags = {"preset": preset, "data": data, "trials": trials, "workers": workers, "skip_bad": skip_bad or None}
    given |= {key: value for key, value in flags.items() if value is not None}
    config = resolve(file, given)
    _run(config, name or default_name(config), storage, device)


@app.command(epilog="Example: study resume quick-digits --trials 24")
def resume(
    name: str,
    storage: Storage = DEFAULT_URL,
    trials: Trials = None,
    hours: Annotated[float | None, typer.Option(help="Hours of training after which no trial starts.")] = None,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Go on with a study, by its name alone; with more trials, hours or workers if you like."""
    config = stored_config(load_study(open_storage(storage, create=False, write=False), name))
    _run(config.with_budget(trials, hours, workers), name, storage, device)


@app.command(epilog="Example: study retrain quick-digits --trial 3")
def retrain(
    name: str,
    trial: Annotated[int | None, typer.Option(min=0, help="Another than the winner.")] = None,
    storage: Storage = DEFAULT_URL,
    device: Device = "auto",
) -> None:
    """Train a trial's architecture again from fresh weights, score it, and write its model folder."""
    chosen = choose_device(device)
    _follow(name, storage, lambda display: launch.retrain(name, storage, chosen, trial, display.images))


@app.command(hidden=True)
def worker(
    name: str,
    storage: Storage = DEFAULT_URL,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of this worker.")] = None,
) -> None:
    """Search beside others for a study that exists, without its final training."""
    if threads:
        torch.set_num_threads(threads)
    chosen = choose_device(device)
    with stoppable():
        try:
            for _ in work(name, storage, chosen):
                pass
        except Stopped as stop:
            raise typer.Exit(stop.exit_code) from None


@app.command(epilog="Example: study status quick-digits --json")
def status(
    name: Annotated[str | None, typer.Argument(help="Without it: all studies.")] = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """What a study has found so far, and what is left."""
    with storage_trouble(storage):
        database = open_storage(storage, create=False, write=False)
        names = study_names(database) if name is None else [name]
        rows = [_status(load_study(database, one), storage) for one in names]
    if as_json:
        sys.stdout.write(json.dumps(rows if name is None else rows[0], indent=2) + "\n")
        return
    for row in rows:
        lines = [(key, _lines(value)) for key, value in row.items() if key != "name"]
        print_table(("", row["name"]), lines)
    if not rows:
        err.print("no studies yet; start one with: study run")


@app.command(epilog="Example: study dashboard --port 8080")
def dashboard(
    storage: Storage = DEFAULT_URL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine alone; 0: any free one.")] = 8080,
    write: Annotated[bool, typer.Option("--write", help="Let the page change and delete.")] = False,
) -> None:
    """optuna-dashboard in a browser, read-only, with figures and notes for each study; Ctrl-C ends it."""
    from study.dashboard import application, serve  # its imports take a second

    with storage_trouble(storage), stoppable():
        try:
            serve(application(storage, write=write), port, lambda address: err.print(address, soft_wrap=True))
        except Stopped as stop:
            raise typer.Exit(stop.exit_code) from None


def _run(config: StudyConfig, name: str, storage: str, device: str) -> None:
    chosen = choose_device(device)
    check_name(name)
    _follow(name, storage, lambda display: launch.run(config, name, storage, chosen, display.images))


def _follow(name: str, storage: str, start: Callable[[Display], Iterator[launch.News]]) -> None:
    """Run a study to its end before the user's eyes, and say how to go on where it is stopped."""
    stopped = "stopped; nothing is lost. Go on with"
    with stoppable(f"\n{stopped} the same command\n"), show(err) as display:
        try:
            display.follow(start(display))
        except Stopped as stop:
            resume = f"study resume {name}{_storage_option(storage)}"
            err.print(f"{stopped} {'the same command' if not display.opened else resume}", markup=False)
            raise typer.Exit(stop.exit_code) from None
    display.summary(name, storage)


def _storage_option(storage: str) -> str:
    return "" if storage == DEFAULT_URL else f" --storage {shlex.quote(storage)}"


def _status(study: optuna.Study, storage: str) -> dict[str, Any]:
    """One study's standing, as plain values."""
    trials = study.get_trials(deepcopy=False)
    counts = {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState}
    row: dict[str, Any] = {"name": study.study_name, **counts, "seconds": round(search_seconds(trials), 1)}
    row |= _unfinished(trials, holders(backend(study)))
    differing = [trial.number for trial in trials if "replay_differs" in trial.user_attrs]
    if differing:  # another machine, thread count or version went on with it
        row["replays_that_differ"] = differing
    try:
        config = stored_config(study)
    except StudyError as error:  # plain Optuna's, or another version's: no reason to hide the others
        return row | {"note": str(error)}
    members = Membership(config)
    if strangers := {
        trial.number: why for trial in trials if trial.state.is_finished() and (why := members.stranger(trial))
    }:
        row["not_counted"] = strangers
    if any(trial.state == TrialState.COMPLETE for trial in members.own(trials)):
        best = winner(study)
        row |= {"best_trial": best.number, "best_selection_score": best.value, "best_params": best.params}
    row |= {"protocol": "random (LEAKY)" if config.protocol == "random" else config.protocol}
    row |= {"data": config.data, "trials_wanted": config.trials, "hours_wanted": config.hours}
    row["go_on"] = f"study resume {study.study_name}{_storage_option(storage)}"
    return row


def _lines(value: object) -> object:
    """A table of trials, one per line; everything else as it is."""
    if isinstance(value, dict) and all(isinstance(key, int) for key in value):
        return "\n".join(f"{key}: {text}" for key, text in value.items())
    return value


def _unfinished(trials: list[FrozenTrial], held: dict[int, str]) -> dict[str, Any]:
    """What becomes of the trials that are not finished, by number."""
    found: dict[str, dict[int, str]] = {"running_trials": {}, "waiting_trials": {}}
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            left = "left behind; the next run goes on with it"
            found["running_trials"][trial.number] = held.get(trial._trial_id, left)
        elif trial.state == TrialState.WAITING:
            found["waiting_trials"][trial.number] = "enqueued; tried before new ones are drawn"
    return {name: rows for name, rows in found.items() if rows}


def _fail(message: str) -> NoReturn:
    """One line on stderr (never wrapped, so that it can be searched for), exit code 2."""
    sys.stderr.write("study: " + " ".join(message.split()) + "\n")
    raise SystemExit(2)


_USAGE_ERROR: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""What a command line that does not parse raises (typer brings its own click, so its class has no public name)."""


def main() -> None:
    """Run the command; the user's mistakes end in one line, our own stay loud."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        code = app(standalone_mode=False)
    except (DataError, ModelError, StudyError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # whoever reads our rows has enough (study predict ... | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except _USAGE_ERROR as error:
        message = error.format_message()  # type: ignore[attr-defined]
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(message + "\n")
            raise SystemExit(2) from None
        command = getattr(getattr(error, "ctx", None), "command_path", "study")
        _fail(f"{message} (see: {command} --help)")
    raise SystemExit(code if isinstance(code, int) else 0)
