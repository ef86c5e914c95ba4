"""Limit on the size of a network, counted and never measured; and the cheapest point of a space."""

import math
from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, Field

from models.architecture import CNNConfig, side_after
from models.cost import Cost, cost
from study.config.space import PARAMETERS, Entry, Range, Value, contains, distributions, full_point, network_config

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

SHAPING = (
    "num_conv_blocks",
    "block",
    "stem_stride",
    "base_filters",
    "filters_multiplier",
    "kernel_sizes",
    "head",
    "dense_units",
    "backbone",
)
"""Parameters that a network's cost depends on."""


class Limit(BaseModel):
    """Largest network that may be proposed, counted with one class, so that it does not depend on the images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gflops: Positive | None = Field(None, description="arithmetic of one image forward, 10^9 operations")
    megabytes: Positive | None = Field(None, description="activations of one image in single precision, 10^6 bytes")
    params: Annotated[int, Field(gt=0)] | None = Field(None, description="trainable numbers")

    def exceeded_by(self, network: Cost) -> str | None:
        """Return in words what is too large; None when the network is within the limit."""
        for name, allowed in self.model_dump().items():
            there = getattr(network, name)
            if allowed is not None and there > allowed:
                return f"{name} {there:.4g}, limit {allowed:.4g}"
        return None


def cost_of(space: Mapping[str, Entry], params: Mapping[str, Value], image_size: int) -> Cost:
    """Return the cost of a point's network with one class. Raises ModelError for an impossible one."""
    return cost(network_config(full_point(space, params), 1, image_size))


def limit_violation(
    limit: Limit, space: Mapping[str, Entry], params: Mapping[str, Value], image_size: int
) -> str | None:
    """Return why a point lies above the limit, or shrinks images to nothing; None when neither."""
    network = network_config(full_point(space, params), 1, image_size)
    if isinstance(network, CNNConfig) and side_after(image_size, network.strides) < 1:
        return f"blocks {len(network.blocks)}, stem_stride {network.strides[0]}: nothing is left of {image_size} pixels"
    return None if limit == Limit() else limit.exceeded_by(cost(network))


def cheapest(space: Mapping[str, Entry], image_size: int) -> dict[str, Value]:
    """Return the point with the least arithmetic.

    A parameter without a cost is at its default or, if the space lacks that, at the first of its values or an end of
    its range.
    """
    point = {name: _usual(space, name) for name in distributions(space)}
    for _ in range(2):  # a second round for parameters that depend on each other
        for name in SHAPING:
            if name in point:
                tried = [{**point, name: value} for value in _ends(name, space[name])]
                point = min(tried, key=lambda one: _order(space, one, image_size))
    return point


def _order(space: Mapping[str, Entry], point: Mapping[str, Value], image_size: int) -> tuple[float, ...]:
    if limit_violation(Limit(), space, point, image_size):
        return (math.inf,)
    network = cost_of(space, point, image_size)
    return network.flops, network.numbers, network.params


def _usual(space: Mapping[str, Entry], name: str) -> Value:
    default, entry = PARAMETERS[name].default, space[name]
    if contains(space, name, default):
        return default
    if isinstance(entry, list):
        return entry[0]
    low, high = _ends(name, entry)
    if isinstance(default, int | float) and isinstance(high, int | float) and default > high:
        return high
    return low  # the default is smaller, or the steps of the range leave it out


def _ends(name: str, entry: Entry) -> list[Value]:
    """Return the values of a list, or the ends of a range, whose last step need not be the `high` that was given."""
    if isinstance(entry, list):
        return entry
    if not isinstance(entry, Range):
        return [entry]
    found = distributions({name: entry})[name]
    assert isinstance(found, FloatDistribution | IntDistribution)
    return [found.low, found.high]
