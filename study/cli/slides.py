"""The work and the output of `study predict` on whole slides."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import typer

from data import counted
from data.processes import usable_cpus
from data.slides.found import find_slides
from data.slides.readers import readers
from models.bundle.card import percent
from models.bundle.folder import load
from study.cli.console import err, one_line, print_table
from study.cli.display import show
from study.use.predict import threshold_of
from study.use.slides import MapOptions, SlideMap, map_slides


def predict_slides(
    model: Path,
    places: Sequence[Path],
    out: Path,
    mpp: float | None,
    um: float | None,
    set_level: float | None,
    device: torch.device,
    *,
    as_json: bool,
) -> None:
    """Map slides, and print what was found in each; exit code 1 if one could not be mapped, or not as a whole."""
    bundle = load(model).to(device)
    threshold = threshold_of(bundle.card.conformal if bundle.card else None, set_level)
    done: list[SlideMap] = []
    failed = 0
    stdout = sys.stdout  # while the progress is shown, rich replaces sys.stdout
    with show(err) as display, readers(usable_cpus()) as crew:
        slides = find_slides(places, crew)
        wishes = MapOptions(out=out, mpp=mpp, um=um, threshold=threshold)
        for one in map_slides(bundle, slides, wishes, crew, display.images):
            if isinstance(one, SlideMap):
                done.append(one)
                note = " (done before)" if one.done_before else ""
                display.line(f"{one_line(one.slide)}: {counted(one.tiles, 'tile')} in {one.table}{note}")
                failed += one.unreadable > 0
            else:
                found, error = one
                failed += 1
                display.line(one_line(f"{found.name}: {error}"))
    if as_json:
        rows = [{**asdict(one), "table": str(one.table)} for one in done]
        stdout.write(json.dumps(rows, indent=2) + "\n")
    elif done:
        head = ("slide", "tiles", "unreadable", "classes")
        print_table(head, [(one_line(one.slide), one.tiles, one.unreadable, _shares(one)) for one in done])
        err.print(f"beside each table: .heatmap.png, .geojson (for QuPath) and .json, in {out}", markup=False)
    if failed:
        err.print(f"{failed} of {counted(len(slides), 'slide')} could not be read, or not as a whole", markup=False)
        raise typer.Exit(1)


def _shares(one: SlideMap) -> str:
    """Return the shares of the classes, the largest first."""
    found = sorted(one.shares.items(), key=lambda pair: -pair[1])
    return one_line(", ".join(f"{name} {percent(share)}" for name, share in found if share))
