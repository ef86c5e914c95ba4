#!/usr/bin/env python
"""Check whether studies end when they were told to: on a quiet machine, and while other processes are busy.

Each row is one `study run --hours` of 90 to 120 seconds in a place of its own, with the images decoded anew. There are
three conditions: quiet; two busy processes from the beginning; four that begin at a random moment (between 10 and 80 %
of the hours) and stay. `in time` means that the study ended with a model between 75 % of the hours and 5 seconds after
the hours, or earlier with all its trials done. --only names folders that are used in addition to the embedded images;
each of their images is its own source, because finding sources in the pixels takes as long as it takes.

Usage: python scripts/bench/hours.py [--each 8] [--conditions quiet,busy,later] [--only DIR ...] [--keep FILE]
"""

import argparse
import contextlib
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness import Cell, Row, among, run

from models.bundle.card import StudyCard
from models.bundle.folder import read_card
from study.result.shipped import FINISHED

CONDITIONS = ("quiet", "busy", "later")
BUSY, LATER = 2, 4
"""Number of busy processes that run from the beginning, and from a random moment on."""
EARLY, LATE, GRACE = 0.75, 1.0, 5.0
"""Shares of the hours between which a study should end, and seconds of grace after the later one."""
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    data = [*(str(Path(one).resolve()) for one in given.only), "digits", "tissue"]
    for condition in given.conditions:
        for number in range(given.each):
            source = data[number % len(data)]
            seconds = given.seconds * (1 + number / 3 / max(1, given.each - 1))
            name = f"{condition} {number}, {Path(source).name}, {seconds:.0f} s"
            yield name, partial(measured, condition, number, source, seconds)


def measured(condition: str, seed: int, source: str, seconds: float) -> Row:
    """Run one study, and report how it ended."""
    with tempfile.TemporaryDirectory() as place, beside(condition, seed, seconds):
        command = [sys.executable, "-m", "study", "run", "--preset", "auto", "--data", source, "--name", "s"]
        command += ["--hours", str(seconds / 3600), "--set", f"seed={seed}"]
        command += ["--set", "groups=none"] if Path(source).is_dir() else []
        root = str(Path(__file__).resolve().parents[2])
        began = time.perf_counter()
        code, said, silence = heard(command, place, {**os.environ, "PYTHONPATH": root})
        took = time.perf_counter() - began
        row: Row = {"condition": condition, "data": Path(source).name, "hours, s": round(seconds), "took, s": took}
        row["share, %"] = round(100 * took / seconds, 1)
        model = Path(place, "runs", "s", "model")
        row["model"] = "yes" if (model / FINISHED).exists() and code == 0 else f"no ({code})"
        if row["model"] == "yes":
            row |= ended(read_card(model, StudyCard), said)
        else:
            sys.stderr.write(said[-2000:])
        whole = row.get("trials") == row.get("of")
        timely = EARLY * seconds <= took <= LATE * seconds + GRACE or (whole and took <= LATE * seconds + GRACE)
        row["in time"] = "yes" if timely and row["model"] == "yes" else "no"
        row["longest silence, s"] = round(silence, 1)
        return row


def ended(card: StudyCard, said: str) -> Row:
    """Return the result of the study, and what it left out."""
    left = re.findall(r"^(.*) is left out", said, re.MULTILINE)
    planned = card.study.config["final_epochs"]
    return {
        "trials": card.study.trials,
        "of": card.study.config["trials"],
        "final epochs": f"{card.final.epochs} (planned {planned})",
        "left out": "; ".join([*left, *(f"{name}: {why}" for name, why in card.not_compared.items())]) or "nothing",
        "test, %": round(100 * card.test.accuracy, 1),
    }


def heard(command: list[str], place: str, environment: dict[str, str]) -> tuple[int, str, float]:
    """Run a command; return its exit code, its log, and the longest time in seconds without a line of the log."""
    process = subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines, last, silence = [], time.perf_counter(), 0.0
    for line in process.stderr:
        now = time.perf_counter()
        silence, last = max(silence, now - last), now
        lines.append(line)
    code = process.wait()
    return code, "".join(lines), max(silence, time.perf_counter() - last)


@contextlib.contextmanager
def beside(condition: str, seed: int, seconds: float) -> Iterator[None]:
    """Keep processes busy, as the condition says, while the context lasts."""
    wait = 0.0 if condition == "busy" else random.Random(seed).uniform(0.1, 0.8) * seconds
    count = {"quiet": 0, "busy": BUSY, "later": LATER}[condition]
    started: list[subprocess.Popen[bytes]] = []
    ended = threading.Event()

    def go() -> None:
        if not ended.wait(wait):
            started.extend(subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count))

    starter = threading.Thread(target=go)
    starter.start()
    try:
        yield
    finally:
        ended.set()
        starter.join()
        for process in started:
            process.kill()
            process.wait()


if __name__ == "__main__":
    options = {
        "--each": (8, "studies of each condition"),
        "--seconds": (90.0, "hours of the shortest; the longest has a third more"),
        "--conditions": among(CONDITIONS),
        "--only": {"nargs": "*", "default": [], "metavar": "DIR", "help": "folders beside the embedded images"},
    }
    run(__doc__ or "", cells, options)
