"""Options that several commands share, the device that one of them names, and when the command began."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data import counted
from study import StudyError
from study.cli.complete import presets, settings, studies

if TYPE_CHECKING:
    import torch
    from pydantic import JsonValue

    from study.config.resolve import StudyRequest
    from study.search.engine import Engine

logger = logging.getLogger(__name__)

BEGAN: ContextVar[float | None] = ContextVar("BEGAN", default=None)
"""Time at which the command began, by processes.now: a study's hours count from there."""

StudyFile = Annotated[Path | None, typer.Argument(metavar="[STUDY.toml]", help="A study of your own.")]
Preset = Annotated[str | None, typer.Option(help="auto, quick, reference or full", autocompletion=presets)]
StudyName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the study.", autocompletion=studies)]
Data = Annotated[str | None, typer.Option(help="digits, tissue, or a folder of class folders")]
Name = Annotated[str | None, typer.Option(help="Default: preset and data, as in quick-digits.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any field of the study (study help lists them); repeatable.",
        autocompletion=settings,
    ),
]
Groups = Annotated[
    str | None,
    typer.Option(
        help="CSV file, column:NAME, level:2, pattern with (?P<group>...), auto (pixels) or none; else groups.csv."
    ),
]
LabelsFrom = Annotated[str, typer.Option("--labels-from", help="Which folder of a path is the class: first, or last.")]
Without = Annotated[
    list[str] | None, typer.Option("--without", metavar="CLASS", help="A class that is left out; repeatable.")
]
Only = Annotated[
    str | None, typer.Option("--only", metavar="GLOB", help="Names of the files that are taken, such as '*.jpg'.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable files out.")]
Storage = Annotated[str, typer.Option(help="Database of studies: sqlite:///FILE or postgresql+psycopg://...")]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, or by number: cuda:0,cuda:2 (workers spread over all); mps: untested.")
]
Trials = Annotated[int | None, typer.Option(min=1, help="Total number of trials, over all runs and workers.")]
OneDevice = Annotated[str, typer.Option(help="auto, cpu, cuda, or one by number: cuda:1.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes that search at the same time.")]
EngineName = Annotated[
    str,
    typer.Option("--engine", help="What starts workers: local, or ray for a cluster."),
]
Address = Annotated[
    str | None, typer.Option(help="Address of Ray: auto, or ray://HOST:10001. Default: Ray on this machine.")
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(min=0, help="GPUs for each worker on Ray; 0.5: two share one. Default: 1 if there are any."),
]
Hours = Annotated[
    float | None, typer.Option(help="Time for everything, from the command to the exported model; pauses do not count.")
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STUDY",
        help="Try the best points of an older study first: its name, or URL#NAME in another database.",
        autocompletion=studies,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
AsCsv = Annotated[
    bool, typer.Option("--csv", help="CSV on stdout, as it is: cells may begin with =, which spreadsheets run.")
]
CsvSafe = Annotated[bool, typer.Option("--csv-safe", help="CSV whose cells no spreadsheet runs.")]
MaxMegapixels = Annotated[
    float | None,
    typer.Option(min=0, max=1000, help="Larger images count as unreadable; default: as in the study, or 100."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


def help_alone(context: typer.Context) -> None:
    """Print the help if no command was given, and exit with the code of a command line that does not parse."""
    if context.invoked_subcommand is None:
        sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(2)


def group(text: str) -> typer.Typer:
    """Return an app for commands below a common name."""
    return typer.Typer(invoke_without_command=True, callback=help_alone, help=text)


def asked_for(
    file: Path | None,
    preset: str | None,
    data: str | None,
    trials: int | None,
    hours: float | None,
    workers: int | None,
    settings: list[str] | None,
    skip_bad: bool,
    older: str | None,
) -> StudyRequest:
    """Return the study that the options of `run` and `plan` ask for. Raises StudyError."""
    from study.config.resolve import ask, parse_setting

    given: dict[str, JsonValue] = dict(parse_setting(text) for text in settings or [])
    flags: dict[str, JsonValue] = {"preset": preset, "data": data, "trials": trials, "hours": hours}
    flags |= {"workers": workers, "skip_bad": skip_bad or None, "begin_from": older}
    given |= {key: value for key, value in flags.items() if value is not None}
    return ask(file, given)


def choose_devices(name: str) -> tuple[str, ...]:
    """Return the devices that --device names. Raises StudyError if what was asked for is not there."""
    import torch

    from study.budget.load import take_threads
    from study.search.devices import named

    take_threads()
    devices = named(name, torch.cuda.device_count(), mps=torch.backends.mps.is_available())
    if devices == ("mps",):
        logger.warning("--device mps is untested: nobody has tried it with this program (safe: --device cpu)")
    return devices


def choose_device(name: str) -> torch.device:
    """Return the device of a command that uses one: the first that `name` gives. Raises StudyError for a list."""
    import torch

    devices = choose_devices(name)
    if "," in name:
        raise StudyError(f"--device {name}: this command uses one device (for example {devices[0]})")
    return torch.device(devices[0])


def in_words(devices: tuple[str, ...]) -> str:
    """Return the names of the devices, and how many threads there are."""
    import torch

    from data.processes import usable_cpus

    named = ", ".join(torch.cuda.get_device_name(one) if one.startswith("cuda") else one for one in devices)
    return f"device: {named}; {counted(torch.get_num_threads(), 'thread')} of {counted(usable_cpus(), 'processor')}"


def choose_engine(name: str, address: str | None, gpus: float | None, device: str) -> Engine | None:
    """Return the engine that --engine and its options name; None for this machine. Raises StudyError."""
    if name == "ray":
        if device != "auto" and (device, gpus) != ("cpu", 0):
            raise StudyError(
                f"--device {device}: a cluster's workers have the devices that Ray gives them (leave it out; "
                "--gpus-per-worker 0 trains on processors)"
            )
        from study.search.cluster import ray_actors

        return ray_actors(address, gpus)
    if name != "local":
        raise StudyError(f"--engine {name}: unknown (use local or ray)")
    if address is not None or gpus is not None:
        raise StudyError("--address and --gpus-per-worker are for a cluster (add --engine ray)")
    return None
