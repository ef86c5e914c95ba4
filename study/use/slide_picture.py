"""Picture of a slide's map: the thumbnail with the class of each tile over it, a legend and a scale bar."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data.slides.grid import Grid
from data.slides.slide import Slide
from study.use.outlines import colour_of

LEAST_SIDE, MOST_SIDE = 800, 1600
"""Least and largest length of the map's longer side, in pixels, without the legend."""
STRENGTH = 0.55
"""Share of a class's colour over the thumbnail, for a tile that the model is sure of."""
BARS_UM = (100, 200, 500, 1000, 2000, 5000, 10_000)
"""Lengths of scale bars, in micrometres."""
LINE, TEXT, MARGIN = 26, 16, 14


def picture(
    thumbnail: NDArray[np.uint8],
    scale: float,
    slide: Slide,
    grid: Grid,
    named: NDArray[np.int64],
    sure: NDArray[np.float64],
    classes: Sequence[str],
) -> bytes:
    """Return a PNG: `thumbnail` [h, w, 3], each tile in the colour of its class (`named` [N]).

    A tile is the paler, the less sure the model is (`sure` [N], its largest probability); one that could not be read
    (-1) is black. `scale`: pixels of the slide for one of the thumbnail.
    """
    longest = max(thumbnail.shape[:2])
    shrink = min(max(1.0, LEAST_SIDE / longest), MOST_SIDE / longest)
    size = max(1, round(thumbnail.shape[1] * shrink)), max(1, round(thumbnail.shape[0] * shrink))
    ground = np.asarray(Image.fromarray(thumbnail).resize(size, Image.Resampling.BOX)).astype(np.float32)
    for place, label, share in zip(grid.places, named, sure, strict=True):
        left, top = np.round(place * shrink / scale).astype(int)
        right, bottom = np.round((place + grid.side) * shrink / scale).astype(int)
        colour, strength = (colour_of(int(label)), STRENGTH * share) if label >= 0 else ((0, 0, 0), 1.0)
        part = ground[top : max(bottom, top + 1), left : max(right, left + 1)]
        part[:] = (1 - strength) * part + strength * np.array(colour)
    names = [(number, name) for number, name in enumerate(classes) if (named == number).any()]
    whole = Image.new("RGB", (max(size[0], 480), size[1] + LINE * (len(names) + 2) + 2 * MARGIN), "white")
    whole.paste(Image.fromarray(ground.round().astype(np.uint8)), (0, 0))
    _legend(ImageDraw.Draw(whole), size[1] + MARGIN, names, named)
    _bar(ImageDraw.Draw(whole), size[1] + MARGIN + LINE * len(names), (slide.mpp or 1.0) * scale / shrink, size[0])
    content = io.BytesIO()
    whole.save(content, "PNG")
    return content.getvalue()


def _legend(draw: ImageDraw.ImageDraw, top: int, names: Sequence[tuple[int, str]], named: NDArray[np.int64]) -> None:
    font = ImageFont.load_default(TEXT)
    read = max(1, int((named >= 0).sum()))
    for line, (number, name) in enumerate(names):
        y = top + line * LINE
        draw.rectangle((MARGIN, y, MARGIN + TEXT, y + TEXT), fill=colour_of(number))
        share = 100 * float((named == number).sum()) / read
        shown = name if len(name) <= 60 else f"{name[:59]}…"
        draw.text((2 * MARGIN + TEXT, y - 1), f"{shown}: {share:.1f} % of the tiles", fill="black", font=font)


def _bar(draw: ImageDraw.ImageDraw, top: int, mpp: float, width: int) -> None:
    """Draw a scale bar of about a quarter of the picture's width; `mpp`: micrometres of a pixel of the picture."""
    fits = [one for one in BARS_UM if one / mpp <= 0.4 * width]
    length = fits[-1] if fits else BARS_UM[0]
    y = top + LINE // 2
    draw.line((MARGIN, y, MARGIN + length / mpp, y), fill="black", width=4)
    words = f"{length / 1000:g} mm" if length >= 1000 else f"{length} micrometres"  # Pillow's own font has no µ
    draw.text((MARGIN, y + 6), f"{words}; research use only", fill="black", font=ImageFont.load_default(TEXT))
