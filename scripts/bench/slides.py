#!/usr/bin/env python
"""Compare mapping a slide with reading its tiles alone and with the network alone: tiles a second, in turn.

All sides have the same tiles of tissue, in batches; reading is done in the same child processes, the network in threads
as `study predict` does it. On busy processors nobody can be faster than 1 / (1 / reading + 1 / network). The memory is
the peak of this process and of the children, added up (they share pages, which count each time).

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
from study.use.ahead import done_ahead, gpu_lock
from study.use.slides import predicted

SIDES = ("reading alone", "network alone", "map")


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


def rate(side: str, bundle: Bundle, crew: Readers, slide: Slide, places: NDArray[np.int64], field: float) -> Row:
    """Do one side's work for all tiles; return tiles a second and the peak memory."""
    batches = read_batches(crew, slide, places, field, bundle.image_size)
    work = partial(predicted, bundle, gpu_lock(bundle.predictor.mean.device))
    if side == "network alone":
        batches = iter(list(batches))
    start = time.perf_counter()
    if side == "reading alone":
        count = sum(len(images) for _, (images, _) in batches)
    else:
        count = sum(len(found) for _, _, found in done_ahead(work, batches))
    return {"mode": side, "rate": count / (time.perf_counter() - start), "peak": peak_mb(), "tiles": count}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    bundle = load(given.model).to(torch.device("cpu"))
    with readers(usable_cpus()) as crew:
        slide = crew.ask(describe, str(given.slide))
        assert slide.mpp is not None
        image, scale = crew.ask(thumbnail, slide)
        grid = make_grid(slide, find_tissue(image, slide.mpp * scale), given.um / slide.mpp)
        places = grid.places[: given.tiles]
        for number in range(given.runs):
            for side in SIDES:
                yield f"{side} {number + 1}", partial(rate, side, bundle, crew, slide, places, grid.side)


def show(rows: list[Row]) -> str:
    by = {side: np.array([row["rate"] for row in rows if row["mode"] == side]) for side in SIDES}
    reading, network, mapped = (by[side] for side in SIDES)
    sides: list[Row] = [
        {
            "": side,
            "n": len(found),
            "tiles a second": f"{np.median(found):,.0f} ({found.min():,.0f} to {found.max():,.0f})",
        }
        for side, found in by.items()
    ]
    share, bound = mapped / reading, mapped * (1 / reading + 1 / network)
    words = "; ".join(
        f"{what}: median {np.median(found):.2f} ({found.min():.2f} to {found.max():.2f})"
        for what, found in (("map / reading alone", share), ("map / what both allow on one set of processors", bound))
    )
    return f"{rows[0]['tiles']:,} tiles; peak {max(row['peak'] for row in rows):,.0f} MB; {words}\n\n{table(sides)}"


if __name__ == "__main__":
    options = {"model": Path, "slide": Path, "--um": (128.0, "side of a tile, in micrometres")}
    options |= {"--runs": (5, "of each"), "--tiles": (2000, "most tiles")}
    run(__doc__ or "", cells, options, show)
