"""Speed of decoding a folder of native JPEGs: our cache (2 threads), and torchvision's ImageFolder with Resize.

ImageFolder runs in one process. Also measured: the seconds of a second start with 25,000 images at 128 pixels from the
cache.

.venv/bin/python scripts/bench/decoding.py [--images 2000] [--side 768] [--runs 3]
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from harness import Cell, Row, medians, run, seconds, table
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from data.cache import load_decoded
from data.datasets import load_folder
from data.public import tissue

SIZE = 128


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    with tempfile.TemporaryDirectory() as place:
        root = make(Path(place) / "tiles", given.images, given.side)
        for number in range(given.runs):
            yield f"run {number + 1}", partial(once, root, Path(place) / f"cache{number}")
        yield "second start", partial(second_start, Path(place), given.many)


def once(root: Path, cache: Path) -> Row:
    """Measure both sides, one after the other, so that a machine whose speed drifts affects both."""
    names = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*.jpeg"))
    ours = seconds(lambda: load_decoded(root, names, SIZE, cache))
    theirs = seconds(lambda: image_folder(root))
    return {
        "what": "decoding",
        "images": len(names),
        "ours, images/s": len(names) / ours,
        "ImageFolder + Resize, images/s": len(names) / theirs,
        "ratio": theirs / ours,
        "mean difference of pixels, grey levels": compare(root, names[:200], cache, names),
    }


def make(root: Path, images: int, side: int) -> Path:
    """Write JPEG tiles of the generator, drawn small and enlarged (drawing one of 768 pixels takes a second)."""
    tissue.generate(root, sources=8, copies=1, size=192, seed=1)
    tiles = [Image.open(path).resize((side, side)) for path in sorted(root.glob("*/*.jpeg"))]
    rng = np.random.default_rng(0)
    shutil.rmtree(root)
    for number in range(images):
        folder = root / f"class{number % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        tile = tiles[number % len(tiles)].rotate(int(rng.integers(0, 4)) * 90)
        tile.save(folder / f"{number}.jpeg", quality=90)
    return root


def image_folder(root: Path) -> None:
    """Decode in the usual way: in full, then resized, in one process."""
    folder = ImageFolder(str(root), transforms.Resize((SIZE, SIZE)))
    for image, _ in folder:
        np.asarray(image)


def compare(root: Path, names: list[str], cache: Path, all_names: list[str]) -> float:
    """Compute the mean absolute difference between our pixels and ImageFolder's, in grey levels."""
    ours = load_decoded(root, all_names, SIZE, cache)
    resize = transforms.Resize((SIZE, SIZE))
    differences = [
        np.abs(np.asarray(resize(Image.open(root / name)), np.float32) - ours.images[all_names.index(name)]).mean()
        for name in names
    ]
    return float(np.mean(differences))


def second_start(place: Path, count: int) -> Row:
    """Measure the seconds to load many small files that are already in the cache."""
    root = place / "many"
    for label in range(5):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(count // 5):
            pixels = np.full((8, 8, 3), (number % 251, number // 251, label), np.uint8)
            Image.fromarray(pixels).save(root / f"class{label}" / f"{number}.png")

    def start() -> None:
        load_folder(root, SIZE, place / "many-cache", groups="none")

    start()
    return {"what": "second start", "images": count // 5 * 5, "seconds": seconds(start)}


if __name__ == "__main__":
    options = {"--images": 2000, "--side": (768, "pixels"), "--runs": 3, "--many": (25_000, "of the second start")}
    run(__doc__ or "", cells, options, lambda rows: table(medians(rows, "what", "images")))
