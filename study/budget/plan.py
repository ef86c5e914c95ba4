"""Plan of a study by its hours: fields that say "auto" become plain values, and each stage gets its seconds.

The plan is a pure function of what was asked for, the images, and the measured speed of this machine. The choices are
the rows of one table, each at least as costly in every respect as the one before; the last row that fits is taken. So
a faster machine never gets a smaller image, limit or number of epochs.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from pydantic import JsonValue, ValidationError

from models.architecture import Backbone, BackboneConfig
from models.cost import cost
from study import StudyError
from study.budget.expect import (
    Images,
    Throughput,
    epoch_seconds,
    export_seconds,
    final_share,
    known_seconds,
    usual_cost,
)
from study.budget.stages import (
    AFTER,
    EXTRAS,
    Plan,
    expected_seconds,
    kept_seconds,
    result_seconds,
    trial_epochs,
)
from study.budget.starts import starts
from study.config.limit import cheapest, cost_of
from study.config.resolve import STANDING_IN, StudyRequest
from study.config.schema import StudyConfig, in_one_line
from study.config.space import backbones

FULL_TRAININGS, KNOWN_TRAININGS = 5, 3
"""Full-length trainings that the search must have time for: from scratch, or with a backbone in the space."""
MOST_TRIALS = 64
UNEQUAL = 3.0
"""Ratio of the images in the largest class to those in the smallest, from which on each class counts the same."""


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Row of choices; `width` is that of the first block of the widest network, which is four blocks deep."""

    image_size: int
    width: int
    epochs: int
    min_epochs: int
    final_epochs: int

    @property
    def fields(self) -> dict[str, JsonValue]:
        """Fields of a configuration that this row decides.

        The limit is somewhat above the cost of a plain network of that width; residual networks keep more activations.
        """
        area, wide = (self.image_size / 64) ** 2, self.width / 32
        return {
            "image_size": self.image_size,
            "limit": {"gflops": round(0.16 * area * wide**2, 4), "megabytes": round(8.0 * area * wide, 3)},
            "epochs": self.epochs,
            "min_epochs": self.min_epochs,
            "final_epochs": self.final_epochs,
        }


TIERS = tuple(
    Tier(image_size=size, width=width, epochs=epochs, min_epochs=first, final_epochs=final)
    for size, width, epochs, first, final in (
        (32, 32, 3, 1, 6),
        (32, 32, 3, 1, 9),
        (32, 32, 3, 1, 18),
        (32, 32, 6, 1, 18),
        (32, 32, 6, 1, 27),
        (32, 32, 6, 1, 36),
        (48, 32, 6, 1, 36),
        (64, 32, 6, 1, 36),
        (64, 32, 9, 1, 36),
        (64, 32, 9, 1, 45),
        (64, 32, 12, 2, 45),
        (64, 32, 18, 3, 45),
        (64, 48, 18, 3, 45),
        (64, 64, 18, 3, 45),
        (96, 64, 18, 3, 45),
        (96, 64, 27, 3, 54),
        (128, 64, 27, 3, 54),
        (128, 128, 27, 3, 54),
        (128, 256, 27, 3, 54),
    )
)
"""Rows of choices for networks that are trained from scratch, from the cheapest to the costliest."""

BACKBONE_TIERS = tuple(
    Tier(image_size=size, width=32, epochs=epochs, min_epochs=first, final_epochs=final)
    for size, epochs, first, final in (
        (32, 3, 1, 6),
        (64, 3, 2, 9),
        (64, 3, 2, 18),
        (64, 6, 2, 18),
        (64, 6, 2, 36),
        (96, 6, 2, 36),
        (128, 6, 2, 36),
        (160, 6, 2, 36),
        (160, 9, 3, 45),
        (224, 9, 3, 45),
        (224, 12, 3, 45),
        (224, 18, 3, 45),
    )
)
"""Rows of choices if networks may begin from a pretrained one.

In short trainings a new last layer on frozen features is ahead of everything else, whatever is best in the end (on
photographs of hands: 83 % after three epochs and 93 % at the end; a whole network: 69 % after two and 99 % at the
end). So trials become six epochs long, and final trainings 36, before the images become larger than 64 pixels.
"""

ROOM = 1.2
"""Limit as a multiple of the arithmetic and the memory of a pretrained network."""


def _limit_for(known: Collection[Backbone], image_size: int) -> dict[str, JsonValue]:
    """Return a limit that allows the pretrained networks, and others that cost as much."""
    costs = [
        cost(BackboneConfig(num_classes=1, image_size=image_size, backbone=name, trained=1.0, dropout=0.0))
        for name in known
    ]
    gflops, megabytes = max(one.gflops for one in costs), max(one.megabytes for one in costs)
    return {"gflops": round(ROOM * gflops, 4), "megabytes": round(ROOM * megabytes, 3)}


