"""The `study` command: parse, print, exit code. Data goes to stdout, messages to stderr.

A command imports what it needs when it runs: torch alone takes seconds, and most commands need none of it.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from shlex import quote
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from data import DataError
from models import ModelError
from study import StudyError
from study.cli import data as data_commands
from study.cli import db as db_commands
from study.cli import model as model_commands
from study.cli import models as models_commands
from study.cli import plan as plan_command
from study.cli import serve as serve_command
from study.cli import sql as sql_commands
from study.cli import status as status_command
from study.cli.console import PlainLog, err, out, plain, quiet_optuna, storage_option
from study.cli.habits import help_of, root, versions
from study.cli.options import (
    BEGAN,
    Address,
    Data,
    Device,
    EngineName,
    From,
    GpusPerWorker,
    Hours,
    Name,
    OneDevice,
    Preset,
    Quiet,
    Settings,
    SkipBad,
    Storage,
    StudyFile,
    StudyName,
    Trials,
    Workers,
    asked_for,
    choose_device,
    choose_devices,
    choose_engine,
    in_words,
)
from study.storage.names import DEFAULT_URL, check_name

if TYPE_CHECKING:
    from study.cli.display import Display
    from study.config.resolve import StudyRequest
    from study.launch import AlreadyFinished, News
    from study.search.engine import Engine

app = typer.Typer(
    invoke_without_command=True,
    callback=root,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Search CNN architectures on a folder of labelled images; get one model and a score you can trust.",
    epilog="Start with: study run          (embedded digits, a minute)      then: study run --data FOLDER",
)

app.add_typer(plan_command.app)
app.add_typer(status_command.app)
app.add_typer(model_commands.app)
app.add_typer(serve_command.app)
app.add_typer(sql_commands.app)
app.add_typer(data_commands.app, name="data")
app.add_typer(db_commands.app, name="db")
app.add_typer(models_commands.app, name="models")


app.command("help", epilog="Example: study help epochs")(help_of)


@app.command(epilog="Example: study run --data images/ --trials 64 --set image_size=96")
def run(
    file: StudyFile = None,
    preset: Preset = None,
    data: Data = None,
    name: Name = None,
    storage: Storage = DEFAULT_URL,
    trials: Trials = None,
    hours: Hours = None,
    workers: Workers = None,
    device: Device = "auto",
    engine: EngineName = "local",
    address: Address = None,
    gpus_per_worker: GpusPerWorker = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    older: From = None,
    quiet: Quiet = False,
) -> None:
    """Search until the budget is used, then train, score and export the winner. Give it again to go on."""
    from study.search.opening import default_name

    asked = asked_for(file, preset, data, trials, hours, workers, settings, skip_bad, older)
    chosen = choose_engine(engine, address, gpus_per_worker, device)
    _run(asked, name or default_name(asked), storage, device, chosen, quiet=quiet)


@app.command(epilog="Example: study resume quick-digits --trials 24")
def resume(
    name: StudyName,
    storage: Storage = DEFAULT_URL,
    trials: Trials = None,
    hours: Hours = None,
    workers: Workers = None,
    device: Device = "auto",
    engine: EngineName = "local",
    address: Address = None,
    gpus_per_worker: GpusPerWorker = None,
    finish: Annotated[bool, typer.Option("--finish", help="No more trials: the final training now.")] = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a study, by its name alone; with more trials, hours or workers if you like."""
    from study.config.resolve import StudyRequest
    from study.search.contract import check_images, files_of, stored_config
    from study.storage.door import load_study, open_storage

    quiet_optuna()
    study = load_study(open_storage(storage, create=False, write=False), check_name(name))
    config = stored_config(study)
    check_images(config, name, files_of(study, storage))
    asked = StudyRequest(config.changed(trials=trials, hours=hours, workers=workers).model_dump(mode="json"))
    chosen = choose_engine(engine, address, gpus_per_worker, device)
    _run(asked, name, storage, device, chosen, searching=not finish, quiet=quiet)


@app.command(epilog="Example: study retrain quick-digits --trial 3")
def retrain(
    name: StudyName,
    trial: Annotated[int | None, typer.Option(min=0, help="Number of the trial to train; default: the winner.")] = None,
    on: Annotated[
        str | None, typer.Option(help='"all": the model that was scored, on all images, for use; it has no score.')
    ] = None,
    storage: Storage = DEFAULT_URL,
    device: OneDevice = "auto",
) -> None:
    """Train a trial's architecture again from fresh weights, score it, and write its model folder."""
    from study import launch

    if on not in (None, "all"):
        raise StudyError(f'--on {on}: allowed is "all" (all images, those of the test part too)')
    if on and trial is not None:
        raise StudyError("--on all trains the model that was scored (leave --trial out)")
    chosen = choose_device(device)
    check_name(name)
    _follow(
        name,
        storage,
        lambda display: launch.retrain(
            name, storage, chosen, trial, display.images, display.watch, on_all=on is not None
        ),
        command="retrain",
        more=(f" --trial {trial}" if trial is not None else "") + (" --on all" if on else ""),
    )


