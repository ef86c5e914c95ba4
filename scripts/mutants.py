#!/usr/bin/env python
"""Do the tests notice? Small changes made by cosmic-ray to product code, each judged by the quick tests of its room.

A sample of all mutants is drawn and kept in a session, a SQLite file; the same command goes on where it was stopped.
Copies of the working tree are changed, never the tree itself. Changes that mean nothing here are not drawn: `|` in
types, and decorators (without @dataclass nothing imports).

Usage: python scripts/mutants.py [--count 150] [--seed 0] [--session mutants.sqlite] [--processes 2] [--rooms A,B]
       [--report]
(needs the extra: pip install -e '.[mutants]')
"""

import argparse
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkItem, WorkResult

ROOT = Path(__file__).resolve().parents[1]

ROOMS: dict[str, list[str]] = {
    "models/scores": ["tests/models/test_evaluation.py", "tests/models/test_views.py"],
    "models/training": ["tests/models/test_training.py", "tests/models/test_memory.py"],
    "data/splits.py": ["tests/data/test_splits.py"],
    "data/batches.py": ["tests/data/test_batches.py"],
    "study/config": ["tests/config"],
    "study/search": ["tests/search", "--ignore", "tests/search/test_upstream.py"],
    "study/storage": ["tests/storage", "--ignore", "tests/storage/test_upstream.py"],
    "study/history": ["tests/history"],
}
"""What is changed -> the tests that should notice."""

MEANINGLESS = re.compile(r"core/(.*BitOr|RemoveDecorator|ReplaceBinaryOperator_\w+_BitOr)")
MOST_SECONDS = 240.0


def room_of(item: WorkItem) -> str:
    path = item.mutations[0].module_path.as_posix()
    return next(room for room in ROOMS if path.startswith(room))


def drawn(count: int, seed: int) -> list[WorkItem]:
    """Mutants spread evenly over the rooms, so that a large room does not stand for all."""
    rng = random.Random(seed)
    found: list[WorkItem] = []
    rooms = list(ROOMS)
    for place, room in enumerate(rooms):
        paths = sorted((ROOT / room).rglob("*.py")) if (ROOT / room).is_dir() else [ROOT / room]
        items = [
            item
            for item in _all_work_items([path.relative_to(ROOT) for path in paths], {})
            if not MEANINGLESS.match(item.mutations[0].operator_name)
        ]
        share = count // len(rooms) + (place < count % len(rooms))
        found += rng.sample(items, min(share, len(items)))
    rng.shuffle(found)  # a part of the run is worth something
    return found


def copied(place: Path) -> Path:
    """The tracked files, as they are now."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    return place


def command(room: str) -> str:
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "'not slow'", "--no-header"]
    return " ".join([sys.executable, "-m", "pytest", *options, *ROOMS[room]])


def judge(place: str, baseline: dict[str, float], item: WorkItem) -> tuple[str, WorkResult]:
    """Run one mutant in this process's copy."""
    os.chdir(Path(place) / str(multiprocessing.current_process()._identity[0]))
    os.environ.update(PYTHONPATH=os.getcwd(), OMP_NUM_THREADS="1")
    room = room_of(item)
    return item.job_id, mutate_and_test(item.mutations, command(room), min(MOST_SECONDS, 30 + 4 * baseline[room]))


def measured(place: Path, rooms: list[str]) -> dict[str, float]:
    """Seconds of each room's tests without a change; they must pass."""
    found = {}
    environment = {**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    for room in rooms:
        start = time.monotonic()
        subprocess.run(command(room), shell=True, cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL)
        found[room] = time.monotonic() - start
        print(f"{room}: its tests take {found[room]:.0f} s", file=sys.stderr, flush=True)
    return found


def run(db: WorkDB, processes: int, rooms: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        baseline = measured(copied(place / "1"), rooms)
        for number in range(2, processes + 1):
            copied(place / str(number))
        pending = [item for item in db.pending_work_items if room_of(item) in rooms]
        work = [(str(place), baseline, item) for item in pending]
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            results = [pool.apply_async(judge, one) for one in work]
            for done, result in enumerate(results, 1):
                job, found = result.get()
                db.set_result(job, found)
                print(f"{done} of {len(work)}: {found.test_outcome}", file=sys.stderr, flush=True)


def report(db: WorkDB) -> None:
    results = dict(db.results)
    counts: dict[str, Counter[bool]] = {room: Counter() for room in ROOMS}
    for item in db.work_items:
        result = results.get(item.job_id)
        if result is None or result.test_outcome is None:
            continue
        noticed = result.test_outcome != TestOutcome.SURVIVED
        counts[room_of(item)][noticed] += 1
        if not noticed:
            lines = [line for line in (result.diff or "").splitlines()[3:] if line[:1] in "+-@"]
            print(f"{item.mutations[0].module_path} {item.mutations[0].operator_name}", *lines, sep="\n  ")
    for room, count in counts.items():
        print(f"{room:20} {count[True]:4} of {count.total():4} noticed")
    total = sum(counts.values(), Counter())
    share = 100 * total[True] / max(1, total.total())
    print(f"{'all':20} {total[True]:4} of {total.total():4} noticed ({share:.0f} %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--session", type=Path, default=Path("mutants.sqlite"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rooms", help="only these, by comma")
    parser.add_argument("--report", action="store_true", help="of a session, without going on")
    given = parser.parse_args()
    new = not given.session.exists()
    with use_db(given.session) as db:
        if new:
            db.add_work_items(drawn(given.count, given.seed))
        if not given.report:
            run(db, given.processes, given.rooms.split(",") if given.rooms else list(ROOMS))
        report(db)


if __name__ == "__main__":
    main()
