"""Numbers of more than 8 bits: which of them are black, and which are white."""

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
"""For each kind of numbers that become 8 bits, the one that is black and the one that is white."""

AS_16_BITS: Ranges = MappingProxyType({"whole": (0.0, 65535.0), "colour": (0.0, 65535.0)})
"""What is taken for granted where nothing was measured; of floating-point numbers, nothing is."""

NAMES: Mapping[Kind, str] = {"whole": "whole numbers", "float": "floating-point numbers", "colour": "colours"}


class UnknownRangeError(DataError):
    """The file holds numbers of a kind whose range is not known."""


def kind_of(image: Image.Image) -> Kind | None:
    """What kind of numbers an image holds that must become 8 bits; None for the usual images of 8 bits.

    Colours are told before they are decoded alone: then Pillow has made 8 bits of them.
    """
    if has_16_bits(image):
        return "colour"
    if image.mode == "F":
        return "float"
    return "whole" if image.mode == "I" or image.mode.startswith("I;16") else None


def extremes(image: Image.Image) -> tuple[float, float] | None:
    """The least and the largest number in an image; None where none of them is finite."""
    values = np.asarray(image)
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def range_of(kind: Kind, low: float, high: float) -> tuple[float, float]:
    """What is black and what is white where these are the least and the largest number of all images.

    Whole numbers from 0 fill so many bits (12: 0 to 4095), so that a few more images change nothing.
    """
    if kind != "float" and low >= 0 and high < 2**16:
        return 0.0, float(2 ** max(1, int(high).bit_length()) - 1)
    return low, high if high > low else low + 1


def ends(kind: Kind, ranges: Ranges) -> tuple[float, float]:
    """What is black and what is white of a kind of numbers. Raises UnknownRangeError where that is not known."""
    if kind not in ranges:
        what = "floating-point pixels" if kind == "float" else "pixels of 16 or 32 bits"
        raise UnknownRangeError(f"{what}, whose range is not known (convert the image to 8 bits)")
    return ranges[kind]


def as_grey(image: Image.Image, kind: Kind, ranges: Ranges) -> NDArray[np.uint8]:
    """An image of such numbers in 8 bits [H, W]. Raises UnknownRangeError where the range of its kind is not known."""
    low, high = ends(kind, ranges)
    values = np.nan_to_num(np.asarray(image, np.float64), nan=low, posinf=high, neginf=low)
    return np.clip((values - low) * 255 / (high - low), 0, 255).astype(np.uint8)


def in_words(ranges: Ranges) -> str:
    """Ranges as people read them: whole numbers 0 to 4095."""
    return ", ".join(f"{NAMES[kind]} {low:.6g} to {high:.6g}" for kind, (low, high) in sorted(ranges.items()))


def unusual(ranges: Ranges) -> str:
    """In words what earlier versions, which measured nothing, would have done otherwise; empty where they agree."""
    return "" if all(AS_16_BITS.get(kind) == ends for kind, ends in ranges.items()) else in_words(ranges)
