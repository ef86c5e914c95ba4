"""Judge `find_groups` on folders whose sources are known, all with the same settings.

.venv/bin/python scripts/bench/groups.py DIR... [digits] [tissue] [shapes] [--sizes 2500 5000] [--second]

Which images share a source is read from DIR/groups.csv (path, label, group_id) or DIR_true_sources.csv (path, source);
without either, and for the embedded digits and drawn shapes, each image is a source of its own.
"""

import argparse
import csv
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from harness import Cell, Row, run, turned
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data import DataError
from data.datasets import embedded
from data.grouping.find import find_groups
from data.grouping.leak import share_with_sibling
from data.splits import make_parts

SEEDS = 20
SHAPES = 240

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Known:
    """Images whose sources are known."""

    name: str
    paths: list[Path]
    labels: NDArray[np.str_]
    truth: Ints  # [N], number of the source of each image

    def some(self, count: int) -> "Known":
        """Draw `count` of the images at random."""
        chosen = np.sort(np.random.default_rng(0).choice(len(self.paths), min(count, len(self.paths)), replace=False))
        return Known(self.name, [self.paths[i] for i in chosen], self.labels[chosen], self.truth[chosen])


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    for name in given.folders:
        known = read(name)
        for size in given.sizes or [len(known.paths)]:
            for processes in given.processes:
                some = known.some(size)
                title = f"{some.name}, {len(some.paths)}" + (f", {processes} processes" if given.processes[1:] else "")
                yield title, partial(measure, some, processes, given.second)


def read(name: str) -> Known:
    """Read a folder, an embedded dataset or drawn shapes, with what is known of the sources."""
    place = Path(tempfile.gettempdir()) / "bench-groups"
    folder = Path(name)
    if name in ("digits", "tissue"):
        folder = embedded(name, place)
    elif name == "shapes":
        folder = draw_shapes(place / f"shapes-{SHAPES}")
    lists = {folder / "groups.csv": "group", folder.with_name(f"{folder.name}_true_sources.csv"): "source"}
    for listed, column in lists.items():
        if listed.is_file():
            with listed.open(newline="", encoding="utf-8") as handle:
                rows = list(csv.DictReader(handle))
            # A group_id counts anew for each label.
            ids = [
                f"{row.get('label', '')}/{row['group_id']}" if "group_id" in row else row.get("group") or row[column]
                for row in rows
            ]
            paths = [folder / row["path"] for row in rows]
            break
    else:
        paths = sorted(path for path in folder.glob("*/*") if path.is_file())
        ids = [str(path) for path in paths]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(ids))}
    labels = np.array([path.parent.name for path in paths])
    return Known(folder.name, paths, labels, np.array([numbers[key] for key in ids]))


def draw_shapes(folder: Path) -> Path:
    """Draw triangles and circles, each of one colour, on white; none is drawn twice."""
    rng = np.random.default_rng(0)
    for number in range(SHAPES):
        image = Image.new("RGB", (96, 96), "white")
        pen, colour = ImageDraw.Draw(image), tuple(rng.integers(0, 200, 3).tolist())
        if number % 2:
            pen.polygon([tuple(point) for point in rng.uniform(8, 88, (3, 2)).tolist()], fill=colour)
        else:
            radius = float(rng.uniform(8, 30))
            x, y = rng.uniform(radius, 96 - radius, 2).tolist()
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        path = folder / ("triangle" if number % 2 else "circle") / f"{number:03d}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)
    return folder


def measure(known: Known, processes: int, second: bool) -> Row:
    """Find the groups, and measure how good they are and what they took."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    found = find_groups(known.paths, processes=processes)
    seconds, busy = time.perf_counter() - start, sum(os.times()[:4]) - before
    result: Row = {
        **judged(found.group, known),
        "likeness asked for": round(found.limit, 2) if found.told else "cannot tell",
        "pairs registered": found.tried,
        "seconds": round(seconds, 1),
        "CPU seconds": round(busy, 1),  # the machine may be shared
        "images/s": round(len(known.paths) / seconds, 1),
        "peak MB, this process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        "peak MB, largest child": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1000,
    }
    if second:
        splits = {"random": np.arange(len(known.truth)), "found": found.group, "true": known.truth}
        for name, group in splits.items():
            held = held_out(group, known.labels, 0)
            share = None if held is None else share_with_sibling(known.paths, held, processes=processes).share
            result[f"second detector, {name} split, %"] = "cannot tell" if share is None else round(100 * share, 1)
    return result


def judged(group: Ints, known: Known) -> Row:
    """Count the pairs that were joined rightly and wrongly, and how much splits by these groups leak."""
    truth = known.truth
    both, ours, theirs = (pairs(x) for x in (np.stack([group, truth], 1), group[:, None], truth[:, None]))
    sizes = np.bincount(group)
    result: Row = {
        "images": len(group),
        "groups (true)": f"{len(sizes)} ({len(np.unique(truth))})",
        "largest": int(sizes.max()),
        "% of images in groups larger than one": round(100 * float((sizes[group] > 1).mean()), 2),
        "% of true pairs joined": round(100 * both / theirs, 2) if theirs else "no such pairs",
        "% of joined pairs wrong": round(100 * (ours - both) / ours, 2) if ours else "none joined",
    }
    for name, split in (("found", group), ("random", np.arange(len(group)))):
        shares = []
        for seed in range(SEEDS):
            held = held_out(split, known.labels, seed)
            if held is not None:
                shares.append(100 * float(np.isin(truth[held], truth[~held]).mean()))
        said = f"{np.mean(shares):.2f} ({np.max(shares):.2f})" if shares else "no such split"
        result[f"% held out with a true sibling, {name}: mean (worst of {SEEDS})"] = said
    return result


def pairs(keys: Ints) -> int:
    """Count the pairs of images with the same key; `keys`: [N, D]."""
    counts = np.unique(keys, axis=0, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def held_out(group: Ints, labels: NDArray[np.str_], seed: int) -> NDArray[np.bool_] | None:
    """Return the test part that a study with this seed would make of these groups; None if it refuses them."""
    names, index = np.unique(labels, return_inverse=True)
    try:
        parts = make_parts(index, group, names.tolist(), [str(i) for i in range(len(group))], seed)
    except DataError:
        return None
    held = np.zeros(len(group), bool)
    held[parts.test] = True
    return held


if __name__ == "__main__":
    options = {
        "folders": {"nargs": "+", "help": "folders, digits, tissue or shapes"},
        "--processes": [2],
        "--sizes": {"nargs": "*", "type": int, "help": "so many of the images, drawn at random; all by default"},
        "--second": (False, "ask the second detector too"),
    }
    run(__doc__ or "", cells, options, turned)
