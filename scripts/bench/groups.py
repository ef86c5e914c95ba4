"""Judge `find_groups` on a folder with groups.csv (path, label, group_id).

.venv/bin/python scripts/bench/groups.py DIR [--processes 1 2] [--halves] [--second]
"""

import argparse
import csv
import os
import resource
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from harness import Cell, Row, run, turned
from numpy.typing import NDArray

from data.grouping.find import find_groups
from data.grouping.leak import share_with_sibling
from data.splits import SHARES, Parts, make_parts

SEEDS = 20


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    with (given.folder / "groups.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    paths = np.array([given.folder / row["path"] for row in rows])
    labels = np.array([row.get("label") or row["path"].split("/")[0] for row in rows])
    ids = [(a, row.get("group_id") or row.get("group")) for a, row in zip(labels, rows, strict=True)]
    truth = np.array([{key: i for i, key in enumerate(dict.fromkeys(ids))}[key] for key in ids])
    subsets = [np.arange(len(paths))]
    if given.halves:
        subsets.insert(0, np.sort(np.random.default_rng(0).choice(len(paths), len(paths) // 2, replace=False)))
    for subset in subsets:
        some = (list(paths[subset]), labels[subset], truth[subset])
        for processes in given.processes:
            name = f"{len(subset)} images, {processes} processes"
            second = given.second and len(subset) == len(paths) and processes == given.processes[-1]
            yield name, partial(measure, *some, processes, second)


def measure(paths: list[Path], labels: NDArray[np.str_], truth: NDArray[np.int64], processes: int, second: bool) -> Row:
    """Seconds and memory, and what the groups are worth."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    found = find_groups(paths, processes=processes)
    result: Row = {
        "seconds": round(time.perf_counter() - start, 1),
        "CPU seconds": round(sum(os.times()[:4]) - before, 1),  # the machine may be shared
        "peak MB, this process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        "peak MB, largest child": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1000,
        "method": found.method,
        "duplicate sets": len(found.duplicates),
        **judged(found.group, truth, labels),
    }
    if second:
        for name, group in (("random", np.arange(len(truth))), ("found", found.group), ("true", truth)):
            held = held_out(group, labels, 0)
            result[f"second detector, {name} split"] = share_with_sibling(paths, held, processes=processes)
    return result


def judged(group: NDArray[np.int64], truth: NDArray[np.int64], labels: NDArray[np.str_]) -> Row:
    """Pair precision and recall of the partition, and what its splits leak."""
    both, ours, theirs = (pairs(x) for x in (np.stack([group, truth], 1), group[:, None], truth[:, None]))
    merged = Counter(np.unique(np.stack([group, truth], axis=1), axis=0)[:, 0].tolist())
    families = {"all": np.ones(len(labels), bool)} | {
        name: np.char.startswith(labels, name) for name in sorted({str(x).split("_")[0] for x in labels})
    }
    result: Row = {
        "images": len(group),
        "groups found": int(group.max()) + 1,
        "true groups": len(np.unique(truth)),
        "largest": int(np.bincount(group).max()),
        "found groups holding several true ones": sum(n > 1 for n in merged.values()),
        "true groups in several found ones": sum(len(np.unique(group[truth == t])) > 1 for t in np.unique(truth)),
        "pair precision": round(both / max(ours, 1), 4),
        "pair recall": round(both / max(theirs, 1), 4),
    }
    for name, split in (("found", group), ("random", np.arange(len(group)))):
        shares: dict[str, list[float]] = {key: [] for key in families}
        off = 0.0
        for seed in range(SEEDS):
            parts = parts_of(split, labels, seed)
            held = held_out(split, labels, seed)
            leaks = np.isin(truth, truth[~held])
            for key, member in families.items():
                shares[key].append(float(leaks[held & member].mean()))
            off = max(off, *(abs(len(getattr(parts, part)) / len(group) - share) for part, share in SHARES.items()))
        result |= {f"% held out with sibling, {name}, {k}": spread(v) for k, v in shares.items()}
        result[f"a part's share off by at most, points, {name}"] = round(100 * off, 2)
    return result


def spread(values: list[float]) -> str:
    return f"{100 * np.mean(values):.2f} (max {100 * np.max(values):.2f})"


def pairs(keys: NDArray[np.int64]) -> int:
    """Pairs of images with the same key [N, D]."""
    counts = np.unique(keys, axis=0, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def held_out(group: NDArray[np.int64], labels: NDArray[np.str_], seed: int) -> NDArray[np.bool_]:
    """The test part that a study with this seed would make of these groups."""
    held = np.zeros(len(group), bool)
    held[parts_of(group, labels, seed).test] = True
    return held


def parts_of(group: NDArray[np.int64], labels: NDArray[np.str_], seed: int) -> Parts:
    names, index = np.unique(labels, return_inverse=True)
    return make_parts(index, group, names.tolist(), [str(i) for i in range(len(group))], seed)


if __name__ == "__main__":
    halves, second = (False, "time half of the images too"), (False, "ask the second detector too")
    options = {"folder": Path, "--processes": [2], "--halves": halves, "--second": second}
    run(__doc__ or "", cells, options, turned)
