"""Explanations of predictions: Grad-CAM maps (Selvaraju et al. 2017) of the last convolution, laid over the image."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models import ModelError
from models.bundle.predictor import Predictor
from models.cnn import last_maps

SMALLEST = 224
"""Smallest side of an overlay, in pixels; overlays of smaller images are enlarged by a whole factor."""


def grad_cam(predictor: Predictor, images: NDArray[np.uint8], classes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute Grad-CAM maps [N, S, S] of uint8 images [N, S, S, 3] for one class per image [N].

    The values go from 0 to 1, where 1 marks the place that mattered most for the class. A map is 0 everywhere if
    nothing spoke for the class. Raises ModelError if captum is not installed.
    """
    try:
        from captum.attr import LayerGradCam  # imported late: it brings matplotlib, and only explaining needs it
    except ModuleNotFoundError as error:
        raise ModelError("explaining needs captum (install it with: pip install captum)") from error
    device = predictor.mean.device
    inputs = predictor.normalised(torch.from_numpy(images).to(device)).requires_grad_()
    method = LayerGradCam(predictor.model, last_maps(predictor.model))
    maps = method.attribute(inputs, torch.from_numpy(classes).to(device), relu_attributions=True).detach()
    whole = F.interpolate(maps, size=images.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
    peak = whole.amax(dim=(1, 2), keepdim=True)
    return np.asarray(torch.where(peak > 0, whole / peak, 0.0).cpu().numpy())


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> Image.Image:
    """Draw a map [S, S] in blue, yellow and red over its image [S, S, 3]."""
    colours = ImageOps.colorize(Image.fromarray((255 * heat).astype(np.uint8)), "navy", "red", mid="yellow")
    blended = Image.blend(Image.fromarray(image), colours, 0.4)
    times = -(-SMALLEST // image.shape[0])
    return blended.resize((image.shape[1] * times, image.shape[0] * times), Image.Resampling.NEAREST)
