"""Which tiles of a slide are read: a grid from the corner of what was scanned, kept where there is tissue."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data import DataError
from data.slides.slide import Slide

ENOUGH = 0.5
"""Least share of a tile that must be tissue."""
MOST_TILES = 500_000
"""Most tiles of a grid."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Tiles of a slide, row by row; places and sizes are in pixels of its finest level."""

    places: NDArray[np.int64]  # upper left corners [N, 2], x and y
    cells: NDArray[np.int64]  # column and row of each in the grid [N, 2]
    shape: tuple[int, int]  # rows and columns of the grid
    side: float  # side of a tile
    tissue: NDArray[np.float64]  # share of each tile that is tissue [N]
    outside: int  # tiles with less tissue than is needed, but some


def make_grid(slide: Slide, mask: NDArray[np.bool_], side: float) -> Grid:
    """Lay a grid of tiles of `side` pixels over a slide, whose tissue is `mask` [H, W]. Raises DataError."""
    x, y, width, height = slide.bounds
    columns, rows = int(width // side), int(height // side)
    if columns * rows > MOST_TILES:
        raise DataError(f"{columns * rows:,} tiles of {side:.0f} pixels, more than {MOST_TILES:,} (give a larger --um)")
    across, down = np.meshgrid(np.arange(columns), np.arange(rows))
    cells = np.stack([across.ravel(), down.ravel()], axis=1).astype(np.int64)
    corners = np.floor(np.array([x, y]) + cells * side).astype(np.int64)
    share = _share(mask, corners, side, (mask.shape[1] / slide.width, mask.shape[0] / slide.height))
    kept = share >= ENOUGH
    return Grid(
        places=corners[kept],
        cells=cells[kept],
        shape=(rows, columns),
        side=side,
        tissue=share[kept],
        outside=int(((share > 0) & ~kept).sum()),
    )


def _share(
    mask: NDArray[np.bool_], corners: NDArray[np.int64], side: float, scale: tuple[float, float]
) -> NDArray[np.float64]:
    """Return the share of each tile [N] that the mask covers; `scale`: pixels of the mask for one of the slide."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    sums[1:, 1:] = mask.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    ends = []
    for axis, length in ((0, mask.shape[1]), (1, mask.shape[0])):
        low = np.clip(np.floor(corners[:, axis] * scale[axis]).astype(int), 0, length - 1)
        high = np.clip(np.ceil((corners[:, axis] + math.ceil(side)) * scale[axis]).astype(int), 1, length)
        ends.append((low, np.maximum(high, low + 1)))
    (left, right), (top, bottom) = ends
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.asarray(inside / ((right - left) * (bottom - top)))
