"""What people expect of any command: `study --version` and `study help`."""

import os
from importlib.metadata import version
from typing import Annotated

import torch
import typer
from rich.table import Table
from rich.text import Text

from study.cli.complete import fields
from study.cli.display import out, plain
from study.cli.options import choose_devices, help_alone
from study.config.fields import describe, names


def versions() -> str:
    """This program's version, with what its numbers depend on."""
    devices = [torch.cuda.get_device_name(one) if one.startswith("cuda") else one for one in choose_devices("auto")]
    needed = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "optuna"))
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} processors"
    return f"archstudy {version('archstudy')} ({needed}); device: {', '.join(devices)}; {threads}"


def root(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Versions of this program, torch and Optuna, and the device.")
    ] = False,
) -> None:
    """Without a command: the help."""
    if show_version:
        out.print(versions(), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit
    help_alone(context)


def help_of(
    context: typer.Context,
    field: Annotated[
        str | None, typer.Argument(metavar="FIELD", help="Without it: all fields.", autocompletion=fields)
    ] = None,
) -> None:
    """What a field of a study means, its default, and what it may be."""
    if field is None:
        table = Table(box=None, show_header=False, pad_edge=False)
        for name in names():
            table.add_row(name, Text(describe(name).meaning))
        out.print(table)
        return
    found = describe(field)
    presets = ", ".join(f"{preset} {value}" for preset, value in found.presets.items() if value != found.default)
    lines = {
        "default": found.default + (f"  (presets: {presets})" if presets else ""),
        "allowed": found.allowed,
        "example": f"study run {found.example}",
        "later": "may change when a study goes on" if found.changes else "defines a study: fixed once it exists",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in lines.items():
        table.add_row(f"    {key}", Text(plain(value)))
    out.print(Text(found.name, style="bold"), Text(f"    {plain(found.meaning)}"), table, sep="\n")
