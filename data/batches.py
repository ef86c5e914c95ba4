"""Making batches on the device: images are gathered by index from a uint8 array, augmented and normalised.

Everything random is drawn from torch's default generator, which the training loop seeds at the start of each epoch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from data.augment import Augment

GREY = (0.299, 0.587, 0.114)
"""Luma weights (ITU-R BT.601), as in torchvision's colour jitter."""

STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density of haematoxylin, eosin and DAB in red, green and blue, one row each (Ruifrok and Johnston, 2001)."""


@dataclass(frozen=True)
class Normalisation:
    """Normalisation of each channel on the scale 0 to 1: `mean` is subtracted, then the result is divided by `std`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


Batch = tuple[Tensor, Tensor]
"""A batch: normalised images, float32 [B, 3, H, W] (channels last in memory), and labels, int64 [B]."""


@dataclass(frozen=True)
class DeviceImages:
    """All images of a study, on its device if they fit there."""

    images: Tensor  # uint8 [N, H, W, 3]; in the CPU's memory if the device is too small
    labels: Tensor  # int64 [N], always on the device
    normalisation: Normalisation


SHARE = 0.4
"""Largest share of a GPU's free memory that the images may take."""


def to_device(
    images: NDArray[np.uint8], labels: NDArray[np.int64], device: torch.device, normalisation: Normalisation
) -> DeviceImages:
    """Copy images [N, H, W, 3] and labels [N] to the device, once per process.

    If the images do not fit on a GPU, they stay where they are, and each batch is copied.
    """
    held = torch.from_numpy(images)
    if device.type != "cuda" or images.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]:
        held = held.to(device)
    return DeviceImages(held, torch.from_numpy(labels).to(device), normalisation)


def gather_images(pixels: DeviceImages, chosen: Tensor) -> Tensor:
    """Return the images [B, H, W, 3] with the numbers `chosen` [B], on the device of the labels.

    `chosen` must be on the device of the images.
    """
    found = pixels.images[chosen]
    if found.device == pixels.labels.device:
        return found
    return found.pin_memory().to(pixels.labels.device, non_blocking=True)


def train_batches(pixels: DeviceImages, index: Tensor, batch_size: int, augment: Augment) -> Iterator[Batch]:
    """Yield the batches of one epoch over the images `index` [n], in random order and augmented.

    All batches have the same size, and images that are left over are not used in this epoch. If there are fewer images
    than `batch_size`, they are one batch.
    """
    order = index[torch.randperm(len(index), device=index.device)]
    size = min(batch_size, len(index))
    places = order.to(pixels.images.device)  # once per epoch, since a copy to the CPU waits for the device
    whole = len(index) // size * size
    at_once = _at_once(pixels, size)
    for start in range(0, whole, at_once):
        some = slice(start, min(start + at_once, whole))
        x, y = (
            augment_images(gather_images(pixels, places[some]), augment, pixels.normalisation),
            pixels.labels[order[some]],
        )
        yield from zip(torch.split(x, size), torch.split(y, size), strict=True)


AT_ONCE = 2**22
"""Number of pixels that are augmented at once on CUDA: 50 MB, and several times as much for intermediate results."""


def _at_once(pixels: DeviceImages, size: int) -> int:
    """Return the number of images that are augmented at once: one batch; on CUDA several batches, because launching the
    work for a small batch takes as long as for a large one."""
    if pixels.labels.device.type != "cuda":
        return size
    return size * max(1, AT_ONCE // (size * pixels.images.shape[1] * pixels.images.shape[2]))


SIDE = 224
"""Side of the largest images, in pixels, of which a whole batch goes through a network together without training."""


def images_at_once(most: int, side: int) -> int:
    """Return how many images of a side go through a network together: `most`, or fewer of large ones."""
    return max(1, most * SIDE**2 // max(SIDE, side) ** 2)


def eval_batches(pixels: DeviceImages, index: Tensor, batch_size: int) -> Iterator[Batch]:
    """Yield batches with every image of `index` [n] once, in order, not augmented."""
    places = index.to(pixels.images.device)
    for start in range(0, len(index), batch_size):
        some = slice(start, start + batch_size)
        yield normalise(gather_images(pixels, places[some]), pixels.normalisation), pixels.labels[index[some]]


def normalise(images: Tensor, normalisation: Normalisation) -> Tensor:
    """Normalise images, uint8 [B, H, W, 3], to float32 [B, 3, H, W]."""
    scale, shift = _scale_and_shift(normalisation, images.device)
    return (images * scale + shift).permute(0, 3, 1, 2)


def augment_images(images: Tensor, augment: Augment, normalisation: Normalisation) -> Tensor:
    """Augment images, uint8 [B, H, W, 3], each with its own random parameters, and normalise them to float32
    [B, 3, H, W]."""
    count, device = len(images), images.device
    pixels = images.permute(0, 3, 1, 2).float().contiguous()
    if augment.rotation or augment.hflip or augment.vflip or augment.turns or augment.crop < 1:
        pixels = warp(pixels, random_maps(count, augment, device))
    if augment.stain:
        pixels = change_stains(pixels, 1 + augment.stain * _uniform(count, 2, device=device))
    if augment.jitter:
        pixels = recolour(pixels, 1 + augment.jitter * _uniform(count, 3, device=device), normalisation)
    else:
        scale, shift = _scale_and_shift(normalisation, device)
        pixels = pixels * scale.view(3, 1, 1) + shift.view(3, 1, 1)
    return pixels.contiguous(memory_format=torch.channels_last)


def random_maps(count: int, augment: Augment, device: torch.device) -> Tensor:
    """Draw random affine maps [B, 2, 3] from output to input coordinates (both -1 to 1): crop, flip, then rotation."""
    angle = torch.deg2rad(augment.rotation * _uniform(count, device=device))
    area = 1 - (1 - augment.crop) * torch.rand(count, device=device)
    ratio = torch.exp(math.log(4 / 3) * _uniform(count, device=device)) if augment.crop < 1 else torch.ones_like(area)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = (1 - width) * _uniform(count, device=device), (1 - height) * _uniform(count, device=device)
    if augment.turns:
        angle = angle + torch.randint(4, (count,), device=device) * (math.pi / 2)
    flip_x = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0) if augment.hflip else 1.0
    flip_y = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0) if augment.vflip else 1.0
    return affine(angle, width * flip_x, height * flip_y, left * flip_x, top * flip_y)


