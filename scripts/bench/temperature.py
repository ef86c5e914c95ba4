#!/usr/bin/env python
"""Check whether a temperature from few calibration images does harm: logits of real models on the handwritten digits.

Two models learn from 400 images: a linear one without a penalty, which is far too confident, and a small network
stopped early. Some of the other images are drawn for calibration, each a source of its own, and the rest are the test.
Printed for 200 draws: in how many the test's negative log likelihood is worse by more than 0.01 nats than with a
temperature of 1, in how many the temperature stayed at 1, and the median gain.

Usage: python scripts/bench/temperature.py [--draws 200] [--sizes 10 18 50 100 200 500] [--keep FILE]
"""

import argparse
from collections.abc import Iterator
from functools import cache, partial

import numpy as np
from harness import Cell, Row, run
from numpy.typing import NDArray

from models.scores.calibration import fit_temperature, losses

LEARNED = 400
HARM = 0.01
"""Increase of the negative log likelihood, in nats, above which a temperature does harm."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@cache
def answers(model: str) -> tuple[Floats, Ints]:
    """Return the logits [N, 10] and labels [N] of the images that a model has not learned from."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, labels = digits.data[order] / 16, digits.target[order].astype(np.int64)
    learned = slice(0, LEARNED)
    if model == "linear":
        fitted = LogisticRegression(C=1e4, max_iter=2000).fit(images[learned], labels[learned])
        logits = fitted.decision_function(images[LEARNED:])
    else:
        net = MLPClassifier((64,), max_iter=12, random_state=0, learning_rate_init=0.01)
        net.fit(images[learned], labels[learned])
        logits = np.log(np.maximum(net.predict_proba(images[LEARNED:]), 1e-300))
    return np.asarray(logits, np.float64), labels[LEARNED:]


def drawn(model: str, size: int, draws: int) -> Row:
    """Draw calibration parts, and measure what their temperatures do on the test."""
    logits, labels = answers(model)
    gains, kept = [], 0
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(len(labels))
        cal, test = order[:size], order[size:]
        found = fit_temperature(logits[cal], labels[cal], np.arange(size))
        kept += found == 1
        gains.append(
            float((losses(logits[test], labels[test], 1.0) - losses(logits[test], labels[test], found)).mean())
        )
    return {
        "model": model,
        "calibration images": size,
        "nats before": float(losses(logits, labels, 1.0).mean()),
        "gain, nats (median)": float(np.median(gains)),
        "worse by 0.01, of draws": int((np.array(gains) < -HARM).sum()),
        "kept at 1, of draws": int(kept),
        "draws": draws,
    }


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    for model in ("linear", "network"):
        for size in given.sizes:
            yield f"{model} {size}", partial(drawn, model, size, given.draws)


if __name__ == "__main__":
    run(__doc__ or "", cells, {"--draws": 200, "--sizes": [10, 18, 50, 100, 200, 500]})
