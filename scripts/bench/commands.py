#!/usr/bin/env python
"""Processor seconds of short commands, from the start of Python to its end, compared with another checkout.

The commands of both sides run in turn, in a folder with a small study that this checkout made.

Usage: python scripts/bench/commands.py [--other CHECKOUT] [--runs 5]         (two minutes; CHECKOUT has its own .venv)
"""

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness import Cell, Row, run

HERE = Path(__file__).resolve().parents[2]
COMMANDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "study --version": (["--version"], {}),
    "study --help": (["--help"], {}),
    "study resume <TAB>": (
        [],
        {"_STUDY_COMPLETE": "complete_bash", "COMP_WORDS": "study resume ", "COMP_CWORD": "2"},
    ),
    "study help epochs": (["help", "epochs"], {}),
    "study status": (["status"], {}),
    "study sql best-per-depth": (["sql", "best-per-depth"], {}),
    "study db copy": (["db", "copy", "optuna.db", "copied.db"], {}),
    "study run --data nowhere": (["run", "--data", "nowhere"], {}),
}
"""Commands: name -> (words after `study`, variables that are added to the environment)."""


def spent(checkout: Path, words: list[str], more: dict[str, str], place: str) -> float:
    """Measure the processor seconds of one command."""
    Path(place, "copied.db").unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [checkout / ".venv" / "bin" / "study", *words], cwd=place, env={**os.environ, **more}, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def command(checkouts: dict[str, Path], name: str, runs: int, place: str) -> Row:
    """Measure a command on each side: the median and the largest of its runs."""
    found: dict[str, list[float]] = {side: [] for side in checkouts}
    for _ in range(runs + 1):
        for side, checkout in checkouts.items():
            found[side].append(spent(checkout, *COMMANDS[name], place))
    return {side: f"{statistics.median(each[1:]):.2f} (at most {max(each[1:]):.2f})" for side, each in found.items()}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    checkouts = {**({"other": given.other.resolve()} if given.other else {}), "here": HERE}
    with tempfile.TemporaryDirectory() as place:
        small = ("final_epochs=1", "epochs=2", "min_epochs=1", "space.base_filters=4", "pretrained=false")
        words = ["run", "--preset", "quick", "--data", "digits", "--name", "s", "--trials", "2", "--quiet"]
        words += [word for setting in small for word in ("--set", setting)]
        subprocess.run([HERE / ".venv" / "bin" / "study", *words], cwd=place, check=True, capture_output=True)
        for name in given.commands:
            yield name, partial(command, checkouts, name, given.runs, place)


if __name__ == "__main__":
    run(
        __doc__ or "",
        cells,
        {
            "--other": {"type": Path, "help": "another checkout, with its own .venv"},
            "--runs": {"type": int, "default": 5},
            "--commands": {"nargs": "+", "default": list(COMMANDS), "choices": list(COMMANDS)},
        },
    )
