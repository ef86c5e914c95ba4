"""Whole studies on several folders: whether they keep to the hours, and how the model compares with trees and a rival.

.venv/bin/python scripts/bench/folders.py DIR... --minutes 10 --keep folders.jsonl

Which images share a source is read from DIR/groups.csv or DIR_true_sources.csv (path, source), or else found from the
pixels. Each folder is one `study run --hours`; with --keep the same command goes on after a stop, and further folders
can be added.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness import Cell, Row, run

from models.bundle.card import StudyCard
from models.bundle.folder import read_card


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    for folder in given.only:
        place = Path(folder).resolve()
        yield f"{place.name}, {given.minutes:g} min", partial(measured, place, given.minutes)


def measured(folder: Path, minutes: float) -> Row:
    """Run one study of a folder, in a temporary place of its own."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "study", "run", "--data", str(folder), "--name", "s"]
        command += ["--hours", str(minutes / 60), "--quiet", *known_groups(folder, Path(place))]
        root = str(Path(__file__).resolve().parents[2])
        began = time.perf_counter()
        subprocess.run(command, cwd=place, env={**os.environ, "PYTHONPATH": root}, check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - began
        return row_of(read_card(Path(place, "runs", "s", "model"), StudyCard), seconds, minutes)


def known_groups(folder: Path, place: Path) -> list[str]:
    """Return the options that give the command the sources of the images, if a list lies beside the folder."""
    listed = folder.with_name(f"{folder.name}_true_sources.csv")
    if (folder / "groups.csv").is_file() or not listed.is_file():
        return []
    with listed.open(newline="", encoding="utf-8") as read, (place / "groups.csv").open("w", newline="") as write:
        rows = [(row["path"], row["source"]) for row in csv.DictReader(read)]
        csv.writer(write).writerows([("path", "group"), *rows])
    return ["--set", f"groups={place / 'groups.csv'}"]


def row_of(card: StudyCard, seconds: float, minutes: float) -> Row:
    """Make a row of what the model card says, and of the time."""
    data, test = card.data, card.test
    row: Row = {
        "images": data.images,
        "classes": len(card.classes),
        "groups": data.groups,
        "groups from": data.groups_from,
        "seconds": round(seconds, 1),
        "of the hours, %": round(100 * seconds / (60 * minutes), 1),
        "trials": card.study.trials,
        "test images": test.images,
        "test accuracy": percent(test.accuracy, test.accuracy_interval),
        "balanced": round(100 * test.balanced_accuracy, 1),
    }
    for name in ("trees", "pretrained"):
        found = next((one for one in card.comparison if one.name.startswith(name)), None)
        row[name] = percent(found.accuracy, found.accuracy_interval) if found else "not compared"
    return row


def percent(share: float, interval: tuple[float, float]) -> str:
    """Format an accuracy with its interval, in percent."""
    return f"{100 * share:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


if __name__ == "__main__":
    # The option is named "only", so that rows of other folders that were kept stay valid.
    folders = {"nargs": "+", "metavar": "DIR", "help": "folders of class folders"}
    run(__doc__ or "", cells, {"only": folders, "--minutes": (10.0, "of each study")})
