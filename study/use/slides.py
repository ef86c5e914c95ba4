"""A map of a slide: each tile of its tissue is labelled by a saved model, and written as a table, picture and outlines.

The table is written as it grows, in whole batches, so that a command that was killed goes on where it was and ends with
the same bytes.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from data import DataError, Progress
from data.slides.batches import BATCH, Batch, read_batches
from data.slides.found import FoundSlide
from data.slides.grid import Grid, make_grid
from data.slides.readers import Readers
from data.slides.slide import Slide, describe, thumbnail
from data.slides.tissue import find_tissue
from models import files
from models.bundle.predictor import Bundle
from models.scores.conformal import abstains, prediction_sets
from models.scores.intervals import Interval, accuracy_interval
from study import StudyError
from study.use.ahead import done_ahead, gpu_lock
from study.use.outlines import outlines
from study.use.slide_picture import picture

AT_ONCE = 4
"""Tiles that a network predicts at once, always the same, since sums depend on it in the last digit.

More would take memory, and are no faster on processors."""
BLOCK_UM = 1000.0
"""Side of the blocks, in micrometres, that count as one piece of evidence in an interval."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SlideMap:
    """Files that were written for a slide, and what is in them."""

    slide: str
    table: Path
    tiles: int
    unreadable: int
    shares: dict[str, float]  # class -> share of the tiles that could be read
    done_before: bool  # by an earlier command


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """What the user wants to have of the slides."""

    out: Path
    mpp: float | None  # micrometres of a pixel, if the user says so
    um: float | None  # side of a tile in micrometres, if the user says so
    threshold: float | None  # that of prediction sets


def map_slides(
    bundle: Bundle, slides: Sequence[FoundSlide], wishes: MapOptions, crew: Readers, progress: Progress | None = None
) -> Iterator[SlideMap | tuple[FoundSlide, DataError]]:
    """Map slides one after another; yield for each its map, or the error that ended it. Raises StudyError."""
    side = tile_side(bundle, wishes.um)
    try:
        wishes.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"cannot make the folder {wishes.out}: {error.strerror} (name another with --out)") from error
    for one in slides:
        crew.forgive()
        try:
            yield _mapped(bundle, one, side, wishes, crew, progress)
        except DataError as error:
            yield one, error


def tile_side(bundle: Bundle, um: float | None) -> float:
    """Return the side of a tile in micrometres: the user's, else that of the training images. Raises StudyError."""
    trained = bundle.card.data.field_um if bundle.card and bundle.card.data else None
    side = um or trained
    if side is None:
        raise StudyError(
            "it is not known how much tissue the training images of this model show "
            "(say how many micrometres one is wide: --um 128)"
        )
    if um and trained and abs(um - trained) > 0.01 * trained:
        logger.warning(
            f"tiles of {um:g} µm, but the training images show {trained:g} µm: the scores in the card do not hold"
        )
    return side


def _mapped(
    bundle: Bundle, found: FoundSlide, side: float, wishes: MapOptions, crew: Readers, progress: Progress | None
) -> SlideMap:
    path, name = found.path, found.name
    slide = crew.ask(describe, str(path), wishes.mpp)
    if slide.mpp is None:
        raise DataError("it does not say how large a pixel is (say how many micrometres: --mpp 0.25)")
    if "roughly" in slide.mpp_from:
        logger.warning(f"{name}: {slide.mpp:g} µm a pixel, by {slide.mpp_from} (--mpp says it exactly)")
    identity = _identity(bundle, path, slide, side, wishes)
    table = wishes.out / f"{name}.tiles.csv"
    facts = _facts(wishes.out / f"{name}.json")
    if facts.get("identity") == identity and table.is_file():
        return _told(name, table, facts, done_before=True)
    image, scale = crew.ask(thumbnail, slide)
    mask = find_tissue(image, slide.mpp * scale)
    grid = make_grid(slide, mask, side / slide.mpp)
    if not len(grid.places):
        raise DataError("no tissue was found")
    part = wishes.out / f"{name}.{identity[:16]}.part"
    tell = None if progress is None else partial(progress, f"{name}: tiles")
    rows = _grown(bundle, slide, grid, wishes.threshold, part, table, crew, tell)
    named = np.array([bundle.classes.index(row[LABEL]) if row[LABEL] else -1 for row in rows])
    files.write(wishes.out / f"{name}.geojson", outlines(named, grid, slide.bounds, bundle.classes))
    chances = np.array(
        [[float(cell or 0) for cell in row[PROBABILITIES : PROBABILITIES + len(bundle.classes)]] for row in rows]
    )
    drawn = picture(image, scale, slide, grid, named, chances.max(axis=1), bundle.classes)
    files.write(wishes.out / f"{name}.heatmap.png", drawn)
    told = _summary(bundle, slide, grid, named, mask, scale, side)
    # Last, so that a map whose summary is there is complete.
    files.write_json(wishes.out / f"{name}.json", {"slide": name, **told, "identity": identity})
    for other in wishes.out.glob(f"{escape(name)}.*.part"):  # begun with other wishes
        other.unlink(missing_ok=True)
    return _told(name, table, told, done_before=False)


