"""Slides as data: tiles of annotated slides become a folder of class folders, with their sources and their field."""

import csv
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data import DataError, Progress, counted
from data.cache import publish
from data.layout.names import normal, refuse_alike
from data.layout.tables import read_table
from data.slides.annotations import Annotations, raster, read_annotations
from data.slides.batches import read_batches
from data.slides.facts import TILES, TileFacts
from data.slides.found import FoundSlide, find_slides
from data.slides.grid import make_grid
from data.slides.readers import Readers
from data.slides.slide import Slide, describe, thumbnail
from data.slides.tissue import find_tissue

KEY = ".patients.key"
"""File with the key of the hashes that stand for patients and slides."""
LABELLED = 0.75
"""Least share of a tile that must be annotated with one class."""
CELLS = 16
"""Cells along the side of a tile, in which annotations are looked up."""
SMALLEST, LARGEST = 32, 512
"""Fewest and most pixels along the side of a tile's file."""
QUALITY = 95
"""Quality of the JPEGs of tiles."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """One slide to be cut into tiles."""

    slide: FoundSlide
    label: str | None  # class of the whole slide, if it has no annotations
    patient: str  # the slide's own name, if nobody says whose it is
    annotations: Path | None


@dataclass(frozen=True, kw_only=True)
class CutSlide:
    """What became of a slide."""

    slide: str
    tiles: dict[str, int]  # class -> tiles
    left_out: dict[str, int]  # reason -> tiles or annotations
    error: str = ""


def find_rows(folder: Path, table: Path | None, crew: Readers) -> list[SlideRow]:
    """Return the slides of a folder with what is known of each, by a table (slide, class, patient) or GeoJSON files.

    The table is `slides.csv` in the folder unless another is given. Raises DataError.
    """
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder} (give a folder of slides)")
    slides = find_slides([folder], crew)
    usual = folder / "slides.csv"
    named = _named(table or usual, slides) if table or usual.is_file() else {}
    rows, without, stems = [], [], _stems(slides)
    for one in slides:
        cells = named.get(one.name, {})
        stem = Path(one.name).stem
        beside = (folder / f"{name}.geojson" for name in (one.name, *([stem] if stems[normal(stem)] else [])))
        drawn = next((file for file in beside if file.is_file()), None)
        label = (cells.get("class") or cells.get("label") or "").strip()
        patient = (cells.get("patient") or "").strip()
        if not label and drawn is None:
            without.append(one.name)
            continue
        rows.append(SlideRow(slide=one, label=normal(label) or None, patient=patient or one.name, annotations=drawn))
    if not rows:
        raise DataError(
            f"no slide in {folder} has a class: name them in slides.csv (columns slide, class, patient), or lay "
            f"QuPath's annotations beside them ({without[0]}.geojson)"
        )
    if without:
        logger.warning(f"{counted(len(without), 'slide')} left out without class and annotations, such as {without[0]}")
    return rows


def _stems(slides: Sequence[FoundSlide]) -> dict[str, str]:
    """Return name of a slide without its ending (see names.normal) -> name of the slide; "" where several have it."""
    found: dict[str, str] = {}
    for one in slides:
        stem = normal(Path(one.name).stem)
        found[stem] = "" if stem in found else one.name
    return found


def _named(table: Path, slides: Sequence[FoundSlide]) -> dict[str, dict[str, str | None]]:
    """Return the rows of a table by the name of the slide. Raises DataError."""
    try:
        found = read_table(table)
    except OSError as error:
        raise DataError(f"cannot read {table}: {error.strerror}") from error
    if "slide" not in found.columns:
        raise DataError(f"{table} has no column slide (columns: slide, class, patient)")
    stems = _stems(slides)
    there = {stem: name for stem, name in stems.items() if name} | {normal(one.name): one.name for one in slides}
    rows: dict[str, dict[str, str | None]] = {}
    for line, cells in found.rows:
        name = normal(cells.get("slide") or "")
        if name not in there and name in stems:
            raise DataError(
                f"{table}, line {line}: several slides are called {name!r} (write the ending of the file, too)"
            )
        if name not in there:
            raise DataError(f"{table}, line {line}: no slide is called {name!r}")
        if there[name] in rows:
            raise DataError(f"{table}, line {line}: {name!r} is named twice")
        rows[there[name]] = cells
    refuse_alike((cells.get("patient") or "" for cells in rows.values()), "patients", table)  # P01 and p01
    return rows


def cut(
    rows: Sequence[SlideRow],
    out: Path,
    crew: Readers,
    *,
    um: float,
    most: int,
    mpp: float | None = None,
    progress: Progress | None = None,
) -> list[CutSlide]:
    """Write the tiles of slides as class folders, with groups.csv by patient, and TILES.

    The folder is complete or absent. `um`: side of a tile in micrometres; `most`: most tiles of a slide; `mpp`:
    micrometres of a pixel where a slide says none. Names of slides and patients are keyed hashes. Raises DataError if
    nothing could be cut.
    """
    if out.exists():
        raise DataError(f"{out} is there already (name another folder, or remove it)")
    found: list[CutSlide] = []

    def write(part: Path) -> None:
        key = _make_key(part / KEY)
        with (part / "groups.csv").open("w", newline="", encoding="utf-8") as handle:
            described = [_described(crew, row, mpp) for row in rows]
            finest = max((slide.mpp or 0.0 for slide in described if isinstance(slide, Slide)), default=0.0)
            size = min(LARGEST, max(SMALLEST, round(um / finest))) if finest else SMALLEST
            groups = csv.writer(handle, lineterminator="\n")
            groups.writerow(["path", "group"])
            for number, (row, slide) in enumerate(zip(rows, described, strict=True)):
                crew.forgive()
                try:
                    if isinstance(slide, DataError):
                        raise slide
                    found.append(_cut_one(crew, row, slide, part, key, um, size, most, groups))
                except DataError as error:
                    found.append(CutSlide(slide=row.slide.name, tiles={}, left_out={}, error=str(error)))
                if progress:
                    progress("slides", number + 1, len(rows))
        count = sum(sum(one.tiles.values()) for one in found)
        if not count:
            why = next((one.error for one in found if one.error), "no tile is of one class alone")
            raise DataError(f"no tile could be cut from {counted(len(rows), 'slide')}: {why}")
        facts = TileFacts(um=um, pixels=size, slides=sum(bool(one.tiles) for one in found), tiles=count)
        (part / TILES).write_text(json.dumps(facts.model_dump(), indent=2) + "\n", encoding="utf-8")

    publish(out, write)
    return found


def _make_key(file: Path) -> bytes:
    """Write a new random key that only its owner may read."""
    key = secrets.token_bytes(32)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(key)
    return key


def _hashed(key: bytes, text: str) -> str:
    """Return a keyed hash of a name: without the key nobody can try all numbers of patients."""
    return hmac.new(key, text.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:12]


def _described(crew: Readers, row: SlideRow, mpp: float | None) -> Slide | DataError:
    try:
        slide = crew.ask(describe, str(row.slide.path))
        if slide.mpp is None and mpp:
            slide = crew.ask(describe, str(row.slide.path), mpp)
    except DataError as error:
        return error
    if slide.mpp is None:
        return DataError("it does not say how large a pixel is (say how many micrometres: --mpp 0.25)")
    return slide


def _cut_one(
    crew: Readers,
    row: SlideRow,
    slide: Slide,
    part: Path,
    key: bytes,
    um: float,
    size: int,
    most: int,
    groups: Any,
) -> CutSlide:
    """Write the tiles of one slide, chosen at random where there are more than `most`."""
    assert slide.mpp is not None
    side = um / slide.mpp
    image, scale = crew.ask(thumbnail, slide)
    grid = make_grid(slide, find_tissue(image, slide.mpp * scale), side)
    left_out: Counter[str] = Counter()
    if row.annotations is None:
        labels = np.full(len(grid.places), row.label or "", object)
    else:
        annotations = read_annotations(row.annotations, slide.bounds[:2])
        left_out.update({f"annotations {why}": count for why, count in annotations.left_out.items()})
        labels = _labels(annotations, slide, grid.places, side)
        left_out.update({"tiles not of one class": int((labels == "").sum())})
    chosen = np.flatnonzero(labels != "")
    if len(chosen) > most:
        left_out["tiles beyond the most"] = len(chosen) - most
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:most])
    places, mine, name = grid.places[chosen], labels[chosen], _hashed(key, f"slide {row.slide.name}")
    patient = _hashed(key, f"patient {row.patient}")
    made: Counter[str] = Counter()
    for at, (tiles, errors) in read_batches(crew, slide, places, side, size):
        for number, tile in enumerate(tiles):
            if number in errors:
                left_out["unreadable tiles"] += 1
                continue
            x, y = places[at + number].tolist()
            label = str(mine[at + number])
            path = f"{folder_name(label)}/{name}-{x}-{y}.jpg"
            (part / path).parent.mkdir(exist_ok=True)
            Image.fromarray(tile).save(part / path, quality=QUALITY)
            groups.writerow([path, patient])
            made[label] += 1
    return CutSlide(
        slide=row.slide.name, tiles=dict(made), left_out={why: count for why, count in left_out.items() if count}
    )


def _labels(annotations: Annotations, slide: Slide, places: NDArray[np.int64], side: float) -> NDArray[np.object_]:
    """Return the class of each tile [N], "" where less than LABELLED of it is annotated with one class."""
    cell = side / CELLS
    cells = raster(annotations, slide.width, slide.height, cell)
    found = np.full(len(places), "", object)
    for number, (x, y) in enumerate(places.tolist()):
        left, top = round(x / cell), round(y / cell)
        inside = cells[top : top + CELLS, left : left + CELLS]
        counts = np.bincount(inside.ravel(), minlength=2)[1:]
        if counts.size and counts.max() >= LABELLED * CELLS**2:
            found[number] = annotations.classes[int(counts.argmax())]
    return found


def folder_name(label: str) -> str:
    """Return the name of a class's folder: nothing that a stranger wrote leads out of the folder of tiles."""
    name = re.sub(r"[^\w ()+,&=-]", "_", label).strip()
    return name if name == label else f"{name}_{hashlib.sha256(label.encode()).hexdigest()[:8]}"  # others may be alike
