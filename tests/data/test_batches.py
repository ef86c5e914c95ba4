"""Augmentation against torchvision's own result for fixed parameters; batches that differ or do not, as they should."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv

from data.augment import Augment
from data.batches import (
    Normalisation,
    affine,
    augment_images,
    change_stains,
    eval_batches,
    normalise,
    random_maps,
    recolour,
    to_device,
    train_batches,
    warp,
)
from tests.conftest import random_images

CPU = torch.device("cpu")
NORM = Normalisation((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
ALL = Augment(rotation=20, hflip=True, vflip=True, turns=True, crop=0.8, jitter=0.2, stain=0.2)


def smooth(count: int = 3, size: int = 32) -> torch.Tensor:
    """Images [B, 3, H, W] on the scale 0..255 without hard edges, away from the limits."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 80 + 80
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").contiguous()


def maps(angle: float = 0, sx: float = 1, sy: float = 1, dx: float = 0, dy: float = 0, count: int = 3) -> torch.Tensor:
    values = [torch.full((count,), float(v)) for v in (math.radians(angle), sx, sy, dx, dy)]
    return affine(*values)


@pytest.mark.parametrize("angle", [-20.0, 7.5, 20.0])
def test_rotation_as_torchvision(angle: float) -> None:
    images = smooth()
    ours = warp(images, maps(angle))
    theirs = tv.rotate(images, angle, interpolation=tv.InterpolationMode.BILINEAR)
    inside = slice(8, 24)  # torchvision fills the corners with black, we mirror
    assert torch.allclose(ours[..., inside, inside], theirs[..., inside, inside], atol=0.05)


def test_flips_as_torchvision() -> None:
    images = smooth()
    assert torch.allclose(warp(images, maps(sx=-1)), tv.horizontal_flip(images), atol=1e-3)
    assert torch.allclose(warp(images, maps(sy=-1)), tv.vertical_flip(images), atol=1e-3)


def test_crop_as_torchvision() -> None:
    images = smooth()
    top, left, height, width = 2, 4, 24, 28
    ours = warp(
        images, maps(sx=width / 32, sy=height / 32, dx=(2 * left + width) / 32 - 1, dy=(2 * top + height) / 32 - 1)
    )
    theirs = tv.resized_crop(images, top, left, height, width, [32, 32], antialias=False)
    inside = slice(1, 31)  # at the very edge torchvision repeats the crop's last pixel, we see the one beyond
    assert torch.allclose(ours[..., inside, inside], theirs[..., inside, inside], atol=0.05)


def denormalised(images: torch.Tensor) -> torch.Tensor:
    return (images * torch.tensor(NORM.std).view(3, 1, 1) + torch.tensor(NORM.mean).view(3, 1, 1)) * 255


@pytest.mark.parametrize("factors", [(1.2, 1, 1), (1, 0.8, 1), (1, 1, 1.2), (0.9, 1.1, 0.8)])
def test_colour_as_torchvision(factors: tuple[float, float, float]) -> None:
    images = smooth() / 255
    brightness, contrast, saturation = factors
    theirs = tv.adjust_brightness(images, brightness)
    theirs = tv.adjust_saturation(tv.adjust_contrast(theirs, contrast), saturation)
    ours = denormalised(recolour(images * 255, torch.tensor([factors] * 3), NORM))
    assert torch.allclose(ours, theirs * 255, atol=0.1)


def test_colour_is_clamped_to_valid_pixels() -> None:
    bright = torch.full((1, 3, 4, 4), 250.0)
    assert denormalised(recolour(bright, torch.tensor([[1.9, 1.0, 1.0]]), NORM)).max() <= 255.01


def test_stain_factors_of_one_change_nothing_and_more_haematoxylin_darkens() -> None:
    images = smooth()
    assert torch.allclose(change_stains(images, torch.ones(3, 2)), images, atol=0.05)
    more = change_stains(images, torch.tensor([[1.3, 1.0]] * 3))
    assert more[:, 0].mean() < images[:, 0].mean() - 5


def test_no_augmentation_is_normalisation() -> None:
    images = torch.from_numpy(random_images(4, 16))
    assert torch.allclose(augment_images(images, Augment(), NORM), normalise(images, NORM), atol=1e-5)
    assert torch.allclose(augment_images(images, ALL.scaled(0), NORM), normalise(images, NORM), atol=1e-5)


