"""Tiles of a slide, read batch by batch in child processes; a batch in which a child crashed is read tile by tile."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from data.processes import CrashError
from data.slides.readers import Call, Readers
from data.slides.slide import Pixels, Slide, read_tiles

BATCH = 16
"""Tiles that are read at once, and whose rows are written together."""

Batch = tuple[Pixels, dict[int, str]]
"""Tiles RGB [N, size, size, 3], and the errors of those that could not be read, by number."""


def read_batches(
    crew: Readers, slide: Slide, places: NDArray[np.int64], side: float, size: int, begin: int = 0
) -> Iterator[tuple[int, Batch]]:
    """Yield batches of the tiles at `places` [N, 2] from number `begin` on, each with the number of its first tile.

    `side`: side of a tile in pixels of the finest level; `size`: in pixels of what is returned. Raises DataError.
    """
    starts = range(begin, len(places), BATCH)
    calls: list[Call] = [(slide, places[at : at + BATCH], side, size) for at in starts]
    yield from zip(starts, crew.each(read_tiles, calls, partial(_one_by_one, crew)), strict=True)


def _one_by_one(crew: Readers, call: Call) -> Batch:
    """Read the tiles of a batch in which a child crashed, each alone."""
    slide, places, side, size = call
    found = np.full((len(places), size, size, 3), 255, np.uint8)
    errors: dict[int, str] = {}
    for number in range(len(places)):
        try:
            images, wrong = crew.ask(read_tiles, slide, places[number : number + 1], side, size)
        except CrashError as error:
            errors[number] = str(error)
            continue
        found[number] = images[0]
        if wrong:
            errors[number] = wrong[0]
    return found, errors
