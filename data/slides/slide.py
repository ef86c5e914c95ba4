"""One slide as OpenSlide reads it: size, size of a pixel, thumbnail, and tiles that are resampled exactly.

What opens a slide here is meant to be called in a child process (see readers.py), since hostile files have crashed the
C library. Label and macro images are never read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data import DataError

if TYPE_CHECKING:
    from openslide import OpenSlide

Pixels = NDArray[np.uint8]

INSTALL = "pip install openslide-python openslide-bin"
CACHE_BYTES = 32 << 20
"""Size of OpenSlide's cache of decoded tiles, in a child process."""
MOST_PIXELS = 10**11
"""Most pixels of a slide."""
MOST_READ = 16_000_000
"""Most pixels that are read at once."""
THUMBNAIL_UM, MOST_THUMBNAIL = 8.0, 4_000_000
"""Size of a thumbnail's pixel in micrometres, and most pixels of a thumbnail; a larger slide gets larger pixels."""
NOT_SQUARE = 0.02
"""Largest difference of a pixel's width and height, as a share."""
OBJECTIVE_UM = 10.0
"""Product of a pixel's size (micrometres) and the objective's power, from which the size is estimated if the file does
not give it."""
SAME_LEVEL = 1e-3
"""A level may be coarser than wanted by this share: levels' sizes are rounded to whole pixels."""


@dataclass(frozen=True, kw_only=True)
class Slide:
    """Facts about a slide; places and sizes are in pixels of its finest level."""

    path: str
    width: int
    height: int
    mpp: float | None  # micrometres of a pixel
    mpp_from: str  # where that is from, in words
    levels: tuple[tuple[int, int], ...]  # width and height of each level
    downsamples: tuple[float, ...]
    bounds: tuple[int, int, int, int]  # x, y, width, height of what was scanned
    background: tuple[int, int, int]  # colour where nothing was scanned
    identity: str  # OpenSlide's hash of the slide

    def level_for(self, reduction: float) -> int:
        """Return the coarsest level that is still at least as fine as a reduction."""
        fine = [place for place, one in enumerate(self.downsamples) if one <= reduction * (1 + SAME_LEVEL)]
        return max(fine, key=lambda place: self.downsamples[place], default=0)


def describe(path: str, mpp: float | None = None) -> Slide:
    """Open a slide and describe it. `mpp`: micrometres of a pixel, if the user says so. Raises DataError."""
    with _reading(path) as slide:
        properties = dict(slide.properties)
        width, height = slide.dimensions
        levels, downsamples = tuple(slide.level_dimensions), tuple(map(float, slide.level_downsamples))
    if not 0 < width * height <= MOST_PIXELS:
        raise DataError(f"a slide of {width:,} x {height:,} pixels, more than {MOST_PIXELS:.0e} in all")
    found, says = (mpp, "--mpp") if mpp else pixel_size(properties)
    x, y, w, h = (_whole(properties.get(f"openslide.bounds-{name}")) for name in ("x", "y", "width", "height"))
    whole = x is None or y is None or not w or not h or x < 0 or y < 0 or x + w > width or y + h > height
    colour = properties.get("openslide.background-color", "")
    return Slide(
        path=path,
        width=width,
        height=height,
        mpp=found,
        mpp_from=says,
        levels=levels,
        downsamples=downsamples,
        bounds=(0, 0, width, height) if whole else (x or 0, y or 0, w or 0, h or 0),
        background=_colour(colour),
        identity=properties.get("openslide.quickhash-1", ""),
    )


def series_of(path: str) -> str | None:
    """Return the identifier of a DICOM slide's series; None if the file is no slide that OpenSlide reads."""
    try:
        with _reading(path) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID") or slide.properties.get("openslide.quickhash-1")
    except DataError:
        return None


def pixel_size(properties: Mapping[str, str]) -> tuple[float | None, str]:
    """Return the micrometres of a pixel and what says so, from a slide's properties; (None, "") if nothing does.

    Raises DataError if the pixels are not square.
    """

    def number(name: str) -> float | None:
        try:
            value = float(properties.get(name, "nan"))
        except ValueError:
            return None
        return value if 0.01 <= value <= 100 else None

    across, down = number("openslide.mpp-x"), number("openslide.mpp-y")
    if across and down:
        if abs(across - down) > NOT_SQUARE * max(across, down):
            raise DataError(f"pixels of {across:g} x {down:g} µm are not square")
        return (across + down) / 2, "the file"
    words = properties.get("tiff.ImageDescription") or properties.get("openslide.comment") or ""
    if value := _of_ome(words[:100_000]):
        return value, "its OME-XML"
    power = number("openslide.objective-power")
    if power and power >= 1:
        return OBJECTIVE_UM / power, f"the objective ({power:g}x), roughly"
    return None, ""


