"""Search space: its parameters, their Optuna distributions, and the way from a point to configurations.

A space is a flat dict of parameter name -> entry. An entry is a list (one of these), a Range, or a single value
(fixed, not searched). Parameters that a space does not name keep their default. Sequences are strings such as
"3-5-3", so that they survive the database and read well in SQL.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, model_validator

from models.architecture import Architecture, Backbone, BackboneConfig, Block, CNNConfig, Head, Kind
from models.training.recipe import DecayedParameters, Optimizer, Schedule, TrainConfig, rate_for_batch
from study import StudyError

Value = bool | int | float | str


MOST_STEPS = 1_000_000
"""Most steps in a range, since Optuna looks at each of them."""


class Range(BaseModel):
    """Numbers from low to high, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low} and {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a log range needs low above 0 and no step")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step must lie above 0 and within the range, not {self.step}")
        if self.step is not None and (self.high - self.low) / self.step > MOST_STEPS:
            raise ValueError(f"step = {self.step} makes more than {MOST_STEPS:,} values")
        return self


Entry = Range | list[Value] | Value


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """Parameter that a space may search: its type, default, and what is allowed."""

    default: Value
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    pattern: str = ""
    meaning: str

    @property
    def allowed(self) -> str:
        """Return in words which values are allowed."""
        if isinstance(self.default, bool):
            return "true or false"
        if self.choices:
            return " or ".join(self.choices)
        if self.pattern:
            return f'a string such as "{self.default}"'
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}"

    def check(self, value: object) -> Value:
        """Return the value in this parameter's type. Raises ValueError when it is not allowed."""
        good: Value | None = None
        if isinstance(self.default, bool):
            good = value if isinstance(value, bool) else None
        elif isinstance(value, str):
            matches = value in self.choices or (self.pattern and re.fullmatch(self.pattern, value))
            good = value if matches else None
        elif isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high:
            if isinstance(self.default, float):
                good = float(value)
            elif isinstance(self.default, int) and value == int(value):
                good = int(value)
        if good is None:
            raise ValueError(f"{value!r} is not allowed (allowed: {self.allowed})")
        return good


PARAMETERS: dict[str, Parameter] = {
    "num_conv_blocks": Parameter(default=4, low=1, high=8, meaning="blocks of convolution and pooling"),
    "block": Parameter(
        default="plain",
        choices=get_args(Kind),
        meaning="one convolution, or two of 3x3 with batch normalisation and a skip",
    ),
    "stem_stride": Parameter(
        default=1, low=1, high=2, meaning="stride of the first convolution; 2 halves the image at once"
    ),
    "base_filters": Parameter(default=32, low=1, high=512, meaning="channels of the first block; doubled in each next"),
    "filters_multiplier": Parameter(default=1, low=1, high=16, meaning="widens every block"),
    "kernel_sizes": Parameter(
        default="3-3-3",
        pattern=r"[13579](-[13579])*",
        meaning="odd kernel size of each plain block; missing ones are 3, extra ones ignored",
    ),
    "use_batch_norm": Parameter(default=True, meaning="batch normalisation after each convolution"),
    "conv_dropout": Parameter(default=0.0, low=0, high=0.9, meaning="share of channels dropped after each block"),
    "head": Parameter(
        default="flatten",
        choices=get_args(Head),
        meaning="what the dense layers see: all positions (flatten), or their average (gap)",
    ),
    "dense_units": Parameter(
        default="256",
        pattern=r"none|[1-9]\d{0,4}(-[1-9]\d{0,4}){0,31}",
        meaning='widths of the dense layers, or "none"',
    ),
    "dense_dropout": Parameter(default=0.0, low=0, high=0.9, meaning="share of units dropped after each dense layer"),
    "learning_rate": Parameter(default=1e-3, low=1e-8, high=10, meaning="learning rate at the schedule's peak"),
    "optimizer": Parameter(
        default="adam", choices=get_args(Optimizer), meaning="the optimiser; sgd has Nesterov momentum 0.9"
    ),
    "weight_decay": Parameter(default=1e-4, low=0, high=1, meaning="an L2 penalty with adam, decoupled with adamw"),
    "decayed": Parameter(
        default="all",
        choices=get_args(DecayedParameters),
        meaning="weight decay on all, or on weights: not on norms and biases",
    ),
    "schedule": Parameter(
        default="constant",
        choices=get_args(Schedule),
        meaning="learning rate over the progress of training; plateau halves it on a stalled validation loss",
    ),
    "label_smoothing": Parameter(default=0.0, low=0, high=0.5, meaning="share of the target spread over all classes"),
    "augment_strength": Parameter(default=1.0, low=0, high=3, meaning="scales everything in [augment]; 0 is off"),
    "augment_turns": Parameter(default=False, meaning="quarter turns in addition to [augment]"),
    "backbone": Parameter(
        default="none",
        choices=("none", *get_args(Backbone)),
        meaning="a pretrained network to begin from, in place of the blocks and dense layers above",
    ),
    "backbone_trained": Parameter(
        default=0.0, low=0, high=1, meaning="share of its layers that is trained, from the last; 0: one new layer alone"
    ),
    "backbone_rate": Parameter(
        default=0.3, low=1e-4, high=1, meaning="its layers' learning rate, as a share of the new layer's"
    ),
}


