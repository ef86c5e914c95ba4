"""Views of an image (test-time augmentation): mirrored, or turned by quarters; their probabilities are averaged."""

from typing import Literal

Views = Literal["none", "flips", "square"]

View = str
"""Letters of what is done to an image, in this order: t (rows and columns are exchanged), h (left and right are
exchanged), v (up and down are exchanged); empty for the image itself."""

AS_IT_IS: tuple[View, ...] = ("",)
"""The image itself as the only view."""


def views_of(kind: Views, *, hflip: bool, vflip: bool) -> tuple[View, ...]:
    """Return the views of an image, itself first: with "flips" the flips that training used, with "square" the eight
    symmetries of a square."""
    if kind == "none":
        return AS_IT_IS
    if kind == "square":
        return ("", "h", "v", "hv", "t", "th", "tv", "thv")
    return tuple(view for view in ("", "h", "v", "hv") if (hflip or "h" not in view) and (vflip or "v" not in view))
