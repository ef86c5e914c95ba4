"""An image seen several times: mirrored, or turned by quarters, and the probabilities averaged."""

from typing import Literal

import torch
from torch import Tensor

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


def seen(images: Tensor, views: tuple[View, ...]) -> Tensor:
    """[B, 3, S, S] -> [len(views) * B, 3, S, S], one view of all images after another."""
    return images if views == AS_IT_IS else torch.cat([seen_so(images, view) for view in views])


def seen_so(images: Tensor, view: View) -> Tensor:
    """[B, 3, S, S] -> the same images in one view."""
    turned = images.transpose(2, 3) if "t" in view else images
    axes = [axis for letter, axis in (("h", 3), ("v", 2)) if letter in view]
    return torch.flip(turned, axes) if axes else turned


def by_view(logits: Tensor, views: tuple[View, ...]) -> Tensor:
    """Logits [len(views) * B, K] of what `seen` gave -> [len(views), B, K]; of one view they stay [B, K]."""
    return logits if views == AS_IT_IS else logits.view(len(views), -1, logits.shape[1])
