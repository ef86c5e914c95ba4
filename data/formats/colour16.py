"""Images with colours of 16 bits per channel: Pillow keeps only the upper 8 bits; here the lower 8 are read too."""

import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data import DataError

UPPER = re.compile(r"(RGB|RGBA|RGBX|RGBa);16([BLN])")
"""Pillow's names of the raw modes of such files."""
OTHER = {"B": "L", "L": "B", "N": "B"}
"""Byte order -> the byte order with which Pillow reads the lower bytes; N is the machine's own, here always L (little
endian)."""


def has_16_bits(image: Image.Image) -> bool:
    """Return whether an image that is not yet decoded has colours of 16 bits per channel."""
    tiles = getattr(image, "tile", ())  # empty once it is decoded
    return bool(tiles) and all(any(map(UPPER.fullmatch, _names(one.args))) for one in tiles)


def refuse_misread(image: Image.Image) -> None:
    """Raise DataError for two kinds of 16-bit images that Pillow would decode without an error, to other pixels."""
    tiles = getattr(image, "tile", ())
    if any("LA;16B" in _names(one.args) for one in tiles):
        raise DataError("grey levels of 16 bits with transparency (save it without transparency)")
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS, (8,))  # of each channel
    if tags.get(PLANES) == 2 and len(bits) > 1 and max(bits) > 8 and tiles:
        raise DataError("a TIFF whose colours of more than 8 bits lie in separate planes (save it interleaved)")


PLANES, BITS = 284, 258
"""TIFF's tags for the arrangement of colours (2: in separate planes) and for the bits of each."""


def _names(args: object) -> list[str]:
    return [one for one in (args if isinstance(args, tuple) else (args,)) if isinstance(one, str)]


def read_lower(image: Image.Image) -> None:
    """Make an image that is not yet decoded yield the lower 8 bits of each value instead of the upper ones."""

    def swapped(value: object) -> object:
        found = UPPER.fullmatch(value) if isinstance(value, str) else None
        return f"{found[1]};16{OTHER[found[2]]}" if found else value

    image.tile = [  # type: ignore[attr-defined]
        one._replace(args=tuple(map(swapped, one.args)) if isinstance(one.args, tuple) else swapped(one.args))
        for one in image.tile  # type: ignore[attr-defined]
    ]


def combine_bytes(upper: Image.Image, lower: Image.Image) -> NDArray[np.uint16]:
    """Return the 16-bit colours [H, W, 3], without transparency, of a file that was opened twice."""
    read_lower(lower)
    found = np.asarray(lower)[..., :3].astype(np.uint16)
    found += np.asarray(upper)[..., :3].astype(np.uint16) << 8
    return found


def as_8_bits(values: NDArray[np.uint16], upper: Image.Image, low: float, high: float) -> Image.Image:
    """Scale 16-bit colours [H, W, 3] to 8 bits, with `low` as black and `high` as white.

    Transparency and orientation are taken from `upper`, the image that the colours are from.
    """
    table = np.clip((np.arange(2**16) - low) * 255 / (high - low), 0, 255).astype(np.uint8)
    found = Image.fromarray(table[values])
    if upper.mode in ("RGBA", "RGBa"):
        found.putalpha(upper.getchannel("A"))
    if turn := upper.getexif().get(ORIENTATION):
        found.getexif()[ORIENTATION] = turn
    return found


ORIENTATION = 0x0112
"""The Exif tag that says how an image is turned."""
