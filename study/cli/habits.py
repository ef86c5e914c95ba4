"""Answers that people expect of any command: `study --version` and `study help`."""

import platform
from importlib.metadata import version
from typing import Annotated

import typer

from study.cli.complete import fields
from study.cli.console import out, plain
from study.cli.options import help_alone


def versions() -> str:
    """Return this program's version and those that its results depend on; none of them is imported."""
    needed = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "optuna"))
    return f"archstudy {version('archstudy')} ({needed}; Python {platform.python_version()})"


def root(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Versions of this program, torch, Optuna and Python.")
    ] = False,
) -> None:
    """Print the versions, or without a command the help."""
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
    from rich.table import Table
    from rich.text import Text

    from study.config.fields import describe, names

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
