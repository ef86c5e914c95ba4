"""Batches of images in several views, and the logits of each view."""

import torch
from torch import Tensor

from models.scores.views import AS_IT_IS, View


def seen(images: Tensor, views: tuple[View, ...]) -> Tensor:
    """Return images [B, 3, S, S] in all views: [len(views) * B, 3, S, S], all images in one view after another."""
    return images if views == AS_IT_IS else torch.cat([apply_view(images, view) for view in views])


def apply_view(images: Tensor, view: View) -> Tensor:
    """Return images [B, 3, S, S] in one view: mirrored, or turned by quarters."""
    turned = images.transpose(2, 3) if "t" in view else images
    axes = [axis for letter, axis in (("h", 3), ("v", 2)) if letter in view]
    return torch.flip(turned, axes) if axes else turned


def split_views(logits: Tensor, views: tuple[View, ...]) -> Tensor:
    """Reshape the logits [len(views) * B, K] of images from `seen` to [len(views), B, K]; for one view keep [B, K]."""
    return logits if views == AS_IT_IS else logits.view(len(views), -1, logits.shape[1])
