"""Points drawn from a space without Optuna: anywhere, or near a point. Pure functions of a generator's state."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

KEPT = 0.7
"""Probability that a choice stays as it is near a point."""
SPREAD = 0.15
"""Standard deviation near a point, as a share of the range."""

Point = dict[str, Any]


def draw_uniform(kinds: Mapping[str, BaseDistribution], rng: np.random.Generator) -> Point:
    """Draw a point uniformly, on the scale of each parameter."""
    return {name: _at(kind, rng.random()) for name, kind in kinds.items()}


def draw_near(point: Mapping[str, Any], kinds: Mapping[str, BaseDistribution], rng: np.random.Generator) -> Point:
    """Draw a point near another one (as PriorBand draws around its incumbent: Mallik et al. 2023)."""
    found: Point = {}
    for name, kind in kinds.items():
        chance, place, step = rng.random(), rng.random(), rng.standard_normal()
        if isinstance(kind, CategoricalDistribution):
            found[name] = point[name] if chance < KEPT else _at(kind, place)
        else:
            found[name] = _at(kind, min(1.0, max(0.0, _share(kind, point[name]) + SPREAD * step)))
    return found


def _at(kind: BaseDistribution, share: float) -> Any:
    """Return the value at a share from 0 to 1 of the range."""
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[min(int(share * len(kind.choices)), len(kind.choices) - 1)]
    assert isinstance(kind, FloatDistribution | IntDistribution)
    low, high = float(kind.low), float(kind.high)
    at = low * (high / low) ** share if kind.log else low + share * (high - low)
    if kind.step is not None:
        at = kind.low + round((at - kind.low) / kind.step) * kind.step
    at = min(kind.high, max(kind.low, at))
    return int(at) if isinstance(kind, IntDistribution) else float(at)


def _share(kind: BaseDistribution, value: float) -> float:
    """Return where a number lies in its range, from 0 to 1."""
    assert isinstance(kind, FloatDistribution | IntDistribution)
    low, high = float(kind.low), float(kind.high)
    return math.log(value / low) / math.log(high / low) if kind.log else (value - low) / (high - low)
