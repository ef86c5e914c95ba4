"""Outlines of a map's classes as GeoJSON for QuPath: a feature for each class, along the edges of its tiles."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from data.slides.grid import Grid

Corner = tuple[int, int]
Ring = list[Corner]
"""Closed outline in corners of the grid, the first repeated at the end."""

COLOURS = (
    *((214, 39, 40), (44, 160, 44), (31, 119, 180), (255, 187, 50), (148, 103, 189)),
    *((140, 86, 75), (227, 119, 194), (23, 190, 207), (127, 127, 127), (188, 189, 34)),
)
"""Colours of classes, in their order; they repeat."""


def colour_of(number: int) -> tuple[int, int, int]:
    """Return the colour of a class."""
    return COLOURS[number % len(COLOURS)]


def outlines(named: NDArray[np.int64], grid: Grid, bounds: tuple[int, int, int, int], classes: Sequence[str]) -> bytes:
    """Return a FeatureCollection with a MultiPolygon for each class that was named; `named` [N]: class of each tile.

    Coordinates count from the corner of what was scanned (`bounds`), as QuPath's do.
    """
    cells = np.full(grid.shape, -1)
    cells[grid.cells[:, 1], grid.cells[:, 0]] = named
    features = []
    for number, name in enumerate(classes):
        mask = cells == number
        if not mask.any():
            continue
        polygons = [
            [[[round(x * grid.side, 2), round(y * grid.side, 2)] for x, y in ring] for ring in rings]
            for rings in polygons_of(mask)
        ]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "MultiPolygon", "coordinates": polygons},
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": name, "color": list(colour_of(number))},
                    "tiles": int(mask.sum()),
                },
            }
        )
    return (json.dumps({"type": "FeatureCollection", "features": features}) + "\n").encode()


def polygons_of(mask: NDArray[np.bool_]) -> Iterator[list[Ring]]:
    """Yield the polygons of a mask [H, W], each as its outer ring and its holes.

    Cells that touch at a corner alone belong to different polygons, unless others connect them.
    """
    count, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    rows, columns = np.nonzero(pieces)
    order = np.argsort(pieces[rows, columns], kind="stable")
    ends = np.searchsorted(pieces[rows, columns][order], np.arange(1, count + 1))
    for low, high in zip(ends, [*ends[1:], len(order)], strict=True):
        mine = order[low:high]
        if len(mine):
            rings = _rings(set(zip(columns[mine].tolist(), rows[mine].tolist(), strict=True)))
            yield sorted(rings, key=_area, reverse=True)  # the outer ring has the largest area


def _rings(cells: set[Corner]) -> list[Ring]:
    """Return the rings around connected cells (column, row), by their edges: each with the cells on its right."""
    following: dict[Corner, list[Corner]] = {}
    for x, y in sorted(cells):
        corners = ((x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1))
        beside = ((x, y - 1), (x + 1, y), (x, y + 1), (x - 1, y))
        for side in range(4):
            if beside[side] not in cells:
                following.setdefault(corners[side], []).append(corners[(side + 1) % 4])
    rings: list[Ring] = []
    while following:
        begin = min(following)
        ring, before = [begin], begin
        while len(ring) == 1 or ring[-1] != begin:
            here = ring[-1]
            after = following[here]
            chosen = (
                after[0] if len(after) == 1 or len(ring) == 1 else min(after, key=lambda one: _turn(before, here, one))
            )
            after.remove(chosen)
            if not after:
                del following[here]
            before = here
            ring.append(chosen)
        rings.append(_without_straight(ring))
    return rings


def _turn(before: Corner, here: Corner, after: Corner) -> int:
    """Return 1 for a turn to the right, with y pointing down, and -1 for one to the left.

    Where two cells touch at a corner the left one is taken: so no ring comes to a place twice, and a hole that reaches
    the outside at a corner alone stays a hole.
    """
    return (here[0] - before[0]) * (after[1] - here[1]) - (here[1] - before[1]) * (after[0] - here[0])


def _without_straight(ring: Ring) -> Ring:
    """Leave out the corners at which a ring goes straight on."""
    inner = ring[:-1]
    kept = [here for place, here in enumerate(inner) if _turn(inner[place - 1], here, inner[(place + 1) % len(inner)])]
    return [*kept, kept[0]]


def _area(ring: Ring) -> float:
    return abs(sum(x * b - a * y for (x, y), (a, b) in pairwise(ring))) / 2
