#!/usr/bin/env python
"""Gain of a second worker: the same study of small networks by one worker and by two, on the processor.

The search is random and without pruning, so that both train the same networks for the same epochs. Timed are whole
commands, from start to exported model, and the search in them; one worker has all cores, two share them.

Usage: python scripts/bench/workers.py [--trials 300] [--runs 2] [--json]      (eight minutes on 2 cores)
"""

import argparse
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harness import Cell, Row, medians, run, table

SETTINGS = ["sampler=random", "pruner=none", "final_epochs=1", "image_size=8", "space.num_conv_blocks=[1,2,3]"]


def measure(workers: int, trials: int) -> Row:
    """Measure the seconds of one whole command in an empty folder (with images decoded before), and of its search."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "study", "run", "--preset", "quick", "--data", "digits", "--device", "cpu"]
        for setting in SETTINGS:
            command += ["--set", setting]
        warm = [*command, "--trials", "1", "--name", "warm", "--set", "epochs=1", "--set", "min_epochs=1"]
        subprocess.run(warm, cwd=folder, check=True, capture_output=True)
        start = time.perf_counter()
        once = [*command, "--trials", str(trials), "--name", "s", "--workers", str(workers)]
        subprocess.run(once, cwd=folder, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        with sqlite3.connect(Path(folder) / "optuna.db") as connection:
            (search,) = connection.execute(
                "SELECT 86400 * (max(julianday(datetime_complete)) - min(julianday(datetime_start))) "
                "FROM trials JOIN studies USING (study_id) WHERE study_name = 's'"
            ).fetchone()
            (epochs,) = connection.execute("SELECT count(*) FROM trial_intermediate_values").fetchone()
    return {"workers": workers, "command s": seconds, "search s": search, "epochs": epochs - 1}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    for number in range(given.runs):
        for workers in (1, 2):
            yield f"run {number + 1}, {workers} workers", partial(measure, workers, given.trials)


def show(rows: list[Row]) -> str:
    def median(key: str, workers: int) -> float:
        return statistics.median(row[key] for row in rows if row["workers"] == workers)

    command, search = (median(key, 1) / median(key, 2) for key in ("command s", "search s"))
    return f"{table(medians(rows, 'workers'))}\n\nGain of the medians: {command:.2f}, of the search {search:.2f}"


if __name__ == "__main__":
    run(__doc__ or "", cells, {"--trials": 300, "--runs": 2}, show)
