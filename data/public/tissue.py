"""Synthetic tissue: tiles that look like H&E stains, organised like LC25000, for tests and benchmarks only.

Each source tile is written as several augmented copies, as LC25000 was made (Borkowski et al. 2019, with the
Augmentor package): rotated by up to 25 degrees, cropped to the inner square, scaled back, flipped, and saved as
JPEG. The true groups are written to groups.csv. Nothing measured on these images says anything about tissue.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from data.cache import publish

MAX_ROTATION = 25.0
"""Largest rotation of a copy, in degrees in either direction."""


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """The appearance of one class, for a tile of 256 pixels in width and height."""

    nuclei: int  # number of nuclei, on average
    nucleus_radius: float  # typical radius, pixels
    pleomorphism: float  # spread of nuclear size and shape, 0..1
    lumens: int  # number of white openings lined by nuclei (glands, airways)
    fibres: int  # number of wavy fibres of stroma


CLASSES: dict[str, Tissue] = {
    "synthetic_colon_aca": Tissue(nuclei=170, nucleus_radius=6.5, pleomorphism=0.55, lumens=3, fibres=10),
    "synthetic_colon_n": Tissue(nuclei=110, nucleus_radius=4.5, pleomorphism=0.15, lumens=6, fibres=14),
    "synthetic_lung_aca": Tissue(nuclei=140, nucleus_radius=7.0, pleomorphism=0.45, lumens=2, fibres=22),
    "synthetic_lung_n": Tissue(nuclei=55, nucleus_radius=4.0, pleomorphism=0.15, lumens=9, fibres=8),
    "synthetic_lung_scc": Tissue(nuclei=190, nucleus_radius=7.5, pleomorphism=0.40, lumens=0, fibres=18),
}


def generate(
    directory: Path, *, sources: int = 24, copies: int = 5, size: int = 96, seed: int = 0, quality: int = 90
) -> Path:
    """Write `sources` tiles per class, each as `copies` JPEGs of `size` pixels, and groups.csv (path, group).

    The same arguments give the same files (for one Pillow version). The folder is complete or absent. Returns
    `directory`.
    """

    def write(part: Path) -> None:
        with (part / "groups.csv").open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["path", "group"])
            for class_number, (name, look) in enumerate(CLASSES.items()):
                (part / name).mkdir()
                # File numbers are shuffled, so that neighbours in a listing are not siblings.
                numbers = iter(np.random.default_rng([seed, class_number]).permutation(sources * copies))
                for source in range(sources):
                    rng = np.random.default_rng([seed, class_number, source])
                    for copy in augmented_copies(render(look, size, rng), size, copies, rng):
                        path = f"{name}/{name}{next(numbers) + 1}.jpeg"
                        copy.save(part / path, quality=quality)
                        writer.writerow([path, f"{name}-{source}"])

    publish(directory, write)
    return directory


def augmented_copies(tile: Image.Image, size: int, copies: int, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Yield copies of `size` pixels, rotated by up to 25 degrees, cropped to the inner square and randomly flipped."""
    for _ in range(copies):
        angle = float(rng.uniform(-MAX_ROTATION, MAX_ROTATION))
        turned = tile.rotate(angle, resample=Image.Resampling.BICUBIC)
        radians = math.radians(abs(angle))
        side = tile.width / (math.cos(radians) + math.sin(radians))  # largest square without empty corners
        edge = (tile.width - side) / 2
        copy = turned.resize(
            (size, size), Image.Resampling.BICUBIC, box=(edge, edge, tile.width - edge, tile.width - edge)
        )
        if rng.random() < 0.5:
            copy = copy.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < 0.5:
            copy = copy.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        yield copy


def render(look: Tissue, size: int, rng: np.random.Generator) -> Image.Image:
    """Draw one source tile of `size` pixels, at twice that size and then reduced, for smooth edges."""
    canvas = 2 * size
    scale = canvas / 256
    eosin = np.array([226, 158, 190]) + rng.normal(0, 10, 3)
    haematoxylin = np.array([92, 58, 138]) + rng.normal(0, 10, 3)
    image = Image.fromarray(_ground(eosin, canvas, rng))
    draw = ImageDraw.Draw(image)
    _draw_fibres(draw, look, eosin, canvas, scale, rng)
    centres = _draw_lumens(draw, look, eosin, canvas, scale, rng)
    count = max(1, round(look.nuclei * float(rng.uniform(0.8, 1.2))))
    scattered = rng.uniform(0, canvas, (max(0, count - len(centres)), 2))
    for x, y in np.concatenate([centres, scattered]):
        _draw_nucleus(draw, look, haematoxylin, (float(x), float(y)), scale, rng)
    image = image.filter(ImageFilter.GaussianBlur(0.6 * scale))
    noisy = np.asarray(image, np.float32) + rng.normal(0, 4, (canvas, canvas, 1))
    sharp = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return sharp.resize((size, size), Image.Resampling.LANCZOS)