def plan(
    asked: StudyRequest, images: Images, throughput: Throughput, *, refuse: bool = True
) -> tuple[StudyConfig, Plan | None]:
    """Return the configuration that fits into the hours, and its plan; without hours there is no plan.

    If not even the cheapest choice fits, the search is cut down (see _scarce), or, where `refuse` is false, it is taken
    although it does not fit. Raises StudyError if "auto" is asked for without hours, or if not even the images, one
    epoch of the cheapest network and its scores fit; it says how many hours would be enough.
    """
    strict = bool(asked.autos)
    config: StudyConfig | None = None
    for choice in _choices(asked, images) if strict else [asked.plain()]:
        hours = choice.hours
        if hours is None:
            if strict:
                raise StudyError(f"{', '.join(asked.autos)} = 'auto' needs hours to plan with (for example --hours 2)")
            return choice, None
        if not _fits(choice, images, throughput, hours, strict=strict):
            if config is None and not refuse:  # a study that exists
                config = choice
            if config is None:
                return _scarce(choice, asked.autos, images, throughput, hours)
            break  # the later rows cost more
        config = choice
    assert config is not None  # there is at least one choice
    assert hours is not None
    for extra in EXTRAS:
        if extra.keys() <= set(asked.autos):
            richer = config.with_fields(extra)
            if _fits(richer, images, throughput, hours, strict=True):
                config = richer
    if "starts" in asked.autos:
        config = config.with_fields({"starts": starts(config)})
    stages = expected_seconds(config, images, throughput, hours)
    if "trials" in asked.autos:
        config = config.model_copy(update={"trials": _trials(config, images, throughput, stages["search"])})
    epoch = epoch_seconds(config, images, throughput, usual_cost(config)) * final_share(config)
    after = kept_seconds(config, stages, hours)
    return config, Plan(
        stages=stages,
        hours=hours,
        after_search=after,
        epoch=epoch,
        known=known_seconds(config, images, throughput)[1] + export_seconds(config, throughput),
        slower=throughput.slower,
        throughput=throughput,
    )


@dataclass(frozen=True)
class _Room:
    """Seconds that few hours leave for training, and the seconds that an epoch needs."""

    seconds: float  # left for training, without measuring, images and result
    usual: float  # seconds of an epoch of a trial, with a network of the usual cost
    cheapest: float  # seconds of an epoch of a trial, with the cheapest network
    share: float  # length of an epoch of the final training as a multiple of an epoch of a trial

    @classmethod
    def of(cls, config: StudyConfig, images: Images, throughput: Throughput, hours: float) -> Self:
        """Work out what the hours leave for training."""
        cheap = cost_of(config.space, cheapest(config.space, config.image_size), config.image_size)
        stages = expected_seconds(config, images, throughput, hours)
        taken = stages["measuring"] + stages["images"] + result_seconds(images, throughput)
        taken += sum(known_seconds(config, images, throughput))
        usual, small = (epoch_seconds(config, images, throughput, one) for one in (usual_cost(config), cheap))
        return cls(3600 * hours - taken, usual, small, final_share(config))

    def holds(self, trials: float, network: float, epochs: float, final_epochs: float) -> bool:
        """Return whether the trials and the final training fit, if an epoch of the network takes `network` seconds."""
        return trials * epochs * network + final_epochs * network * self.share <= self.seconds


FEW = 4
"""Least number of trials that counts as a search."""


def _scarce(
    choice: StudyConfig, autos: Collection[str], images: Images, throughput: Throughput, hours: float
) -> tuple[StudyConfig, Plan]:
    """Plan a study whose hours are too few for the cheapest choice.

    It gets a short search; if that does not fit, FEW trials; then the cheapest network alone, for as long as there is
    time. Raises StudyError if not even one epoch of that network fits.
    """
    room = _Room.of(choice, images, throughput, hours)
    final, small = choice.final_epochs, room.cheapest
    if room.holds(FEW, room.usual, choice.epochs, final):
        network, changes, words = room.usual, {}, "a short search only"
    elif room.holds(2, room.usual, choice.epochs, final):
        network, changes, words = room.usual, {"trials": FEW}, "little more than the networks that are tried first"
    elif room.holds(1, small, choice.epochs, 1):
        left = int((room.seconds - choice.epochs * small) / (small * room.share))
        network, changes = small, {"trials": 1, "final_epochs": max(1, min(final, left))}
        words = "little more than the cheapest network"
    elif room.holds(1, small, 1, 1):
        network, changes = small, {"trials": 1, "final_epochs": 1}  # the clock ends its trial
        words = "little more than an epoch of the cheapest network"
    else:
        raise StudyError(
            f"hours = {hours:g} is too short here for the images, one epoch of the cheapest network and its scores "
            f"(enough would be: --hours {_enough(choice, images, throughput):g})"
        )
    config = StudyConfig.model_validate(
        {**choice.model_dump(mode="json"), **{name: value for name, value in changes.items() if name in autos}}
    )
    if "starts" in autos:
        found = starts(config, scarce=True)
        config = config.with_fields({"starts": found})
    stages = expected_seconds(config, images, throughput, hours)
    scores = known_seconds(config, images, throughput)[1]
    stages |= {"confirmation": 0.0, "result": result_seconds(images, throughput) + scores}
    stages["final training"] = config.final_epochs * network * room.share
    after = stages["final training"] + stages["result"]
    most = (config.trials or MOST_TRIALS) * config.epochs * network
    stages["search"] = max(0.0, min(room.seconds - stages["final training"], most))
    return config, Plan(
        stages=stages,
        hours=hours,
        after_search=after,
        epoch=network * room.share,
        known=scores,
        slower=throughput.slower,
        given_up=f"these hours hold {words}",
        throughput=throughput,
    )