def affine(angle: Tensor, scale_x: Tensor, scale_y: Tensor, shift_x: Tensor, shift_y: Tensor) -> Tensor:
    """Return affine maps [B, 2, 3] that scale and shift, then turn by `angle` (radians, counter-clockwise as seen)."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    first = torch.stack([cos * scale_x, -sin * scale_y, cos * shift_x - sin * shift_y], dim=1)
    second = torch.stack([sin * scale_x, cos * scale_y, sin * shift_x + cos * shift_y], dim=1)
    return torch.stack([first, second], dim=1)


def warp(pixels: Tensor, maps: Tensor) -> Tensor:
    """Sample images [B, 3, H, W] bilinearly through affine maps [B, 2, 3]; outside, the mirrored image is used."""
    grid = F.affine_grid(maps, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def recolour(pixels: Tensor, factors: Tensor, normalisation: Normalisation) -> Tensor:
    """Change brightness, contrast and saturation by `factors` [B, 3], then normalise, with one matrix per image.

    This does the same as torchvision's adjust_brightness, adjust_contrast and adjust_saturation in this order, but
    clamps to the valid range once at the end instead of after each. `pixels` [B, 3, H, W] are on the scale 0 to 255.
    """
    device = pixels.device
    grey = _constant(GREY, device)
    bright, contrast, saturation = factors.view(-1, 3, 1).unbind(1)  # [B, 1] each
    middle = bright * (pixels.mean(dim=(2, 3)) @ grey).unsqueeze(1)  # mean grey once brightened
    eye = torch.eye(3, device=device)
    mix = saturation.unsqueeze(2) * eye + (1 - saturation).unsqueeze(2) * grey.expand(3, 3)  # [B, 3, 3]
    scale, shift = _scale_and_shift(normalisation, device)
    matrix = scale.view(3, 1) * mix * (bright * contrast).unsqueeze(2)
    offset = scale * ((1 - contrast) * middle) + shift  # grey rows sum to 1, so the mix keeps a constant
    mixed = torch.baddbmm(offset.unsqueeze(2), matrix, pixels.flatten(2))  # [B, 3, HW]
    low, high = shift.view(3, 1), (255 * scale + shift).view(3, 1)
    return torch.clamp_(mixed, low, high).view_as(pixels)


def change_stains(pixels: Tensor, factors: Tensor) -> Tensor:
    """Multiply the haematoxylin and eosin of each image by `factors` [B, 2]; the third stain stays unchanged.

    `pixels` [B, 3, H, W] are on the scale 0 to 255; optical density is linear in the stains (Beer-Lambert law).
    """
    stains, unmixing = _stains(pixels.device)
    gains = torch.cat([factors, torch.ones_like(factors[:, :1])], dim=1)
    matrix = unmixing @ (gains.unsqueeze(2) * stains)  # [B, 3, 3], density -> density
    density = -torch.log((pixels + 1) / 256)
    changed = matrix.transpose(1, 2) @ density.flatten(2)
    return (256 * torch.exp(-changed) - 1).clamp_(0, 255).view_as(pixels)


def _uniform(*shape: int, device: torch.device) -> Tensor:
    return 2 * torch.rand(*shape, device=device) - 1


# These tensors are made once per device, because copying them from the CPU's memory at every batch makes a GPU wait.


@cache
def _constant(values: tuple[float, ...] | tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values).to(device)


@cache
def _stains(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the optical densities of the stains, one unit vector per row [3, 3], and the inverse of that matrix."""
    with torch.inference_mode(False):
        stains = F.normalize(torch.tensor(STAINS), dim=1)
        return stains.to(device), torch.linalg.inv(stains).to(device)


@cache
def _scale_and_shift(normalisation: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scale [3] and shift [3] that turn pixel values 0..255 into normalised ones."""
    with torch.inference_mode(False):
        mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
        return (1 / (255 * std)).to(device), (-mean / std).to(device)