def validated(space: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return the space with every value in its parameter's type. Raises ValueError, which names what is wrong."""
    checked: dict[str, Entry] = {}
    for name, entry in space.items():
        if name not in PARAMETERS:
            raise ValueError(f"unknown parameter {name!r} in the space{nearest(name, PARAMETERS)}")
        try:
            checked[name] = _validated_entry(PARAMETERS[name], entry)
        except ValueError as error:
            raise ValueError(f"space.{name}: {error}") from error
    return checked


def _validated_entry(parameter: Parameter, entry: Entry) -> Entry:
    if isinstance(entry, Range):
        if parameter.choices or parameter.pattern or isinstance(parameter.default, bool):
            raise ValueError("takes a list of values, not a range")
        if isinstance(parameter.default, int) and entry.step is not None and entry.step != int(entry.step):
            raise ValueError(f"step must be a whole number, not {entry.step}")
        low, high = parameter.check(entry.low), parameter.check(entry.high)
        return entry.model_copy(update={"low": low, "high": high})
    if isinstance(entry, list):
        values = [parameter.check(value) for value in entry]
        if len(values) != len(set(values)) or not values:
            raise ValueError(f"needs a list of different values, not {entry!r}")
        return values
    return parameter.check(entry)


def nearest(word: str, words: Mapping[str, object] | list[str]) -> str:
    """Return "; did you mean ...?" when a name is near, else the names there are."""
    close = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]}?" if close else f" (there are: {', '.join(words)})"


def distributions(space: Mapping[str, Entry]) -> dict[str, BaseDistribution]:
    """Return the searched part of a space as Optuna's distributions, sorted by name."""
    found: dict[str, BaseDistribution] = {}
    for name, entry in sorted(space.items()):
        if isinstance(entry, list):
            found[name] = CategoricalDistribution(entry)
        elif isinstance(entry, Range):
            if isinstance(PARAMETERS[name].default, int):
                step = int(entry.step or 1)
                found[name] = IntDistribution(int(entry.low), int(entry.high), log=entry.log, step=step)
            else:
                found[name] = FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)
    return found


def fixed_values(space: Mapping[str, Entry]) -> dict[str, Value]:
    """Return the parameters that are not searched: the space's single values, and defaults."""
    values = {name: parameter.default for name, parameter in PARAMETERS.items() if name not in space}
    return values | {name: entry for name, entry in space.items() if not isinstance(entry, Range | list)}


def contains(space: Mapping[str, Entry], name: str, value: Value) -> bool:
    """Return whether a value of a searched parameter lies in the space."""
    distribution = distributions(space).get(name)
    if distribution is None:
        return False
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):  # what another program enqueued may be anything
        return False
    if not distribution.low <= number <= distribution.high:
        return False
    steps = 0.0 if distribution.step is None else (number - distribution.low) / distribution.step
    return abs(steps - round(steps)) < 1e-8