def _trials(config: StudyConfig, images: Images, throughput: Throughput, seconds: float) -> int:
    """Return how many trials the search has time for, and some more: the deadline ends it."""
    each = trial_epochs(config) * epoch_seconds(config, images, throughput, usual_cost(config))
    return max(FULL_TRAININGS, min(MOST_TRIALS, math.ceil(1.5 * seconds / each)))


def _fits(config: StudyConfig, images: Images, throughput: Throughput, hours: float, *, strict: bool) -> bool:
    """Return whether a study fits into the hours: with a real search, or (`strict` false) with the cheapest network."""
    usual = (
        usual_cost(config)
        if strict
        else cost_of(config.space, cheapest(config.space, config.image_size), config.image_size)
    )
    stages = expected_seconds(config, images, throughput, hours, usual)
    before = stages["measuring"] + stages["images"]
    after = stages["confirmation"] + stages["final training"] + stages["result"]
    epoch = epoch_seconds(config, images, throughput, usual)
    if not strict:
        return before + config.epochs * epoch + after <= 3600 * hours
    search = (1 - AFTER) * 3600 * hours - before
    trainings = KNOWN_TRAININGS if backbones(config.space) else FULL_TRAININGS
    features = known_seconds(config, images, throughput)[0]
    return search >= features + trainings * config.epochs * epoch and after <= AFTER * 3600 * hours


def _enough(config: StudyConfig, images: Images, throughput: Throughput) -> float:
    """Return the hours, rounded up to two digits, into which one epoch of the cheapest network fits."""

    def holds(hours: float) -> bool:
        room = _Room.of(config, images, throughput, hours)
        return room.holds(1, room.cheapest, 1, 1)

    low, high = 0.0, 0.01
    while not holds(high):
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    digits = 10.0 ** (math.floor(math.log10(high)) - 1)
    return round(math.ceil(high / digits + 1e-9) * digits, 10)


def _choices(asked: StudyRequest, images: Images) -> Iterator[StudyConfig]:
    """Yield each row's configuration, if space and files allow it: the row decides the fields that say "auto"."""
    problem: ValidationError | None = None
    most = max(32, images.side) if images.side and "image_size" in asked.autos else math.inf
    largest: int | None = None
    space = StudyConfig.model_validate({**asked.fields, **{name: STANDING_IN[name] for name in asked.autos}}).space
    known = backbones(space)
    for tier in BACKBONE_TIERS if known else TIERS:
        # More pixels than the files have show nothing new; wider networks and more epochs do.
        row = replace(tier, image_size=largest) if largest is not None and tier.image_size > most else tier
        values = {**row.fields, **_for_classes(images.imbalance)}
        if known:
            values["limit"] = _limit_for(known, row.image_size)
        values = {name: value for name, value in values.items() if name in asked.autos}
        try:
            config = _made(asked, values)
        except ValidationError as error:
            problem = error
            continue
        largest = row.image_size
        yield config
    if largest is None and problem is not None:
        raise StudyError(in_one_line(problem)) from problem


def _for_classes(imbalance: float) -> dict[str, JsonValue]:
    """Return the metric and the class weights: if classes are of unequal size, each class counts the same."""
    if imbalance < UNEQUAL:
        return {"metric": "accuracy", "class_weights": "none"}
    return {"metric": "balanced_accuracy", "class_weights": "balanced"}


def _made(asked: StudyRequest, values: Mapping[str, JsonValue]) -> StudyConfig:
    """Make the configuration with these values; other fields left to the plan get their least (`trials` the most)."""
    least = {"confirm": 1, "confirm_epochs": values.get("epochs", asked.fields.get("epochs")), "final_seeds": 1}
    least |= {"rivals": [], "trials": MOST_TRIALS, "starts": []}
    fields = {**asked.fields, **{name: value for name, value in least.items() if name in asked.autos}, **values}
    return StudyConfig.model_validate(fields)
