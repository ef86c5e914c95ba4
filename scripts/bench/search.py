#!/usr/bin/env python
"""Replay search strategies on recorded learning curves (`curves.py`), in simulated time: what is a search worth?

Time is counted in full trainings: 36 epochs of the point whose epoch is the median of its task. Each strategy gets the
same time and ends with one network, whose accuracy on test is compared (balanced accuracy if classes are of unequal
size). Between two recorded lengths the accuracy is interpolated on the logarithm. Drawn points come in a random order,
and each figure is a mean over some orders. Differences are paired over tasks; their interval is over tasks.

Usage: python scripts/bench/search.py [TABLE.json.gz] [--orders 20] [--json]          (seconds)
"""

import argparse
import gzip
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Cell, Row, run, table

TABLE = Path(__file__).resolve().parents[2] / "tests" / "curves.json.gz"
TIMES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Times, in full trainings, that a strategy gets."""
ETA = 3
ENOUGH = 0.15
"""Share of the time that is kept for scores and export."""


@dataclass(frozen=True)
class Task:
    """Task with its recorded trainings: (point, length) -> row."""

    name: str
    rows: dict[tuple[int, int], Row]

    @property
    def lengths(self) -> list[int]:
        return sorted({length for _, length in self.rows})

    @property
    def points(self) -> list[int]:
        return sorted({point for point, _ in self.rows})

    @property
    def begun(self) -> list[int]:
        """Points that somebody would begin with."""
        return [point for point in self.points if self.rows[point, self.lengths[0]]["begun"]]

    @property
    def full(self) -> float:
        """Seconds of a full training."""
        return float(np.median([self.lengths[-1] * self.epoch(point) for point in self.points]))

    def epoch(self, point: int) -> float:
        return float(self.rows[point, self.lengths[0]]["seconds"])

    def val(self, point: int, length: int, epoch: int) -> float:
        """Return the metric on val after an epoch of a training of this length; 0 once the training has diverged."""
        values = self.rows[point, length]["val"]
        return float(values[epoch - 1]) if epoch <= len(values) else 0.0

    def test(self, point: int, length: float) -> float:
        """Return the accuracy on test after a training of any length; below the shortest length, the metric on val."""
        known = self.lengths
        if length < known[0]:
            return self.val(point, known[0], int(length)) if length >= 1 else 0.0
        scores = [self._test(point, one) for one in known]
        return float(np.interp(math.log(length), np.log(known), scores))

    def _test(self, point: int, length: int) -> float:
        row = self.rows[point, length]
        return float(row["balanced" if row["metric"] == "balanced_accuracy" else "test"])


Strategy = Callable[[Task, float, np.random.Generator], float]
"""Strategy: (task, seconds, generator that orders the drawn points) -> score of the network that it ends with."""


def recipe(task: Task, seconds: float, _: np.random.Generator, point: int = 1) -> float:
    """Train one point for all of the time."""
    return task.test(point, (1 - ENOUGH) * seconds / task.epoch(point))


def searched(
    task: Task,
    seconds: float,
    rng: np.random.Generator,
    *,
    share: float = 0.6,
    trainings: float = 8.0,
    stretch: float = 3.0,
    drawn: bool = True,
) -> float:
    """Try points in turn for `share` of the time, stopped at rungs as in halving; then train the best by val for good.

    A trial is as long as possible if `trainings` of its length are to fit into the share. The final training is
    `stretch` times as long, or as long as there is time.
    """
    usual = task.full / task.lengths[-1]
    fits = [one for one in task.lengths if trainings * one * usual <= share * seconds]
    length = fits[-1] if fits else task.lengths[0]
    queue = [*task.begun, *(rng.permutation([one for one in task.points if one not in task.begun]) if drawn else [])]
    rungs = [rung for rung in (1, 3, 9) if rung < length]
    seen: dict[int, list[float]] = {rung: [] for rung in rungs}
    spent, best, value = 0.0, int(queue[0]), -1.0
    for point in map(int, queue):
        reached = length
        for rung in rungs:
            seen[rung].append(task.val(point, length, rung))
            better = sum(one > seen[rung][-1] for one in seen[rung])
            if better >= max(1, len(seen[rung]) // ETA):
                reached = rung
                break
        cost = reached * task.epoch(point)
        if spent + cost > share * seconds and value >= 0:
            break
        spent += cost
        if reached == length and task.val(point, length, length) > value:
            best, value = point, task.val(point, length, length)
    left = (1 - ENOUGH) * seconds - spent
    return task.test(best, min(stretch * length, max(1.0, left / task.epoch(best))))


def raced(
    task: Task, seconds: float, _: np.random.Generator, *, first: int = 3, share: float = 0.5, points: Any = None
) -> float:
    """Race the points that somebody would begin with.

    All are trained for a few epochs, a third of them for longer, and so on; the best one gets the rest of the time.
    """
    left, alive, length = (1 - ENOUGH) * seconds, list(points or task.begun), first
    while len(alive) > 1:
        cost = sum(length * task.epoch(point) for point in alive)
        while len(alive) > 1 and cost > share * left:  # only the first ones fit into the time
            cost -= length * task.epoch(alive.pop())
        if len(alive) == 1:
            break
        left -= cost
        alive.sort(key=lambda point: -task.val(point, length, length))
        alive = alive[: max(1, len(alive) // ETA)]
        longer = [one for one in task.lengths if one > length]
        if not longer:
            break
        length = longer[0]
    return task.test(alive[0], max(1.0, left / task.epoch(alive[0])))


STRATEGIES: dict[str, Strategy] = {
    "recipe": recipe,
    "today: 0.6, 8 trainings, final 2 to 3 times": searched,
    "final as long as there is time": partial(searched, stretch=100.0),
    "0.4, 8, all that is left": partial(searched, share=0.4, stretch=100.0),
    "0.4, 4, all that is left": partial(searched, share=0.4, trainings=4.0, stretch=100.0),
    "0.25, 4, all that is left": partial(searched, share=0.25, trainings=4.0, stretch=100.0),
    "starts alone, 0.6, 8, all that is left": partial(searched, stretch=100.0, drawn=False),
    "starts alone, 0.4, 4, all that is left": partial(searched, share=0.4, trainings=4.0, stretch=100.0, drawn=False),
    "race, half of what is left a round": raced,
    "race, a third of what is left a round": partial(raced, share=0.33),
    "race, a fifth of what is left a round": partial(raced, share=0.2),
    "race of the first four": partial(raced, points=[0, 1, 2, 3]),
    "race of the others' best six": "portfolio",  # type: ignore[dict-item]
}


def portfolio(tasks: list[Task], size: int = 6) -> list[int]:
    """Choose points that are best together on these tasks: repeatedly the one that adds most at 18 epochs."""
    chosen: list[int] = []
    everywhere = sorted(set.intersection(*(set(task.points) for task in tasks)))
    while len(chosen) < size:
        added = {
            one: np.mean([max(task.test(point, 18) for point in [*chosen, one]) for task in tasks])
            for one in everywhere
            if one not in chosen
        }
        chosen.append(max(added, key=lambda one: added[one]))
    return chosen


def replayed(name: str, task: Task, tasks: list[Task], orders: int) -> Row:
    """Replay a strategy on a task: its score by time, a mean over orders."""
    strategy: Any = STRATEGIES[name]
    if strategy == "portfolio":
        others = [one for one in tasks if one.name != task.name] or tasks
        strategy = partial(raced, points=portfolio(others))
    row: Row = {"strategy": name, "task": task.name}
    for time in TIMES:
        found = [strategy(task, time * task.full, np.random.default_rng(seed)) for seed in range(orders)]
        row[f"{time:g}"] = float(np.mean(found))
    return row


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    rows = json.loads(gzip.decompress(Path(given.table).read_bytes()))
    names = dict.fromkeys(row["task"] for row in rows)
    tasks = [Task(name, {(row["point"], row["length"]): row for row in rows if row["task"] == name}) for name in names]
    for name in STRATEGIES:
        for task in tasks:
            yield f"{name}, {task.name}", partial(replayed, name, task, tasks, given.orders)


def show(rows: list[Row]) -> str:
    base = {row["task"]: row for row in rows if row["strategy"] == "recipe"}
    lines = []
    for name in dict.fromkeys(row["strategy"] for row in rows):
        some = [row for row in rows if row["strategy"] == name]
        line: Row = {"strategy": name}
        for time in (f"{one:g}" for one in TIMES):
            gained = [100 * (row[time] - base[row["task"]][time]) for row in some]
            half = 1.96 * float(np.std(gained, ddof=1)) / math.sqrt(len(gained)) if len(gained) > 1 else 0.0
            line[f"{time} trainings"] = f"{100 * np.mean([row[time] for row in some]):.1f}"
            line[f"{time}: minus the recipe"] = f"{np.mean(gained):+.1f} ± {half:.1f}"
        lines.append(line)
    return f"{len(base)} tasks: {', '.join(base)}\n\n{table(lines)}"


if __name__ == "__main__":
    run(__doc__ or "", cells, {"table": str(TABLE), "--orders": (20, "orders of the drawn points")}, show)