def misfit(space: Mapping[str, Entry], params: Mapping[str, Value]) -> str | None:
    """Return in words what is wrong with a point or part of one; None when the space holds it."""
    searched = distributions(space)
    for name, value in params.items():
        if name not in searched:
            return f"{name} is not searched{nearest(name, searched)}"
        if not contains(space, name, value):
            return f"{name} = {value!r} lies outside the space"
    return None


def numbers(text: str) -> tuple[int, ...]:
    """Parse a sequence: "3-5-3" -> (3, 5, 3), "none" -> ()."""
    return () if text == "none" else tuple(int(part) for part in text.split("-"))


def backbones(space: Mapping[str, Entry]) -> tuple[Backbone, ...]:
    """Return the pretrained networks that a space may begin from."""
    entry = space.get("backbone", "none")
    values = entry if isinstance(entry, list) else [entry]
    return tuple(one for one in get_args(Backbone) if one in values)


FROM_SCRATCH = (
    *("block", "num_conv_blocks", "base_filters", "filters_multiplier", "kernel_sizes", "stem_stride"),
    *("use_batch_norm", "conv_dropout", "head", "dense_units"),
)
"""Parameters that only networks trained from scratch have."""
FROM_BACKBONE = ("backbone_trained", "backbone_rate")
"""Parameters that only networks with a backbone have."""


def used_parameters(space: Mapping[str, Any], params: Mapping[str, Value]) -> dict[str, Value]:
    """Return the parameters that matter to a trial's network: it is either from scratch or from a pretrained one."""
    backbone = params.get("backbone", space.get("backbone", "none"))  # searched, or one for all trials
    idle = FROM_BACKBONE if backbone == "none" else FROM_SCRATCH
    return {name: value for name, value in params.items() if name not in idle}


def network_config(point: Mapping[str, Any], num_classes: int, image_size: int) -> Architecture:
    """Return the architecture at a full point (searched and fixed parameters together)."""
    if point["backbone"] != "none":
        return BackboneConfig(
            num_classes=num_classes,
            image_size=image_size,
            backbone=point["backbone"],
            trained=point["backbone_trained"],
            dropout=point["dense_dropout"],
        )
    blocks = point["num_conv_blocks"]
    width = point["base_filters"] * point["filters_multiplier"]
    kernels = (*numbers(point["kernel_sizes"]), *[3] * blocks)[:blocks]
    return CNNConfig(
        num_classes=num_classes,
        image_size=image_size,
        blocks=tuple(
            Block(
                kind=point["block"],
                filters=width << number,
                kernel_size=kernel if point["block"] == "plain" else 3,
                stride=point["stem_stride"] if number == 0 else 1,
            )
            for number, kernel in enumerate(kernels)
        ),
        batch_norm=point["use_batch_norm"],
        conv_dropout=point["conv_dropout"],
        dense_units=numbers(point["dense_units"]),
        dense_dropout=point["dense_dropout"],
        head=point["head"],
    )


def train_config(point: Mapping[str, Any], epochs: int, batch: int, meant_for: int | None) -> TrainConfig:
    """Return how a full point is trained with batches of `batch` images.

    `meant_for`: batch size that its learning rate is meant for; None: `batch`.
    """
    return TrainConfig(
        epochs=epochs,
        learning_rate=rate_for_batch(point["learning_rate"], point["optimizer"], batch, meant_for or batch),
        optimizer=point["optimizer"],
        weight_decay=point["weight_decay"],
        decayed=point["decayed"],
        schedule=point["schedule"],
        label_smoothing=point["label_smoothing"],
        backbone_rate=point["backbone_rate"] if point["backbone"] != "none" else 1.0,
    )


def full_point(space: Mapping[str, Entry], params: Mapping[str, Value]) -> dict[str, Any]:
    """Join searched values with fixed ones. Raises StudyError when a trial lacks a parameter."""
    missing = [name for name in distributions(space) if name not in params]
    if missing:
        raise StudyError(f"the trial has no value for {', '.join(missing)}: it was made by another program")
    return {**fixed_values(space), **params}