def _told(name: str, table: Path, facts: dict[str, object], *, done_before: bool) -> SlideMap:
    shares = facts.get("classes")
    counted = {str(name): float(one["share"]) for name, one in shares.items()} if isinstance(shares, dict) else {}
    tiles, unreadable = facts.get("tiles"), facts.get("unreadable")
    return SlideMap(
        slide=name,
        table=table,
        tiles=tiles if isinstance(tiles, int) else 0,
        unreadable=unreadable if isinstance(unreadable, int) else 0,
        shares=counted,
        done_before=done_before,
    )


def _facts(file: Path) -> dict[str, object]:
    """Return the summary of an earlier map; {} if there is none that can be read."""
    try:
        found = json.loads(file.read_bytes())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _identity(bundle: Bundle, path: Path, slide: Slide, side: float, wishes: MapOptions) -> str:
    """Return a hash of all that a map depends on: the model, the slide, and the wishes."""
    weights = bundle.card.weights_sha256 if bundle.card else _digest(bundle)
    there = path.stat()
    what = [
        weights,
        bundle.classes,
        slide.identity,
        there.st_size,
        there.st_mtime_ns,
        slide.mpp,
        side,
        wishes.threshold,
    ]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _digest(bundle: Bundle) -> str:
    """Return a hash of a network that came without a card."""
    found = hashlib.sha256(str(bundle.image_size).encode())
    for name, tensor in sorted(bundle.predictor.state_dict().items()):
        found.update(name.encode() + tensor.cpu().numpy().tobytes())
    return found.hexdigest()


PROBABILITIES = 4
"""Column of the first class's probability in a table, after the place of the tile."""
LABEL = -4
"""Column of the label in a table, before the prediction set, whether the model abstains, and the error."""


def _head(classes: Sequence[str]) -> list[str]:
    """Return the columns of a table: first those of WSInfer, then ours."""
    return [
        "minx",
        "miny",
        "width",
        "height",
        *(f"prob_{name}" for name in classes),
        "label",
        "set",
        "abstain",
        "error",
    ]


