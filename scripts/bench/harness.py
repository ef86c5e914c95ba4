"""Harness of all benchmarks: options, the machine and the date, rows that outlive a stop, and tables.

A benchmark yields its cells one after another, each with a name and the work that measures it. With `--keep FILE` each
row is added to a file as soon as it is known, and after a stop the same command goes on after the last row.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Row = dict[str, Any]
Cell = tuple[str, Callable[[], Row]]
"""Cell of a benchmark: a name, unique in a call, and the function that measures a row: column -> number or text."""

Show = Callable[[list[Row]], str]


def run(
    about: str,
    cells: Callable[[argparse.Namespace], Iterable[Cell]],
    options: Mapping[str, Any] | None = None,
    show: Show | None = None,
) -> None:
    """Measure all cells and print them: a Markdown table (or what `show` makes of the rows), or JSON with --json.

    `options`: name -> a default; a default and its help; a type, if there is no default; or settings for argparse.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, wanted in (options or {}).items():
        parser.add_argument(name, **(wanted if isinstance(wanted, dict) else _settings(name, wanted)))
    parser.add_argument("--json", action="store_true", help="all rows as JSON")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="rows are added here, and gone on with after a stop")
    given = parser.parse_args()
    chosen = {name: value for name, value in vars(given).items() if name not in ("json", "keep") and value is not None}
    settings = {name: " ".join(map(str, one)) if isinstance(one, list) else str(one) for name, one in chosen.items()}
    rows = _measured(cells(given), given.keep, {name: one for name, one in settings.items() if name != "only"})
    shown = show(rows) if show else table(rows)
    if given.json:
        found = {"machine": machine(), "date": str(date.today()), "given": settings, "rows": rows, "shown": shown}
        print(json.dumps(found))
        return
    print("; ".join([f"{date.today()}, {machine()}", *(f"{name} {value}" for name, value in settings.items())]))
    print(f"\n{shown}")


def _settings(name: str, wanted: Any) -> dict[str, Any]:
    """Return the settings of an option for argparse."""
    if isinstance(wanted, type):
        return {"type": wanted}
    default, said = wanted if isinstance(wanted, tuple) else (wanted, None)
    if default is False:
        return {"action": "store_true", "help": said}
    several = isinstance(default, list)
    nargs = "*" if several else None if name.startswith("-") else "?"
    return {"type": type(default[0] if several else default), "nargs": nargs, "default": default, "help": said}


def among(names: Iterable[str], mark: str = ",") -> Mapping[str, Any]:
    """Make an option that takes some of these names, separated by `mark`; by default all of them."""
    known = list(names)

    def some(text: str) -> list[str]:
        if unknown := [name for name in text.split(mark) if name not in known]:
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r} (there are: {', '.join(known)})")
        return text.split(mark)

    return {"type": some, "default": known, "help": f"of {mark.join(known)}"}


def _measured(cells: Iterable[Cell], keep: Path | None, settings: dict[str, str]) -> list[Row]:
    """Measure all rows; those that were kept with the same settings are not measured again."""
    kept = [json.loads(line) for line in keep.read_text().splitlines()] if keep and keep.exists() else []
    known = {one["row"]["name"]: one["row"] for one in kept if one.get("settings") == settings}
    rows = []
    for name, work in cells:
        if name not in known:
            print(f"{name} ...", file=sys.stderr, flush=True)
            known[name] = {"name": name, **work()}
            if keep:
                with keep.open("a") as file:
                    file.write(json.dumps({"settings": settings, "row": known[name]}) + "\n")
        rows.append(known[name])
    return rows


def machine() -> str:
    """Describe the machine: processor, cores, load, and the versions that times depend on."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    model = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")] or [platform.machine()]
    found = f"{os.cpu_count()} cores of {model[0]}, load {os.getloadavg()[0]:.1f}, torch {version('torch')}"
    if torch := sys.modules.get("torch"):
        found += f", {torch.get_num_threads()} threads"
        found += f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return found


def table(rows: list[Row]) -> str:
    """Format rows as a Markdown table with a column for each key of any row."""
    head = list(dict.fromkeys(key for row in rows for key in row))
    lines = [head, ["---"] * len(head), *([cell(row.get(key, "")) for key in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def turned(rows: list[Row]) -> str:
    """Format rows as a Markdown table with a line for each key: for a few long rows."""
    keys = dict.fromkeys(key for row in rows for key in row if key != "name")
    return table([{"": key, **{row["name"]: row.get(key, "") for row in rows}} for key in keys])


def cell(value: object) -> str:
    """Format a number with three significant digits, and anything else as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def seconds(work: Callable[[], object]) -> float:
    """Measure the wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(rows: list[Row], *by: str) -> list[Row]:
    """Merge rows that agree in the columns `by`: of other numbers show the median, the smallest and the largest."""
    alike: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        alike.setdefault(tuple(row[key] for key in by), []).append(row)
    found = []
    for key, some in alike.items():
        numbers = [name for name, value in some[0].items() if isinstance(value, int | float) and name not in by]
        spreads = {name: spread([row[name] for row in some]) for name in numbers}
        found.append({**dict(zip(by, key, strict=True)), "n": len(some), **spreads})
    return found


def spread(values: list[float]) -> str:
    """Format the median, and the smallest and largest: 1.2 (1.1 to 1.9)."""
    ends = f" ({cell(min(values))} to {cell(max(values))})" if len(values) > 1 else ""
    return cell(statistics.median(values)) + ends


def paired(ours: ArrayLike, theirs: ArrayLike, groups: ArrayLike | None = None) -> tuple[float, float, float]:
    """Compute the difference of accuracies in points and its 95 % interval, by drawing whole groups (2,000 times)."""
    difference = 100 * (np.asarray(ours, float) - np.asarray(theirs, float))
    _, group = np.unique(np.arange(len(difference)) if groups is None else groups, return_inverse=True)
    sums, sizes = np.bincount(group, difference), np.bincount(group)
    picks = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    low, high = np.percentile(sums[picks].sum(1) / sizes[picks].sum(1), [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def between(mean: float, low: float, high: float, digits: int = 1) -> str:
    """Format a difference with its interval: +1.2 (-0.3 to +2.7)."""
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
