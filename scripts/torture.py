"""Kills studies with SIGKILL, again and again, and checks that nothing was lost, doubled or repeated.

Each round is one study of one, two or four workers, every fourth of them by hours. Its processes die at every named
point, before and after it, and at random moments, workers and parents; then it is left alone to finish. Prints how
often each point was hit. The studies are in SQLite files, or with `--server` in PostgreSQL, each in a new database.

    .venv/bin/python scripts/torture.py               # 15 rounds, at least 210 kills at named points
    .venv/bin/python scripts/torture.py --rounds 3    # one of each size
    .venv/bin/python scripts/torture.py --server postgresql+psycopg://USER@HOST/DATABASE
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import killer

TRIALS = 48
WORKER_POINTS = ("checkpoint", "report", "rung", "tell")
FIRST_POINTS = ("cache",)
LAST_POINTS = ("opening", "model")
NAMES = {"opening": "test opening", "model": "bundle write", "cache": "cache write"}
RANDOM_KILLS = 5
HOURS = 0.2
"""Hours of those studies that are given any: more than they take, so that they end by trials and give the same."""


def new_database(server: str) -> str:
    """Make a database beside one of a server; return its address."""
    place = sqlalchemy.make_url(server)
    name = f"torture{time.monotonic_ns()}"
    with sqlalchemy.create_engine(place, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    return place.set(database=name).render_as_string(hide_password=False)


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


class Round:
    """One study in one folder, and what became of it."""

    def __init__(
        self,
        folder: Path,
        images: Path,
        workers: int,
        rng: random.Random,
        *,
        by_hours: bool = False,
        server: str | None = None,
    ) -> None:
        from tests.conftest import tiny_options

        self.folder = folder
        self.workers = workers
        self.rng = rng
        self.by_hours = by_hours
        options = tiny_options(images, trials=TRIALS, checkpoint_seconds=0)
        options += ["--hours", str(HOURS)] if by_hours else []
        self.url = new_database(server) if server else f"sqlite:///{folder}/optuna.db"
        self.command = ["run", "--name", "s", "--workers", str(workers), "--storage", self.url, *options]
        self.random: Counter[str] = Counter()
        self.allowed = 0  # epochs that may be trained again
        self.reports = 0  # when the last process was killed
        self.errors: list[str] = []

    def killed(self) -> list[str]:
        return lines(self.folder / "kills.log")

    def start(self, plan: killer.Plan | None = None, crew: list[killer.Plan | None] | None = None) -> Any:
        point, when, count = plan or (None, "before", 1)
        return killer.start(self.command, self.folder, point, when, count, crew=crew, watched=True)

    def at_points(self, plans: list[killer.Plan], *, in_crew: bool) -> None:
        """Die at each of the points; a plan that the study was too short for is left for another round."""
        if in_crew and self.workers > 1:  # one after the other, each in a worker that replaces the last
            before = len(self.killed())
            process = self.start(crew=list(plans))
            while process.exitcode is None and len(self.killed()) < before + len(plans):
                process.join(0.02)
            self.end(process)
            return
        for plan in plans:
            self.finish(self.start(plan))

    def finish(self, process: Any) -> None:
        process.join(120)
        if process.exitcode not in (0, -signal.SIGKILL):
            self.errors.append(f"exit code {process.exitcode}: {lines(self.folder / 'output.log')[-1:]}")
        if process.exitcode == -signal.SIGKILL:
            self.allowed += self.workers

    def get_further(self, process: Any) -> None:
        """Wait for a report: a trial that kills three workers at one place is given up, and rightly so."""
        while process.exitcode is None and killer.reports(self.folder, self.url) == self.reports:
            process.join(0.02)
        self.reports = killer.reports(self.folder, self.url)

    def end(self, process: Any) -> None:
        """Kill the parent at a random moment soon."""
        self.get_further(process)
        process.join(self.rng.uniform(0, 0.3))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            self.random["parent" if self.workers > 1 else "only worker"] += 1
        self.finish(process)

    def at_random(self) -> None:
        """Kill a worker or the parent whenever it happens."""
        process = self.start()
        process.join(self.rng.uniform(0.1, 0.6))
        workers = [pid for pid in map(int, lines(self.folder / "workers.log")) if Path(f"/proc/{pid}").exists()]
        if process.exitcode is None and workers and self.rng.random() < 0.5:
            with suppress(ProcessLookupError):
                os.kill(self.rng.choice(workers), signal.SIGKILL)
                self.random["worker"] += 1
                self.allowed += 1
        self.end(process)

    def check(self, undisturbed: Any) -> None:
        """Let the study end; write down everything that is not as it should be."""
        self.finish(self.start())
        self.errors += lines(self.folder / "wrong.log")
        with sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool).connect() as connection:
            states = Counter(connection.scalars(sqlalchemy.text("SELECT CAST(state AS TEXT) FROM trials")))
            leases = connection.scalar(sqlalchemy.text("SELECT count(*) FROM leases"))
            numbers = connection.scalar(sqlalchemy.text("SELECT count(DISTINCT number) FROM trials"))
            sqlite = self.url.startswith("sqlite")
            verdict = connection.scalar(sqlalchemy.text("PRAGMA integrity_check")) if sqlite else "ok"
        if set(states) - {"COMPLETE", "PRUNED"} or states.total() != TRIALS or numbers != TRIALS:
            self.errors.append(f"trials: {dict(states)}, {numbers} numbers")
        if verdict != "ok" or leases:
            self.errors.append(f"integrity_check {verdict}, {leases} leases left")
        self.allowed += sum(entry.split()[0] in WORKER_POINTS for entry in self.killed()) if self.workers > 1 else 0
        epochs = Counter(lines(self.folder / "epochs.log"))
        self.repeated = epochs.total() - len(epochs)
        if self.repeated > self.allowed:
            self.errors.append(f"{self.repeated} epochs were trained again, {self.allowed} might have been")
        if list((self.folder / "runs" / "s" / "checkpoints").glob("*")):
            self.errors.append("checkpoints are left behind")
        result = outcome(self.folder, self.url)
        for trial, steps in result["given up"]:  # others may have got further meanwhile
            begun = lines(self.folder / "runs.log")
            if self.workers == 1 or begun.count(f"{trial} {steps}") < 2:
                self.errors.append(f"trial {trial} was given up after {steps} epochs")
        if result["openings"] != 1:
            self.errors.append(f"the test part was opened {result['openings']} times")
        if self.by_hours:
            clock, planned = result["clock"], result["planned"]
            if clock["holder"] is not None or not 0 < clock["seconds"] < 3600 * HOURS or not planned:
                self.errors.append(f"clock {clock}, planned {planned}")
        if self.workers == 1 and {**result, **NO_TIME} != {**undisturbed, **NO_TIME}:
            self.errors.append("the result is not that of an undisturbed run")


NO_TIME = {"clock": None, "planned": None}


def outcome(folder: Path, url: str) -> dict[str, Any]:
    """What must not depend on interruptions."""
    from study.storage.door import load_study, open_storage

    study = load_study(open_storage(url, create=False, write=False), "s")
    card = json.loads((folder / "runs" / "s" / "model" / "card.json").read_text())
    return {
        "trials": [(one.number, one.state, one.value, one.params, one.intermediate_values) for one in study.trials],
        "given up": [
            (one.number, len(one.intermediate_values))
            for one in study.trials
            if one.user_attrs.get("why") == "worker_died"
        ],
        "weights": card["weights_sha256"],
        "test": card["test"],
        "openings": len(study.user_attrs["openings"]),
        "clock": study.user_attrs["clock"],
        "planned": study.user_attrs.get("planned"),
    }


def plans_for(points: tuple[str, ...], rng: random.Random) -> list[killer.Plan]:
    """Each point once before and once after it; a trial gets further in between, see get_further."""
    counts = (2, 3) if points == WORKER_POINTS else (1, 1)  # the others are called once
    plans = [(point, when, rng.randint(*counts)) for point in points for when in ("before", "after")]
    rng.shuffle(plans)
    return plans


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", help="a PostgreSQL database, on whose server a new one is made for each study")
    given = parser.parse_args()
    from data.datasets import embedded
    from tests.conftest import shrink

    root = Path(tempfile.mkdtemp(prefix="torture"))
    images = shrink(embedded("digits", root / "cache"), root / "four", classes=4, each=40)
    killer.run(["--help"], root)  # starts the fork server
    calm = Round(root, images, 1, random.Random(0), server=given.server)
    calm.finish(calm.start())
    undisturbed = outcome(root, calm.url)

    named: Counter[str] = Counter()
    moments: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    errors: list[str] = []
    began = time.monotonic()
    number = 0
    wanted = {f"{point} {when}" for point in WORKER_POINTS + FIRST_POINTS + LAST_POINTS for when in ("before", "after")}
    while number < given.rounds or min(named[point] for point in wanted) < min(10, given.rounds):
        rng = random.Random(1000 * given.seed + number)
        folder = root / f"round-{number}"
        folder.mkdir()
        one = Round(folder, images, (1, 2, 4)[number % 3], rng, by_hours=number % 4 == 1, server=given.server)
        one.at_points(plans_for(FIRST_POINTS, rng), in_crew=False)
        plans = plans_for(WORKER_POINTS, rng)
        for start in range(0, len(plans), 3):  # of a study that is not over yet
            one.at_points(plans[start : start + 3], in_crew=True)
        for _ in range(RANDOM_KILLS):
            one.at_random()
        one.at_points(plans_for(LAST_POINTS, rng), in_crew=False)
        one.check(undisturbed)
        named.update(one.killed())
        moments.update(one.random)
        sizes[one.workers] += len(one.killed()) + one.random.total()
        errors += [f"round {number} ({one.workers} workers): {error}" for error in one.errors]
        print(
            f"round {number}: {one.workers} workers, {len(one.killed())} kills at points, {one.random.total()} at "
            f"random moments, {one.repeated} epochs trained again ({one.allowed} allowed), {len(one.errors)} errors",
            flush=True,
        )
        number += 1
        if number > 3 * given.rounds + 3:
            errors.append(f"some points were hardly ever reached: {named}")
            break

    seconds = time.monotonic() - began
    print(f"\n{named.total()} kills at named points, {moments.total()} at random moments, {seconds:.0f} s")
    for point in sorted(wanted):
        name, when = point.rsplit(" ", 1)
        print(f"  {when:6} {NAMES.get(name, name):13} {named[point]}")
    for name, count in sorted(moments.items()):
        print(f"  random {name:13} {count}")
    print("  kills in studies of " + ", ".join(f"{size} workers: {count}" for size, count in sorted(sizes.items())))
    print("\n".join(errors) if errors else "no error")
    shutil.rmtree(root)
    return 1 if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
