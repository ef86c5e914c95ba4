#!/usr/bin/env python
"""What a second worker is worth: the same study of small networks by one worker and by two, on the processor.

Random search without pruning, so that both train the same networks for the same epochs. Whole commands are timed, from
start to exported model, and the search in them; one worker has all cores, two share them.

Usage: python scripts/bench_workers.py [--trials 300] [--runs 2] [--json]      (eight minutes on 2 cores)
"""

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = ["sampler=random", "pruner=none", "final_epochs=1", "image_size=8", "space.num_conv_blocks=[1,2,3]"]


def measure(workers: int, trials: int) -> dict[str, float]:
    """Seconds of one whole command in an empty folder (the images are decoded before), and of its search."""
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
    return {"seconds": seconds, "search": search, "epochs": epochs - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for run in range(given.runs):
        for workers in found:
            found[workers].append(measure(workers, given.trials))
            print(f"run {run + 1}, {workers} workers: {found[workers][-1]}", file=sys.stderr)
    medians = {
        workers: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        for workers, runs in found.items()
    }
    gain = {key: medians[1][key] / medians[2][key] for key in ("seconds", "search")}
    if given.json:
        print(json.dumps({"runs": found, "medians": medians, "gain": gain}, indent=2))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, n = {given.runs}, medians")
    print(f"{'':10} {'command':>10} {'search':>10} {'epochs':>8}")
    for workers, row in medians.items():
        print(f"{workers} workers  {row['seconds']:8.1f} s {row['search']:8.1f} s {row['epochs']:8.0f}")
    print(f"{'gain':10} {gain['seconds']:9.2f}x {gain['search']:9.2f}x")


if __name__ == "__main__":
    main()