@app.command(hidden=True)
def worker(
    name: StudyName,
    storage: Storage = DEFAULT_URL,
    device: OneDevice = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of this worker.")] = None,
) -> None:
    """Search beside others for a study that exists, without its final training."""
    from study.search.worker import work_on
    from study.signals import StopRequest, stoppable, unmasked

    quiet_optuna()
    chosen = choose_device(device)
    check_name(name)
    with stoppable():
        try:
            with unmasked():
                for _ in work_on(name, storage, chosen, threads):
                    pass
        except StopRequest as stop:
            raise typer.Exit(stop.exit_code) from None


@app.command(epilog="Example: study dashboard --port 8080")
def dashboard(
    storage: Storage = DEFAULT_URL,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port, open to this machine alone; 0: any free one.")
    ] = 8080,
    write: Annotated[bool, typer.Option("--write", help="Let the page change and delete studies.")] = False,
) -> None:
    """optuna-dashboard in a browser, read-only, with figures and notes for each study; Ctrl-C ends it."""
    from study.dashboard import application, serve
    from study.signals import StopRequest, stoppable
    from study.storage.trouble import storage_trouble

    quiet_optuna()
    with storage_trouble(storage), stoppable():
        try:
            serve(
                application(storage, write=write),
                port,
                lambda address: err.print(address, soft_wrap=True, highlight=False),
                secret=write,
            )
        except StopRequest as stop:
            raise typer.Exit(stop.exit_code) from None


def _run(
    asked: StudyRequest,
    name: str,
    storage: str,
    device: str,
    engine: Engine | None,
    *,
    searching: bool = True,
    quiet: bool = False,
) -> None:
    from study import launch

    devices = choose_devices(device)
    check_name(name)

    def start(display: Display) -> Iterator[News | AlreadyFinished]:
        watch, since = display.watch, BEGAN.get()
        return launch.run(
            asked,
            name,
            storage,
            devices,
            display.images,
            since=since,
            watch=watch,
            searching=searching,
            engine=engine,
        )

    first = f"{versions()}; {in_words(devices)}"
    _follow(name, storage, start, quiet=quiet, more="" if searching else " --finish", first=first)


def _follow(
    name: str,
    storage: str,
    start: Callable[[Display], Iterator[News | AlreadyFinished]],
    *,
    quiet: bool = False,
    command: str = "resume",
    more: str = "",
    first: str = "",
) -> None:
    """Run a study to its end while showing its progress, and say how to go on if it is stopped."""
    from study.cli.display import show
    from study.launch import AlreadyFinished
    from study.signals import StopRequest, stoppable, unmasked

    finished: list[AlreadyFinished] = []

    def going_on(news: Iterator[News | AlreadyFinished]) -> Iterator[News]:
        for item in news:
            if isinstance(item, AlreadyFinished):
                finished.append(item)
            else:
                yield item

    quiet_optuna()
    shown: list[Display] = []

    def farewell() -> str:
        if not shown or not shown[0].opened:
            return "stopped before anything was trained. Give the same command again"
        return f"stopped; nothing is lost. Go on with study {command} {quote(name)}{more}{storage_option(storage)}"

    with stoppable(lambda: f"\n{farewell()}\n"), show(err, quiet=quiet, first=first) as display:
        shown.append(display)
        try:
            with unmasked():
                display.follow(going_on(start(display)))
        except StopRequest as stop:
            err.print(farewell(), markup=False)
            raise typer.Exit(stop.exit_code) from None
    for item in finished:
        out.print(
            f"{name} is finished, and nothing was added: the model is in {item.directory}, the report is "
            f"{item.directory / 'report.html'} (to add: {item.more}{storage_option(storage)})",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if not finished:
        display.summary(name, storage)


def _fail(message: str) -> NoReturn:
    """Write one line to stderr (never wrapped, so that it can be searched for), and exit with code 2."""
    sys.stderr.write(plain("study: " + " ".join(message.split())) + "\n")
    raise SystemExit(2)


DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Error numbers of printing or writing to a full or broken disk."""

PATH_TROUBLE = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR)
"""Error numbers for something wrong with a path that was given."""


def main(began: float | None = None) -> None:
    """Run the command; the user's mistakes end in one line, our own keep their traceback."""
    BEGAN.set(began)
    if logging.lastResort:  # the handler of records that have no other: our log
        logging.lastResort.setFormatter(PlainLog())
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except (DataError, ModelError, StudyError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output has enough (study predict ... | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except ValueError as error:
        if "null byte" not in str(error):  # that one comes from a path, wherever it is first used
            raise
        _fail("a path holds the character NUL")
    except OSError as error:
        if error.errno in DISK_TROUBLE:
            with suppress(OSError):  # or Python would try once more, and report it
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _fail(f"cannot write {error.filename or 'what is printed'}: {error.strerror}")
        if error.errno not in PATH_TROUBLE:
            raise
        _fail(f"{error.filename or 'a path'}: {error.strerror}")
    except typer.TyperException as error:  # a command line that does not parse
        command = getattr(getattr(error, "ctx", None), "command_path", "study")
        from pydantic import ValidationError  # it is imported by now, or has nothing to do with the error

        cause = error.__cause__
        given = f", not {cause.errors()[0]['input']!r}" if isinstance(cause, ValidationError) else ""
        _fail(f"{error.format_message()}{given} (see: {command} --help)")
    raise SystemExit(code if isinstance(code, int) else 0)
