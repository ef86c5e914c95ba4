"""Decoding a folder of native JPEGs: ours (2 threads, into the cache) against torchvision's ImageFolder with Resize in
one process; and a second start of 25,000 images at 128 pixels from the cache. One table, and the same as JSON.

.venv/bin/python scripts/bench_decoding.py [--images 2000] [--side 768] [--runs 3]
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from data.cache import decoded
from data.datasets import load_folder
from data.public import tissue

SIZE = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=768)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = make(Path(place) / "tiles", args.images, args.side)
        names = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*.jpeg"))
        ours, theirs, ratios = [], [], []
        for run in range(args.runs):  # in turn, so that a drifting machine hits both
            ours.append(timed(lambda run=run: decoded(root, names, SIZE, Path(place) / f"cache{run}")))
            theirs.append(timed(lambda: image_folder(root)))
            ratios.append(theirs[-1] / ours[-1])
        difference = compare(root, names[:200], Path(place) / "cache0", names)
        second = second_start(Path(place))
    rows = {
        "images": len(names),
        "side, pixels": args.side,
        "processors": os.cpu_count(),
        "ours, images/s (median)": round(len(names) / statistics.median(ours)),
        "ImageFolder + Resize, images/s (median)": round(len(names) / statistics.median(theirs)),
        "ratio, run by run": [round(ratio, 2) for ratio in ratios],
        "mean difference of pixels, grey levels": round(difference, 3),
        "second start, 25,000 images at 128 px, s": round(second, 3),
    }
    for key, value in rows.items():
        print(f"{key:45} {value}")
    print(json.dumps(rows))


def make(root: Path, images: int, side: int) -> Path:
    """Tiles of the generator, drawn small and enlarged (drawing 768 pixels takes a second each), as JPEG."""
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


def timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def image_folder(root: Path) -> None:
    """The usual way: decode in full, resize, one process."""
    folder = ImageFolder(str(root), transforms.Resize((SIZE, SIZE)))
    for image, _ in folder:
        np.asarray(image)


def compare(root: Path, names: list[str], cache: Path, all_names: list[str]) -> float:
    """Mean absolute difference between our pixels and ImageFolder's."""
    ours = decoded(root, all_names, SIZE, cache)
    resize = transforms.Resize((SIZE, SIZE))
    differences = [
        np.abs(np.asarray(resize(Image.open(root / name)), np.float32) - ours.images[all_names.index(name)]).mean()
        for name in names
    ]
    return float(np.mean(differences))


def second_start(place: Path) -> float:
    """Seconds to load 25,000 small files whose cache is there."""
    root = place / "many"
    for label in range(5):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(5000):
            pixels = np.full((8, 8, 3), (number % 251, number // 251, label), np.uint8)
            Image.fromarray(pixels).save(root / f"class{label}" / f"{number}.png")
    load_folder(root, SIZE, place / "many-cache", groups="none")
    return timed(lambda: load_folder(root, SIZE, place / "many-cache", groups="none"))


if __name__ == "__main__":
    main()
