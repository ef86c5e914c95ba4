"""Prediction with a loaded network: uint8 images in, calibrated probabilities out."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import ModelError
from models.bundle.card import Card, Ranges
from models.cnn import CNN, fuse_for_prediction, prepare
from models.precision import full_precision
from models.scores.transforms import seen, split_views
from models.scores.views import AS_IT_IS, View

logger = logging.getLogger(__name__)


class Predictor(nn.Module):
    """Module from uint8 images to probabilities, with normalisation and temperature inside, so that they always match
    the training."""

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(
        self,
        model: CNN,
        mean: Sequence[float],
        std: Sequence[float],
        temperature: float,
        views: tuple[View, ...] = AS_IT_IS,
    ) -> None:
        super().__init__()
        self.model = model
        self.views = views
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.register_buffer("temperature", torch.tensor(temperature))

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images, uint8 [B, S, S, 3], to the input that the network was trained on, float [B, 3, S, S]."""
        return torch.addcmul(-self.mean / self.std, images.permute(0, 3, 1, 2).float(), 1 / (255 * self.std))

    def forward(self, images: Tensor) -> Tensor:
        """Return the probabilities [B, K] of images, uint8 [B, S, S, 3], averaged over the views."""
        logits = split_views(self.model(seen(self.normalised(images), self.views)), self.views)
        probabilities = torch.softmax(logits / self.temperature, dim=-1)
        return probabilities if self.views == AS_IT_IS else probabilities.mean(dim=0)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded model that is ready to predict, with its classes and its card."""

    predictor: Predictor
    classes: tuple[str, ...]
    image_size: int
    card: Card | None = None  # None for a checkpoint of the reference system
    allowed: float | None = None  # most megapixels of an image, if the user has set it

    @property
    def ranges(self) -> Ranges:
        """Numbers that were black and white in the training images; empty if all of them had 8 bits."""
        return self.card.preprocessing.ranges if self.card else {}

    def megapixels(self, most: float) -> float:
        """Return the largest size, in megapixels, of an image that is decoded: what the user allows, else what the card
        allows, but then no more than `most`, because the card may come from a stranger."""
        asked = self.setting("max_megapixels", most)
        if self.allowed is None and asked > most:
            logger.warning(
                f"the model's card allows images of {asked:g} megapixels; {most:g} is what is decoded here (allow more "
                "with --max-megapixels)"
            )
        return self.allowed or min(asked, most)

    def setting(self, name: str, default: float) -> float:
        """Return a positive number from the configuration of the model's study; `default` if it has no valid one."""
        value = self.card.study.config.get(name) if self.card and self.card.study else None
        good = isinstance(value, int | float) and math.isfinite(value) and value > 0
        return float(value) if good and isinstance(value, int | float) else default

    def predict(self, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.float64]:
        """Return the probabilities [N, K] of uint8 images [N, S, S, 3] of the model's image size.

        Raises ModelError if some are not numbers, as for weights that overflow.
        """
        device = self.predictor.mean.device
        with torch.inference_mode(), full_precision(device):
            parts = [
                self.predictor(torch.from_numpy(images[i : i + batch_size]).to(device)).cpu().double()
                for i in range(0, len(images), batch_size)
            ]
        found = torch.cat(parts)
        if not found.isfinite().all():
            raise ModelError("the network's probabilities are no numbers (its weights or normalisation are too large)")
        return found.numpy()

    def to(self, device: torch.device) -> Self:
        """Move the model to a device, in place, in the channels-last layout.

        Pixels come in this layout, and convolutions are faster with it. Afterwards the model can only predict, see
        models.cnn.fuse_for_prediction.
        """
        self.predictor.model = prepare(fuse_for_prediction(self.predictor.model), device)
        self.predictor.to(device)
        return self
