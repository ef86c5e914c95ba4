"""An image seen several times: mirrored, or turned by quarters, and the probabilities averaged."""

from typing import Literal

Views = Literal["none", "flips", "square"]

View = str
"""What is done to an image, in this order: t (rows and columns exchanged), h (left and right), v (up and down)."""

AS_IT_IS: tuple[View, ...] = ("",)


def views_of(kind: Views, *, hflip: bool, vflip: bool) -> tuple[View, ...]:
    """The views of an image, itself first: with flips those that training used, or the eight of a square."""
    if kind == "none":
        return AS_IT_IS
    if kind == "square":
        return ("", "h", "v", "hv", "t", "th", "tv", "thv")
    return tuple(view for view in ("", "h", "v", "hv") if (hflip or "h" not in view) and (vflip or "v" not in view))
