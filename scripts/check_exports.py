#!/usr/bin/env python
"""Networks of a preset's space through both export formats, beside the network itself: the largest difference.

The corners of what decides the tensors, then points drawn as the tests draw them; four views, as flips give them. One
line for each network that differs by more than 1e-4, and the counts at the end (also after Ctrl-C).

Usage: python scripts/check_exports.py [--preset auto] [--points 200] [--size 64] [--widest 512]
"""

import argparse
import logging
import os
import warnings

import numpy as np
import torch

from models.bundle.export import compare, onnx_bytes, program, program_bytes, run_module, run_onnx, run_program
from models.bundle.predictor import Predictor
from models.bundle.reference import IMAGENET
from models.cnn import build_cnn
from models.scores.views import views_of
from study.config.draw import draw_uniform
from study.config.resolve import STANDING_IN, ask
from study.config.schema import StudyConfig
from study.config.space import distributions, full_point, network_config
from tests.models.test_cnn import corners

CLOSE = 1e-4
"""Largest difference of a probability between a network and its export."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--points", type=int, default=200, help="beside the corners")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--widest", type=int, default=512, help="leave out networks with more channels than that")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    asked = ask(None, {"preset": given.preset})
    config = StudyConfig.model_validate({**asked.fields, **{name: STANDING_IN[name] for name in asked.autos}})
    rng = np.random.default_rng(0)
    kinds = distributions(config.space)
    points = [*corners(config.space), *(draw_uniform(kinds, rng) for _ in range(given.points))]
    images = np.random.default_rng(1).integers(0, 256, (3, given.size, given.size, 3), dtype=np.uint8)
    differences: list[tuple[float, float]] = []
    left_out = 0
    try:
        for number, params in enumerate(points):
            architecture = network_config(full_point(config.space, params), 5, given.size)
            if max(block.filters for block in architecture.blocks) > given.widest:
                left_out += 1
                continue
            torch.manual_seed(number)
            views = views_of("flips", hflip=True, vflip=True)
            predictor = Predictor(build_cnn(architecture), IMAGENET["mean"], IMAGENET["std"], 1.3, views).eval()
            expected = run_module(predictor)(images)
            exported = program(predictor, given.size)
            runs = run_program(program_bytes(exported)), run_onnx(onnx_bytes(exported))
            found = tuple(compare(run, expected, images) for run in runs)
            differences.append((found[0], found[1]))
            if max(found) > CLOSE:
                print(f"network {number} differs by {found}: {params}", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    worst = np.array(differences or [(0.0, 0.0)]).max(axis=0)
    apart = sum(max(pair) > CLOSE for pair in differences)
    print(
        f"{len(differences)} of {len(points)} networks of {given.preset} at {given.size} px ({left_out} wider than "
        f"{given.widest} left out), {os.cpu_count()} cores: {apart} differ by more than {CLOSE:g}; largest difference "
        f"{worst[0]:.1e} (torch.export), {worst[1]:.1e} (ONNX)"
    )
    raise SystemExit(bool(apart))


if __name__ == "__main__":
    main()