@pytest.mark.parametrize("name", ["rotation", "hflip", "vflip", "turns", "crop", "jitter", "stain"])
def test_each_switch_works_alone_and_per_image(name: str) -> None:
    one = torch.from_numpy(random_images(1, 16)).expand(32, -1, -1, -1)
    torch.manual_seed(0)
    result = augment_images(one, Augment(**{name: getattr(ALL, name)}), NORM)
    assert result.isfinite().all()
    assert len({tuple(image.flatten().tolist()) for image in result}) > 1
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["jitter", "stain"])
def test_colours_change_by_as_much_as_was_asked(name: str) -> None:
    images = smooth(count=64).permute(0, 2, 3, 1).to(torch.uint8)
    plain = denormalised(normalise(images, NORM))
    torch.manual_seed(0)
    moved = [
        (denormalised(augment_images(images, Augment(**{name: much}), NORM)) - plain).abs() for much in (0.01, 0.1)
    ]
    little, more = (one.mean(dim=(1, 2, 3)) for one in moved)
    assert little.max() < 6  # of 255
    assert 5 < more.mean() / little.mean() < 20


def test_maps_stay_within_what_was_asked() -> None:
    torch.manual_seed(0)
    drawn = random_maps(2000, Augment(rotation=20, crop=0.8), CPU)
    angle = torch.rad2deg(torch.atan2(drawn[:, 1, 0], drawn[:, 0, 0]))
    assert angle.abs().max() <= 20.01
    assert angle.abs().max() > 19
    area = drawn[:, 0, 0] * drawn[:, 1, 1] - drawn[:, 0, 1] * drawn[:, 1, 0]
    assert 0.6 < area.min() < 0.85  # the aspect ratio cannot always be met inside the image
    assert area.max() <= 1.001


def test_crops_lie_anywhere_inside_the_image() -> None:
    torch.manual_seed(0)
    maps = random_maps(4000, Augment(crop=0.5), CPU)
    for axis in (0, 1):
        room = 1 - maps[:, axis, axis]  # on either side of the middle
        shift = maps[:, axis, 2]
        assert (shift.abs() <= room + 1e-6).all()
        place = (shift / room)[room > 0.05]
        assert abs(place.mean()) < 0.05
        assert abs(place.std() - 3**-0.5) < 0.03  # uniform from -1 to 1
    whole = maps[(maps[:, 0, 0] < 1) & (maps[:, 1, 1] < 1)]  # the others are cut off at the image's edge
    ratio = (whole[:, 0, 0] / whole[:, 1, 1]).log().abs().max()
    assert 0.95 * math.log(4 / 3) < ratio <= math.log(4 / 3) + 1e-4


def test_turns_are_quarters_all_alike() -> None:
    image = torch.from_numpy(random_images(1, 16))
    torch.manual_seed(0)
    seen = augment_images(image.expand(200, -1, -1, -1), Augment(turns=True), NORM)
    expected = [torch.rot90(normalise(image, NORM), times, (2, 3)) for times in range(4)]
    found = [min(range(4), key=lambda k: (one - expected[k]).abs().max().item()) for one in seen]
    assert max((one - expected[k]).abs().max().item() for one, k in zip(seen, found, strict=True)) < 1e-3
    assert all(30 < found.count(times) < 70 for times in range(4))


def test_training_batches_of_two_epochs_differ_and_validation_batches_do_not() -> None:
    pixels = to_device(random_images(50, 8), np.arange(50), CPU, NORM)
    index = torch.arange(10, 50)
    torch.manual_seed(1)
    first = list(train_batches(pixels, index, 16, ALL))
    second = list(train_batches(pixels, index, 16, ALL))
    assert [len(y) for _, y in first] == [16, 16]
    assert not torch.equal(first[0][1], second[0][1])
    torch.manual_seed(1)
    again = list(train_batches(pixels, index, 16, ALL))
    assert torch.equal(first[1][0], again[1][0])
    checks = [list(eval_batches(pixels, index, 16)) for _ in range(2)]
    assert [len(y) for _, y in checks[0]] == [16, 16, 8]
    assert torch.cat([y for _, y in checks[0]]).tolist() == list(range(10, 50))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(*checks, strict=True))


def test_a_dataset_smaller_than_a_batch_is_one_batch() -> None:
    pixels = to_device(random_images(5, 8), np.arange(5), CPU, NORM)
    assert [len(y) for _, y in train_batches(pixels, torch.arange(5), 64, Augment())] == [5]
