"""Annotations of a slide, as QuPath exports them in GeoJSON: which class each place was outlined as."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data import DataError
from data.images import read_file
from data.layout.names import normal

MOST_BYTES = 256 << 20
"""Most bytes of a GeoJSON file."""
MOST_CELLS = 64_000_000
"""Most cells of a raster of annotations."""
IGNORED = "ignore"
"""Beginning of the classes of what shall not be used, as in QuPath."""
NO_CLASS = ""
"""Class of a region that is ignored; inside another region it cuts a hole."""

Points = NDArray[np.float64]  # [N, 2], x and y in pixels of the finest level


@dataclass(frozen=True, kw_only=True)
class Region:
    """Outlined region of one class: an outer ring, and holes in it."""

    name: str
    outer: Points
    holes: tuple[Points, ...]

    @property
    def area(self) -> float:
        """Area of the outer ring, in square pixels."""
        x, y = self.outer[:, 0], self.outer[:, 1]
        return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Regions of a slide, and how many were left out, by reason."""

    regions: tuple[Region, ...]
    left_out: dict[str, int]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return tuple(sorted({one.name for one in self.regions} - {NO_CLASS}))


def read_annotations(file: Path, corner: tuple[int, int]) -> Annotations:
    """Read a GeoJSON file, whose coordinates count from `corner`, that of what was scanned. Raises DataError."""
    try:
        found = json.loads(read_file(file, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.name} is no GeoJSON: {str(error)[:120]}") from error
    except OSError as error:
        raise DataError(f"cannot read {file.name}: {error.strerror}") from error
    features = found.get("features") if isinstance(found, dict) else found
    if not isinstance(features, list):
        raise DataError(f"{file.name} has no list of features (export annotations from QuPath as GeoJSON)")
    regions: list[Region] = []
    left_out: Counter[str] = Counter()
    for feature in features:
        name = _class_of(feature)
        polygons = _polygons(feature)
        ignored = name is not None and name.lower().startswith(IGNORED)
        if name is None:
            left_out["without a class"] += 1
            continue
        if ignored:
            left_out["to be ignored"] += 1
        elif not polygons:
            left_out["no area"] += 1
        if polygons:
            regions += [
                Region(
                    name=NO_CLASS if ignored else name,
                    outer=rings[0] + corner,
                    holes=tuple(one + corner for one in rings[1:]),
                )
                for rings in polygons
            ]
    return Annotations(regions=tuple(regions), left_out=dict(left_out))


def _class_of(feature: object) -> str | None:
    """Return the class of a feature; None if it has none."""
    properties = feature.get("properties") if isinstance(feature, dict) else None
    given = properties.get("classification") if isinstance(properties, dict) else None
    name = given.get("name") if isinstance(given, dict) else given
    return normal(name.strip()) if isinstance(name, str) and name.strip() else None


def _polygons(feature: object) -> list[list[Points]]:
    """Return the polygons of a feature, each as its rings; without what is no polygon of finite numbers."""
    geometry = feature.get("geometry") if isinstance(feature, dict) else None
    if not isinstance(geometry, dict):
        return []
    kind, inside = geometry.get("type"), geometry.get("coordinates")
    every = {"Polygon": [inside], "MultiPolygon": inside}.get(str(kind))
    found = []
    for rings in every if isinstance(every, list) else []:
        points = [_ring(ring) for ring in rings] if isinstance(rings, list) else []
        whole = [ring for ring in points if ring is not None]
        if whole and points[0] is not None:
            found.append(whole)
    return found


def _ring(ring: object) -> Points | None:
    try:
        points = np.array([pair[:2] for pair in ring], np.float64)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        return None
    good = points.ndim == 2 and points.shape[1:] == (2,) and len(points) >= 3
    return points if good and np.isfinite(points).all() and (np.abs(points) < 1e7).all() else None


def raster(annotations: Annotations, width: int, height: int, cell: float) -> NDArray[np.uint16]:
    """Return the class of each cell of a slide, [height / cell, width / cell]: 0 is none, k the k-th of `classes`.

    Where regions overlap the smaller one counts, also one of NO_CLASS. Raises DataError for too many cells.
    """
    shape = max(1, round(height / cell)), max(1, round(width / cell))
    if shape[0] * shape[1] > MOST_CELLS:
        raise DataError(f"annotations on {shape[1]:,} x {shape[0]:,} cells, more than {MOST_CELLS:,} in all")
    found = np.zeros(shape, np.uint16)
    for one in sorted(annotations.regions, key=lambda region: -region.area):
        rings = [
            np.clip(np.round(ring / cell - 0.5), -(2**20), 2**20).astype(np.int32) for ring in (one.outer, *one.holes)
        ]
        inside = np.zeros(shape, np.uint8)
        cv2.fillPoly(inside, rings, 1)  # a hole is filled twice, which is not at all
        found[inside > 0] = 0 if one.name == NO_CLASS else annotations.classes.index(one.name) + 1
    return found
