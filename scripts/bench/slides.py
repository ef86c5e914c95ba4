#!/usr/bin/env python
"""Compare mapping a slide with reading its tiles alone: tiles a second, in turn, in the same processes.

Both read the same tiles of tissue in the same child processes; the map's side also predicts them, on one thread of this
process. The memory is the peak of this process and of the children, added up (they share pages, which count each time).

Usage: python scripts/bench/slides.py MODEL SLIDE --um 128 [--runs 5] [--tiles 2000] [--json]   (a minute or two)
"""

import argparse
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import Cell, Row, run, table
from numpy.typing import NDArray

from data.processes import usable_cpus
from data.slides.batches import read_batches
from data.slides.grid import make_grid
from data.slides.readers import Readers, readers
from data.slides.slide import Slide, describe, thumbnail
from data.slides.tissue import find_tissue
from models.bundle.folder import load
from models.bundle.predictor import Bundle


def peak_mb() -> float:
    """Return the peak memory (VmHWM) of this process and its children, in MB."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if os.getpid() in (int(lines["Pid"]), int(lines["PPid"])) or _grandparent(lines["PPid"].strip()) == os.getpid():
            total += int(lines.get("VmHWM", "0 kB").split()[0])
    return total / 1024


def _grandparent(process: str) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def rate(
    bundle: Bundle, crew: Readers, slide: Slide, places: NDArray[np.int64], side: float, *, predicted: bool
) -> Row:
    """Read all tiles, and predict them if wished; return tiles a second and the peak memory."""
    start, count = time.perf_counter(), 0
    for _, (images, _) in read_batches(crew, slide, places, side, bundle.image_size):
        if predicted:
            bundle.predict(images)
        count += len(images)
    mode = "map" if predicted else "reading alone"
    return {"mode": mode, "rate": count / (time.perf_counter() - start), "peak": peak_mb(), "tiles": count}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    bundle = load(given.model).to(torch.device("cpu"))
    torch.set_num_threads(1)
    with readers(usable_cpus()) as crew:
        slide = crew.ask(describe, str(given.slide))
        assert slide.mpp is not None
        image, scale = crew.ask(thumbnail, slide)
        grid = make_grid(slide, find_tissue(image, slide.mpp * scale), given.um / slide.mpp)
        places = grid.places[: given.tiles]
        for number in range(given.runs):
            for predicted in (False, True):
                name = f"{'map' if predicted else 'reading alone'} {number + 1}"
                yield name, partial(rate, bundle, crew, slide, places, grid.side, predicted=predicted)


def show(rows: list[Row]) -> str:
    by = {mode: [row["rate"] for row in rows if row["mode"] == mode] for mode in ("reading alone", "map")}
    shares = [mine / alone for alone, mine in zip(by["reading alone"], by["map"], strict=False)]
    lines: list[Row] = [
        {
            "": mode,
            "n": len(found),
            "tiles a second": f"{np.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})",
        }
        for mode, found in by.items()
    ]
    words = f"map / reading alone: median {np.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
    return f"{rows[0]['tiles']:,} tiles; peak {max(row['peak'] for row in rows):,.0f} MB; {words}\n\n{table(lines)}"


if __name__ == "__main__":
    options = {"model": Path, "slide": Path, "--um": (128.0, "side of a tile, in micrometres")}
    options |= {"--runs": (5, "of each"), "--tiles": (2000, "most tiles")}
    run(__doc__ or "", cells, options, show)
