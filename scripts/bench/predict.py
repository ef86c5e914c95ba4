#!/usr/bin/env python
"""Compare the speed of `study predict` with that of decoding alone: the same JPEGs, the same threads, in turn.

There are three sides: decoding without a network; the rows of `study predict` (decode, predict, in order) in this
process; and the whole command with CSV output, whose start includes importing torch. The network is small, with
untrained weights.

Usage: python scripts/bench/predict.py [--images 5000] [--side 768] [--size 128] [--runs 3] [--folder DIR] [--json]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from decoding import make
from harness import Cell, Row, medians, run, seconds, table

from data.images import decode
from models.architecture import CNNConfig, plain_blocks
from models.bundle import folder as bundle
from models.bundle.card import Card, Preprocessing
from models.bundle.reference import IMAGENET
from models.cnn import build_cnn
from study.use.predict import predict_files


def small_model(folder: Path, size: int) -> Path:
    """Save a model of three blocks of 8 to 32 channels and global average pooling; return its folder."""
    layers = {"batch_norm": True, "conv_dropout": 0.0, "dense_units": (), "dense_dropout": 0.0, "head": "gap"}
    config = CNNConfig(num_classes=5, image_size=size, blocks=plain_blocks((8, 16, 32), (3, 3, 3)), **layers)
    preprocessing = Preprocessing(size=size, **IMAGENET)
    card = Card(classes=tuple("abcde"), preprocessing=preprocessing, temperature=1.0)
    images = np.random.default_rng(0).integers(0, 256, (64, size, size, 3), dtype=np.uint8)
    bundle.save(folder, build_cnn(config).eval(), config, card, images)
    return folder


def sides(files: list[Path], model: Path) -> dict[str, Callable[[], None]]:
    loaded = bundle.load(model).to(torch.device("cpu"))
    size = loaded.image_size
    listed = "\n".join(map(str, files)) + "\n"
    command = [sys.executable, "-m", "study", "predict", str(model), "-", "--csv"]

    def decoding() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(lambda file: decode(file, size), files):
                pass

    def rows() -> None:
        assert sum("label" in row for row in predict_files(loaded, files)) == len(files)

    def whole() -> None:
        done = subprocess.run(command, input=listed, capture_output=True, text=True, check=True)
        assert len(done.stdout.splitlines()) == len(files) + 1

    next(predict_files(loaded, files[:1]))  # the first batch of a process is slower
    return {"decoding": decoding, "rows": rows, "command": whole}


def once(works: dict[str, Callable[[], None]], images: int) -> Row:
    """Measure one side after the other, so that a machine whose speed drifts affects all."""
    speeds = {f"{name}, images/s": images / seconds(work) for name, work in works.items()}
    decoding, rows, command = speeds.values()
    return {"images": images, **speeds, "rows / decoding": rows / decoding, "command / decoding": command / decoding}


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    with tempfile.TemporaryDirectory() as place:
        root = given.folder or make(Path(place) / "tiles", given.images, given.side)
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[: given.images]
        works = sides(files, small_model(Path(place) / "model", given.size))
        for number in range(given.runs):
            yield f"run {number + 1}", partial(once, works, len(files))


if __name__ == "__main__":
    options = {"--images": 5000, "--side": (768, "pixels of the generated JPEGs"), "--runs": 3}
    folder = {"type": Path, "help": "JPEGs of your own instead of generated ones"}
    options |= {"--size": (128, "pixels that the model sees"), "--folder": folder}
    run(__doc__ or "", cells, options, lambda rows: table(medians(rows, "images")))
