#!/usr/bin/env python
"""How near `study predict` comes to the speed of decoding alone: the same JPEGs, the same threads, in turn.

Three sides: decoding without a network; the rows of `study predict` (decode, predict, in order) in this process; and
the whole command with CSV output, whose start includes importing torch. The network is small, with untrained weights.

Usage: python scripts/bench_predict.py [--images 5000] [--side 768] [--size 128] [--runs 3] [--folder DIR] [--json]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_decoding import make

from data.images import decode
from models.architecture import CNNConfig, plain_blocks
from models.bundle import folder as bundle
from models.bundle.card import Card, Preprocessing
from models.bundle.reference import IMAGENET
from models.cnn import build_cnn
from study.use.predict import predict_files


def small_model(folder: Path, size: int) -> Path:
    """Three blocks of 8 to 32 channels and global average pooling."""
    config = CNNConfig(
        num_classes=5,
        image_size=size,
        blocks=plain_blocks((8, 16, 32), (3, 3, 3)),
        batch_norm=True,
        conv_dropout=0.0,
        dense_units=(),
        dense_dropout=0.0,
        head="gap",
    )
    preprocessing = Preprocessing(size=size, **IMAGENET)
    card = Card(classes=tuple("abcde"), preprocessing=preprocessing, temperature=1.0)
    images = np.random.default_rng(0).integers(0, 256, (64, size, size, 3), dtype=np.uint8)
    bundle.save(folder, build_cnn(config).eval(), config, card, images)
    return folder


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(files: list[Path], model: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of each side, run by run."""
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

    sides = {"decoding": decoding, "rows": rows, "command": whole}
    next(predict_files(loaded, files[:1]))  # the first batch of a process is slower
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, work in sides.items():  # in turn, so that a drifting machine hits all
            found[name].append(timed(work))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--side", type=int, default=768, help="pixels of the generated JPEGs")
    parser.add_argument("--size", type=int, default=128, help="pixels that the model sees")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="JPEGs of your own instead of generated ones")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = args.folder or make(Path(place) / "tiles", args.images, args.side)
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[: args.images]
        seconds = measure(files, small_model(Path(place) / "model", args.size), args.runs)
    speeds = {name: [len(files) / one for one in taken] for name, taken in seconds.items()}
    found: dict[str, Any] = {
        "images": len(files),
        "side": args.side,
        "size": args.size,
        "machine": f"{os.cpu_count()} {platform.machine()} processors, {torch.get_num_threads()} torch threads",
        "images_per_second": {name: round(statistics.median(each)) for name, each in speeds.items()},
        "of_decoding": {
            name: [round(one / decoding, 3) for one, decoding in zip(speeds[name], speeds["decoding"], strict=True)]
            for name in ("rows", "command")
        },
    }
    if args.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