def _of_ome(words: str) -> float | None:
    """Return the micrometres of a pixel that an OME-XML description names; None if it names none."""
    size = re.search(r'PhysicalSizeX="([\d.eE+-]{1,30})"', words)
    unit = re.search(r'PhysicalSizeXUnit="([^"]{1,10})"', words)
    if not size:
        return None
    try:
        value = float(size[1]) * {"nm": 1e-3, "mm": 1e3, "cm": 1e4}.get(unit[1] if unit else "µm", 1.0)
    except ValueError:
        return None
    return value if 0.01 <= value <= 100 else None


def _whole(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _colour(text: str) -> tuple[int, int, int]:
    """Return a colour written as six hexadecimal digits; white if it is none."""
    if not re.fullmatch("[0-9A-Fa-f]{6}", text):
        return 255, 255, 255
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


def thumbnail(slide: Slide) -> tuple[Pixels, float]:
    """Return the whole slide reduced, RGB [h, w, 3], and the reduction; read in strips, so that little is held at once.

    A strip that cannot be read is left white: its tiles say why. Raises DataError if the slide cannot be opened.
    """
    area = slide.width * slide.height
    scale = max(1.0, THUMBNAIL_UM / (slide.mpp or 0.5), math.sqrt(area / MOST_THUMBNAIL))
    width, height = max(1, round(slide.width / scale)), max(1, round(slide.height / scale))
    found = np.full((height, width, 3), 255, np.uint8)
    level = slide.level_for(scale)
    step = slide.downsamples[level]
    across = slide.levels[level][0]
    rows = max(1, int(MOST_READ / 2 / max(1, across) * step / scale))
    for top in range(0, height, rows):
        count = min(rows, height - top)
        place, tall = (0, round(top * scale)), max(1, round(count * scale / step))
        try:
            with _reading(slide.path) as handle:
                strip = _on_background(handle.read_region(place, level, (across, tall)), slide.background)
        except DataError:
            continue
        found[top : top + count] = np.asarray(strip.resize((width, count), Image.Resampling.BOX))
    return found, scale


def read_tiles(slide: Slide, places: NDArray[np.int64], side: float, size: int) -> tuple[Pixels, dict[int, str]]:
    """Read tiles whose upper left corners are `places` [N, 2]; return RGB [N, size, size, 3], and errors by number.

    `side`: side of a tile in pixels of the finest level, not a whole number in general: the level just finer is read,
    and resampled to exactly that field. What cannot be read is white.
    """
    level = slide.level_for(side / size)
    step = slide.downsamples[level]
    wanted = side / step
    count = math.ceil(wanted) + 2
    if count**2 > MOST_READ:
        raise DataError(f"tiles of {count} x {count} pixels: the slide has no coarser level that is fine enough")
    found = np.full((len(places), size, size, 3), 255, np.uint8)
    errors: dict[int, str] = {}
    for number, (x, y) in enumerate(places.tolist()):
        try:
            with _reading(slide.path) as handle:
                left, top = math.floor(x / step), math.floor(y / step)  # whole pixels of the level
                place = round(left * step), round(top * step)
                region = _on_background(handle.read_region(place, level, (count, count)), slide.background)
        except DataError as error:
            errors[number] = f"unreadable tile: {error}"
            continue
        box = (x / step - left, y / step - top, x / step - left + wanted, y / step - top + wanted)
        found[number] = np.asarray(region.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return found, errors


def _on_background(region: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Lay a region on the slide's background: where nothing was scanned OpenSlide is transparent."""
    opaque = region.getchannel("A")
    if opaque.getextrema() == (255, 255):
        return region.convert("RGB")
    found = Image.new("RGB", region.size, colour)
    found.paste(region, mask=opaque)
    return found


_open: dict[str, OpenSlide] = {}


@contextmanager
def _reading(path: str) -> Iterator[OpenSlide]:
    """Provide the handle of a slide, kept for the next call. Raises DataError.

    After an error the handle would repeat it for every tile, so it is given up.
    """
    try:
        import openslide
    except ModuleNotFoundError as error:
        raise DataError(f"slides are read by OpenSlide, which is not installed ({INSTALL})") from error
    try:
        if path not in _open:
            _open.clear()  # one slide at a time
            slide = openslide.OpenSlide(path)
            slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
            _open[path] = slide
        yield _open[path]
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise DataError("no slide that OpenSlide reads") from error
    except (openslide.OpenSlideError, OSError, ValueError, OverflowError) as error:
        _open.pop(path, None)
        raise DataError(f"broken slide ({str(error)[:120]})") from error
