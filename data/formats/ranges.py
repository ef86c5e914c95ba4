"""Images of more than 8 bits: which pixel values become black and which white when they are converted to 8 bits."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data import DataError
from data.formats.colour16 import has_16_bits

Kind = Literal["whole", "float", "colour"]
Ranges = Mapping[Kind, tuple[float, float]]
"""The pixel values that are black and white, for each kind of pixel values that are converted to 8 bits."""

AS_16_BITS: Ranges = MappingProxyType({"whole": (0.0, 65535.0), "colour": (0.0, 65535.0)})
"""Ranges that are assumed if nothing was measured; for floating-point numbers there is no such assumption."""

NAMES: Mapping[Kind, str] = {"whole": "whole numbers", "float": "floating-point numbers", "colour": "colours"}


ABSENT = 1e30
"""Absolute value from which a floating-point pixel holds no measurement."""


class UnknownRangeError(DataError):
    """A file has pixel values of a kind whose range is not known."""


def kind_of(image: Image.Image) -> Kind | None:
    """Return the kind of pixel values of an image of more than 8 bits; None for the usual images of 8 bits.

    Colours of 16 bits are recognised only before the image is decoded, because decoding converts them to 8 bits.
    """
    if has_16_bits(image):
        return "colour"
    if image.mode == "F":
        return "float"
    return "whole" if image.mode == "I" or image.mode.startswith("I;16") else None


def extremes(image: Image.Image) -> tuple[float, float] | None:
    """Return the smallest and the largest finite pixel value of an image; None if none is finite.

    Numbers beyond ABSENT count as infinite: -3.4e38 is a usual sign for "no data".
    """
    values = np.asarray(image)
    finite = values[np.isfinite(values) & (np.abs(values, dtype=np.float64) < ABSENT)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def range_of(kind: Kind, low: float, high: float) -> tuple[float, float]:
    """Return the values that are black and white if `low` and `high` are the smallest and largest of all images.

    If these are whole numbers from 0 to 65535, the range is extended to a whole number of bits (12 bits: 0 to 4095), so
    that a few more images do not change it.
    """
    if kind != "float" and low >= 0 and high < 2**16:
        return 0.0, float(2 ** max(1, int(high).bit_length()) - 1)
    return low, high if high > low else low + 1


def ends(kind: Kind, ranges: Ranges) -> tuple[float, float]:
    """Return the pixel values of a kind that are black and white. Raises UnknownRangeError if they are not known."""
    if kind not in ranges:
        what = "floating-point pixels" if kind == "float" else "pixels of 16 or 32 bits"
        raise UnknownRangeError(f"{what}, whose range is not known (convert the image to 8 bits)")
    return ranges[kind]


def as_grey(image: Image.Image, kind: Kind, ranges: Ranges) -> NDArray[np.uint8]:
    """Convert an image of this kind to grey levels of 8 bits [H, W]. Raises UnknownRangeError, see `ends`."""
    low, high = ends(kind, ranges)
    values = np.nan_to_num(np.asarray(image, np.float64), nan=low, posinf=high, neginf=low)
    return np.clip((values - low) * 255 / (high - low), 0, 255).astype(np.uint8)


def in_words(ranges: Ranges) -> str:
    """Describe ranges in words, such as "whole numbers 0 to 4095"."""
    return ", ".join(f"{NAMES[kind]} {low:.6g} to {high:.6g}" for kind, (low, high) in sorted(ranges.items()))


def unusual(ranges: Ranges) -> str:
    """Describe ranges in words if they are not AS_16_BITS, which earlier versions assumed; else return ""."""
    return "" if all(AS_16_BITS.get(kind) == ends for kind, ends in ranges.items()) else in_words(ranges)