def _grown(
    bundle: Bundle,
    slide: Slide,
    grid: Grid,
    threshold: float | None,
    part: Path,
    table: Path,
    crew: Readers,
    tell: Callable[[int, int], None] | None,
) -> list[list[str]]:
    """Write the rows that are missing in an unfinished table, batch by batch; give it its name, and return all rows."""
    head = _line(_head(bundle.classes))
    with part.open("a+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError("another command maps this slide") from error
        rows = _rows_of(handle, head, len(_head(bundle.classes)))
        rows = rows[: len(rows) // BATCH * BATCH] if len(rows) < len(grid.places) else rows
        kept = "".join([head, *map(_line, rows)]).encode()
        handle.seek(0)
        if handle.read(len(kept)) == kept:
            handle.truncate(len(kept))
        else:  # it was begun by another version
            handle.truncate(0)
            handle.write(kept)
            handle.flush()
        batches = read_batches(crew, slide, grid.places, grid.side, bundle.image_size, len(rows))
        for at, errors, found in done_ahead(
            partial(predicted, bundle, gpu_lock(bundle.predictor.mean.device)), batches
        ):
            fresh = [
                _row(bundle.classes, grid.places[at + number], grid.side, chances, threshold, errors.get(number, ""))
                for number, chances in enumerate(found)
            ]
            handle.write("".join(map(_line, fresh)).encode())
            handle.flush()
            rows += fresh
            if tell:
                tell(len(rows), len(grid.places))
        os.fsync(handle.fileno())
        os.replace(part, table)  # while nobody else can begin it
    return rows


def predicted(
    bundle: Bundle, turn: AbstractContextManager[object], numbered: tuple[int, Batch]
) -> tuple[int, dict[int, str], NDArray[np.float64]]:
    """Predict a batch; return its first tile's number, its errors, and the probabilities [N, K]."""
    at, (images, errors) = numbered
    with turn:
        return at, errors, bundle.predict(images, AT_ONCE)


def _row(
    classes: Sequence[str],
    place: NDArray[np.int64],
    side: float,
    chances: NDArray[np.float64],
    threshold: float | None,
    error: str,
) -> list[str]:
    """Return the cells of a tile; one that could not be read has no probabilities."""
    cells = [*map(str, place.tolist()), *[str(round(side))] * 2]
    if error:
        return [*cells, *[""] * len(classes), "", "", "", error]
    inside, doubt = "", ""
    if threshold is not None:
        sets = prediction_sets(chances[None], threshold)
        inside = "|".join(name for name, one in zip(classes, sets[0], strict=True) if one)
        doubt = str(bool(abstains(sets)[0])).lower()
    return [*cells, *(f"{one:.6f}" for one in chances), classes[int(chances.argmax())], inside, doubt, ""]


def _line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _rows_of(part: IO[bytes], head: str, columns: int) -> list[list[str]]:
    """Return the whole rows of an unfinished table; none if it has other columns."""
    part.seek(0)
    text = part.read().decode(errors="replace")
    if not text.startswith(head):
        return []
    whole = text[: text.rfind("\n") + 1]  # the last line may be torn
    rows = list(csv.reader(io.StringIO(whole)))[1:]
    good = next((place for place, row in enumerate(rows) if len(row) != columns), len(rows))
    return rows[:good]


def _summary(
    bundle: Bundle,
    slide: Slide,
    grid: Grid,
    named: NDArray[np.int64],
    mask: NDArray[np.bool_],
    scale: float,
    side: float,
) -> dict[str, object]:
    """Return what a slide's map says in numbers: how much tissue, and the share of each class with an interval.

    A share's interval is over blocks of BLOCK_UM: it says how much the share would vary with other tissue of the same
    kind, not how often the model is wrong, which its own test error says.
    """
    assert slide.mpp is not None
    read = named >= 0
    blocks = (grid.cells * side // BLOCK_UM).astype(np.int64)
    groups = blocks[:, 1] * (int(blocks[:, 0].max()) + 1) + blocks[:, 0]
    shares: dict[str, object] = {}
    for number, name in enumerate(bundle.classes):
        mine = named[read] == number
        interval: Interval | None = None
        if len(mine):
            interval = accuracy_interval(mine, np.zeros(len(mine), np.int64), groups[read])
        share = float(mine.mean()) if len(mine) else 0.0
        shares[name] = {"tiles": int(mine.sum()), "share": share, "interval": interval}
    card = bundle.card
    return {
        "mpp": slide.mpp,
        "mpp_from": slide.mpp_from,
        "tile_um": side,
        "tissue_mm2": round(float(mask.sum()) * (scale * slide.mpp / 1000) ** 2, 4),
        "tiles": len(named),
        "unreadable": int((~read).sum()),
        "left_out_at_the_edge": grid.outside,
        "classes": shares,
        "interval_over": f"blocks of {BLOCK_UM / 1000:g} mm",
        "model_test_error": None if card is None or card.test is None else 1 - card.test.accuracy,
        "model_sha256": card.weights_sha256 if card else None,
        "notice": "Research use only; not a medical device.",
    }