def _colour(base: NDArray[np.float64], rng: np.random.Generator, spread: float) -> tuple[int, int, int]:
    red, green, blue = np.clip(base + rng.normal(0, spread) + rng.normal(0, spread / 3, 3), 0, 255)
    return int(red), int(green), int(blue)


def _ground(eosin: NDArray[np.float64], canvas: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the cytoplasm: smooth noise on three scales."""
    total = np.zeros((canvas, canvas), np.float32)
    for cells, height in ((4, 10.0), (12, 8.0), (40, 7.0)):
        coarse = Image.fromarray(rng.normal(0, height, (cells, cells)).astype(np.float32))
        total += np.asarray(coarse.resize((canvas, canvas), Image.Resampling.BICUBIC))
    return np.clip(eosin + total[..., None], 0, 255).astype(np.uint8)


def _draw_fibres(
    draw: ImageDraw.ImageDraw,
    look: Tissue,
    eosin: NDArray[np.float64],
    canvas: int,
    scale: float,
    rng: np.random.Generator,
) -> None:
    direction = rng.uniform(0, math.pi)
    along = np.array([math.cos(direction), math.sin(direction)])
    across = np.array([-along[1], along[0]])
    steps = np.linspace(-canvas, canvas, 48)
    for _ in range(look.fibres):
        start = rng.uniform(0, canvas, 2)
        wave = rng.uniform(3, 12) * scale * np.sin(steps / (rng.uniform(14, 40) * scale) + rng.uniform(0, 6.3))
        points = start + steps[:, None] * along + wave[:, None] * across
        colour = _colour(eosin + np.array([-14, -48, -26]), rng, 10)
        draw.line([(float(x), float(y)) for x, y in points], fill=colour, width=max(1, round(2 * scale)))


def _draw_lumens(
    draw: ImageDraw.ImageDraw,
    look: Tissue,
    eosin: NDArray[np.float64],
    canvas: int,
    scale: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw white openings with a rim of cytoplasm; return the centres [n, 2] of the nuclei that line them."""
    lining: list[tuple[float, float]] = []
    for _ in range(look.lumens):
        x, y = rng.uniform(0, canvas, 2)
        angles = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        radius = rng.uniform(10, 24) * scale * (1 + rng.normal(0, 0.08 + 0.3 * look.pleomorphism, 24))
        for grow, colour in (
            (1.6, _colour(eosin + np.array([6, -22, -4]), rng, 6)),
            (1.0, _colour(np.array([244.0, 240.0, 244.0]), rng, 3)),
        ):
            edge = [
                (x + grow * r * math.cos(a), y + grow * r * math.sin(a)) for a, r in zip(angles, radius, strict=True)
            ]
            draw.polygon(edge, fill=colour)
        lining += [
            (x + 1.35 * r * math.cos(a), y + 1.35 * r * math.sin(a))
            for a, r in zip(angles[::2], radius[::2], strict=True)
        ]
    return np.array(lining).reshape(-1, 2)


def _draw_nucleus(
    draw: ImageDraw.ImageDraw,
    look: Tissue,
    haematoxylin: NDArray[np.float64],
    centre: tuple[float, float],
    scale: float,
    rng: np.random.Generator,
) -> None:
    radius = look.nucleus_radius * scale * float(np.exp(rng.normal(0, 0.15 + 0.5 * look.pleomorphism)))
    turn, flat = rng.uniform(0, math.pi), float(rng.uniform(0.55, 0.95))
    angles = np.linspace(0, 2 * math.pi, 14, endpoint=False)
    radii = radius * (1 + rng.normal(0, 0.04 + 0.15 * look.pleomorphism, 14))
    x, y = radii * np.cos(angles), flat * radii * np.sin(angles)
    edge = [
        (
            centre[0] + float(a) * math.cos(turn) - float(b) * math.sin(turn),
            centre[1] + float(a) * math.sin(turn) + float(b) * math.cos(turn),
        )
        for a, b in zip(x, y, strict=True)
    ]
    draw.polygon(edge, fill=_colour(haematoxylin, rng, 14))
    if look.pleomorphism > 0.3 and rng.random() < 0.5:  # a nucleolus
        dot = 0.22 * radius
        draw.ellipse(
            (centre[0] - dot, centre[1] - dot, centre[0] + dot, centre[1] + dot),
            fill=_colour(haematoxylin * 0.6, rng, 6),
        )
