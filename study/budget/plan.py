"""What the hours buy: fields that say "auto" become plain values, and each stage gets its seconds.

A pure function of what was asked for, the images, and what this machine was measured to do. The choices are rows of one
table, each at least as costly in every respect as the one before; the last row that fits is taken. So a faster machine
never gets a smaller image, limit or number of epochs.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, FiniteFloat, JsonValue, ValidationError

from data import counted
from models.architecture import Backbone, BackboneConfig
from models.cost import Cost, cost
from study import StudyError
from study.budget.expect import (
    Images,
    Throughput,
    epoch_seconds,
    final_share,
    known_seconds,
    pretrained_seconds,
    usual_cost,
)
from study.budget.starts import starts
from study.config.limit import cheapest, cost_of
from study.config.resolve import STANDING_IN, Asked
from study.config.rungs import expected_epochs
from study.config.schema import StudyConfig, in_one_line
from study.config.space import backbones

Stage = Literal["measuring", "images", "search", "confirmation", "final training", "result"]

STAGES: tuple[Stage, ...] = get_args(Stage)
"""In their order."""
AFTER = 0.4
"""Share of the hours that is kept for what follows the search."""
FULL_TRAININGS, KNOWN_TRAININGS = 8, 4
"""So many trainings to the last epoch the search must afford; the second where networks begin from a pretrained one."""
MOST_TRIALS = 64
LEAST_SHARE = 0.15
"""Of the final epochs that are trained even where no time is left: less would be no model."""
MORE_EPOCHS = 1.5
"""So many times the planned final epochs are the most that time left over is used for."""
SPARE = 0.9
"""Of the time that is left when the final stage begins may be used for more than was planned."""
UNEQUAL = 3.0
"""Times as many images in the largest class as in the smallest, from which on each class counts the same."""
CONFIRM_SEEDS = 2
"""Trainings of each trial that is confirmed."""


class Planned(BaseModel):
    """Seconds of each stage, as they were expected when the study was made."""

    stages: dict[Stage, float]
    hours: float
    after_search: float  # seconds that are kept for what follows the search
    epoch: float  # seconds of one in the final training
    known: float = 0.0  # seconds of the result that only a winner takes that began from a pretrained network
    slower: float = 1.0  # than on a quiet machine, while it was measured
    begins: str = ""  # with which networks, in words
    given_up: str = ""  # what is left of a search where the hours are few, in words
    throughput: Throughput | None = None  # as it was measured
    again: str = ""  # why it was planned a second time, in words

    def in_words(self, config: StudyConfig) -> dict[Stage, str]:
        """What is done in each stage."""
        trials = f"up to {counted(config.trials, 'trial')}" if config.trials else "trials"
        again = config.confirm_epochs or config.final_epochs
        rivals = _rivals(config)
        return {
            "measuring": "this machine",
            "images": "found and decoded; who shares a source",
            "search": f"{trials} of {counted(config.epochs, 'epoch')} at {config.image_size} px, {_largest(config)}",
            "confirmation": f"the best {config.confirm}, {CONFIRM_SEEDS} seeds of {counted(again, 'epoch')} each"
            if config.confirm > 1
            else "none",
            "final training": f"{counted(config.final_epochs, 'epoch')}, {counted(config.final_seeds, 'seed')}"
            + (f", and the {' and the '.join(rivals)}" if rivals else ""),
            "result": "trees, scores, export, report",
        }


ENDS = dict[Stage, FiniteFloat]
"""Stage -> what the clock said at its end, seconds."""


def taken(ends: Mapping[Stage, float]) -> dict[Stage, float]:
    """Seconds of each stage, from what the clock said at its end; those that have not ended are left out."""
    found: dict[Stage, float] = {}
    before = 0.0
    for stage in STAGES:
        if stage in ends:
            found[stage] = max(0.0, ends[stage] - before)
            before = max(before, ends[stage])
    return found


def in_words(config: StudyConfig) -> str:
    """What a plan decided, in a line."""
    trials = "trials" if config.trials is None else f"up to {counted(config.trials, 'trial')}"
    confirmed = f", the best {config.confirm} confirmed" if config.confirm > 1 else ""
    judged = ", judged by balanced accuracy" if config.metric == "balanced_accuracy" else ""
    weighted = ", each class weighted the same" if config.class_weights == "balanced" else ""
    return (
        f"{config.image_size} px, {_largest(config)}, {trials} of {counted(config.epochs, 'epoch')}"
        f"{confirmed}, {counted(config.final_epochs, 'final epoch')}, {counted(config.final_seeds, 'seed')}"
        f"{judged}{weighted}"
    )


def _largest(config: StudyConfig) -> str:
    limit = config.limit.gflops
    return "any network of the space" if limit is None else f"networks up to {limit:g} GFLOP an image"


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One row of choices; `width` is that of the first block of the widest network, four blocks deep."""

    image_size: int
    width: int
    epochs: int
    min_epochs: int
    final_epochs: int

    @property
    def fields(self) -> dict[str, JsonValue]:
        """What it makes of a configuration.

        The limit is what a plain network of that width has and somewhat more; residual ones keep more of the image.
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
        *((32, 32, 3, 1, 6), (32, 32, 3, 1, 9), (32, 32, 6, 1, 9), (32, 32, 6, 1, 12), (32, 32, 9, 1, 12)),
        *((32, 32, 9, 1, 18), (48, 32, 9, 1, 18), (64, 32, 9, 1, 18), (64, 32, 9, 1, 24), (64, 32, 12, 2, 24)),
        *((64, 32, 12, 2, 30), (64, 32, 12, 2, 36), (64, 32, 18, 3, 36), (64, 32, 18, 3, 45), (64, 48, 18, 3, 45)),
        *((64, 64, 18, 3, 45), (96, 64, 18, 3, 45), (96, 64, 27, 3, 54), (128, 64, 27, 3, 54)),
        *((128, 128, 27, 3, 54), (128, 256, 27, 3, 54)),
    )
)

BACKBONE_TIERS = tuple(
    Tier(image_size=size, width=32, epochs=epochs, min_epochs=first, final_epochs=final)
    for size, epochs, first, final in (
        *(
            (32, 3, 1, 6),
            (64, 3, 1, 9),
            (64, 3, 1, 12),
            (96, 3, 1, 12),
            (96, 3, 1, 18),
            (128, 3, 1, 18),
            (128, 3, 1, 24),
        ),
        *((128, 6, 1, 24), (160, 6, 1, 24), (160, 9, 1, 30), (224, 9, 1, 30), (224, 12, 2, 36), (224, 18, 3, 45)),
    )
)
"""Where networks may begin from a pretrained one, which was trained on 224 pixels: pixels before epochs."""

ROOM = 1.2
"""Times the arithmetic and the memory of a pretrained network that the limit allows."""


def _limit_for(known: Collection[Backbone], image_size: int) -> dict[str, JsonValue]:
    """A limit that holds the pretrained networks, and others that cost as much."""
    costs = [
        cost(BackboneConfig(num_classes=1, image_size=image_size, backbone=name, trained=1.0, dropout=0.0))
        for name in known
    ]
    gflops, megabytes = max(one.gflops for one in costs), max(one.megabytes for one in costs)
    return {"gflops": round(ROOM * gflops, 4), "megabytes": round(ROOM * megabytes, 3)}


EXTRAS: tuple[dict[str, JsonValue], ...] = (
    {"confirm": 2, "rivals": ["runner-up"]},
    {"final_seeds": 2},
    {"confirm": 3},
    {"final_seeds": 3},
    {"rivals": ["runner-up", "baseline"]},
)
"""What the time after the search is used for besides, as far as it goes."""
MOST_CONFIRMED = 3
"""Of them."""


def plan(
    asked: Asked, images: Images, throughput: Throughput, *, refuse: bool = True
) -> tuple[StudyConfig, Planned | None]:
    """What the hours buy. Without hours there is nothing to keep to, and no seconds.

    Where not even the cheapest choice fits, there is less of a search (see _scarce). Raises StudyError with the hours
    that would do, where the images, one epoch of the cheapest network and its scores do not fit.
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
            richer = StudyConfig.model_validate({**config.model_dump(mode="json"), **extra})
            if _fits(richer, images, throughput, hours, strict=True):
                config = richer
    if "starts" in asked.autos:
        config = StudyConfig.model_validate({**config.model_dump(mode="json"), "starts": starts(config)})
    stages = expected(config, images, throughput, hours)
    if "trials" in asked.autos:
        config = config.model_copy(update={"trials": _trials(config, images, throughput, stages["search"])})
    epoch = epoch_seconds(config, images, throughput, usual_cost(config)) * final_share(config)
    after = _kept(config, stages, hours)
    return config, Planned(
        stages=stages,
        hours=hours,
        after_search=after,
        epoch=epoch,
        known=known_seconds(config, images, throughput)[1],
        slower=throughput.slower,
        throughput=throughput,
    )


@dataclass(frozen=True)
class _Room:
    """The seconds that few hours leave, and what they are for."""

    seconds: float  # without measuring, images and result
    usual: float  # of an epoch of a trial
    cheapest: float
    share: float  # an epoch of the final training beside one of a trial

    @classmethod
    def of(cls, config: StudyConfig, images: Images, throughput: Throughput, hours: float) -> Self:
        """What is left of the hours for training."""
        cheap = cost_of(config.space, cheapest(config.space, config.image_size), config.image_size)
        stages = expected(config, images, throughput, hours)
        taken = stages["measuring"] + stages["images"] + _result(images, throughput)
        taken += sum(known_seconds(config, images, throughput))
        usual, small = (epoch_seconds(config, images, throughput, one) for one in (usual_cost(config), cheap))
        return cls(3600 * hours - taken, usual, small, final_share(config))

    def holds(self, trials: float, network: float, epochs: float, final_epochs: float) -> bool:
        """Whether so many trials fit, and the final training, of a network whose epoch takes so long."""
        return trials * epochs * network + final_epochs * network * self.share <= self.seconds


def _result(images: Images, throughput: Throughput) -> float:
    """Seconds for scores, export and report, with nothing beside them."""
    return throughput.result + images.count * throughput.result_image


FEW = 4
"""Trials of a search that is worth the name."""


def _scarce(
    choice: StudyConfig, autos: Collection[str], images: Images, throughput: Throughput, hours: float
) -> tuple[StudyConfig, Planned]:
    """What hours buy that are too few for the cheapest choice: fewer trials, then the strong starts alone, then the
    cheapest network for as long as there is. Raises StudyError where there is not even one epoch of it."""
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
            f"(it would do with: --hours {_enough(choice, images, throughput):g})"
        )
    config = StudyConfig.model_validate(
        {**choice.model_dump(mode="json"), **{name: value for name, value in changes.items() if name in autos}}
    )
    if "starts" in autos:
        found = starts(config, scarce=True)
        config = StudyConfig.model_validate({**config.model_dump(mode="json"), "starts": found})
    stages = expected(config, images, throughput, hours)
    scores = known_seconds(config, images, throughput)[1]
    stages |= {"confirmation": 0.0, "result": _result(images, throughput) + scores}
    stages["final training"] = config.final_epochs * network * room.share
    after = stages["final training"] + stages["result"]
    most = (config.trials or MOST_TRIALS) * config.epochs * network
    stages["search"] = max(0.0, min(room.seconds - stages["final training"], most))
    return config, Planned(
        stages=stages,
        hours=hours,
        after_search=after,
        epoch=network * room.share,
        known=scores,
        slower=throughput.slower,
        given_up=f"these hours hold {words}",
        throughput=throughput,
    )


AGAIN_AFTER, AGAIN_FROM = 3, 1.5
"""Trials after which a plan is compared with what they took, and times more or less from which it is made again."""


def planned_again(
    config: StudyConfig, planned: Planned, images: Images, trials: Sequence[tuple[Cost, float]]
) -> Planned | None:
    """The plan anew, by what an epoch of the first trials took: (what a network costs, seconds); None where it stands.

    What has ended, the images and the search's own fields stay.
    """
    machine = planned.throughput
    if machine is None or planned.again or len(trials) != AGAIN_AFTER:
        return None
    times = median(seconds / epoch_seconds(config, images, machine, one) for one, seconds in trials)
    if 1 / AGAIN_FROM <= times <= AGAIN_FROM:
        return None
    slower = replace(
        machine,
        flops=machine.flops / times,
        numbers=machine.numbers / times,
        pixels=machine.pixels / times,
        step=machine.step * times,
    )
    stages = expected(config, images, slower, planned.hours)
    stages |= {name: planned.stages[name] for name in ("measuring", "images", "result")}
    return planned.model_copy(
        update={
            "stages": stages,
            "after_search": _kept(config, stages, planned.hours),
            "epoch": planned.epoch * times,
            "throughput": slower,
            "again": f"an epoch of the first {AGAIN_AFTER} trials took {times:.1f} times what was planned",
        }
    )


def _kept(config: StudyConfig, stages: Mapping[Stage, float], hours: float) -> float:
    """Seconds that are kept for what follows the search; more than their share only where trainings are fewer."""
    after = stages["confirmation"] + stages["final training"] + stages["result"]
    return max(AFTER * 3600 * hours, min(after, 0.9 * 3600 * hours - stages["measuring"] - stages["images"]) / 2)


def shortened(config: StudyConfig, epoch: float, seconds: float) -> StudyConfig:
    """What the stage after the search does in so many seconds, if an epoch of it takes `epoch`: as much as fits.

    First it leaves out what only compares, then the confirmation; fewer final epochs are the last resort.
    """
    fewer: tuple[dict[str, JsonValue], ...] = (
        {},
        {"rivals": [one for one in config.rivals if one != "baseline"]},
        {"final_seeds": 1},
        {"rivals": []},
        {"confirm": min(2, config.confirm)},
        {"confirm": 1},
    )
    for change in fewer:
        config = StudyConfig.model_validate({**config.model_dump(mode="json"), **change})
        if _final_epochs_in_all(config) * epoch <= seconds:
            return config
    least = max(1, math.ceil(config.final_epochs * LEAST_SHARE))
    epochs = max(least, min(config.final_epochs, int(seconds / epoch)))
    return config.model_copy(update={"final_epochs": epochs})


def extended(config: StudyConfig, autos: Collection[str], epoch: float, seconds: float) -> StudyConfig:
    """What the stage after the search does in so many seconds, if there is more time than the plan thought.

    Only fields that were left to the plan change: more final epochs first, then what the extras name.
    """

    def holds(changes: Mapping[str, JsonValue]) -> StudyConfig | None:
        there: dict[str, Any] = config.model_dump(mode="json")
        added: dict[str, Any] = {
            name: [*there[name], *(one for one in value if one not in there[name])]
            if isinstance(value, list)
            else max(there[name], value)
            for name, value in changes.items()
        }
        richer = StudyConfig.model_validate({**there, **added})
        more = _final_epochs_in_all(richer)
        return richer if _final_epochs_in_all(config) < more <= SPARE * seconds / epoch else None

    if "final_epochs" in autos:
        most = int(config.final_epochs * MORE_EPOCHS)
        found = (holds({"final_epochs": epochs}) for epochs in range(most, config.final_epochs, -1))
        config = next((one for one in found if one), config)
    for extra in EXTRAS:
        if extra.keys() <= set(autos):
            config = holds(extra) or config
    return config


def _final_epochs_in_all(config: StudyConfig) -> int:
    confirming = CONFIRM_SEEDS * config.confirm * (config.confirm_epochs or config.final_epochs)
    trainings = config.final_seeds + len(_rivals(config)) + _leaky(config)
    return (confirming if config.confirm > 1 else 0) + trainings * config.final_epochs


def expected(
    config: StudyConfig, images: Images, throughput: Throughput, hours: float, network: Cost | None = None
) -> dict[Stage, float]:
    """Seconds of each stage; `network` is what those after the search are about, else what is usual in the space."""
    usual = network or usual_cost(config)
    epoch = epoch_seconds(config, images, throughput, usual)
    confirming = CONFIRM_SEEDS * config.confirm * (config.confirm_epochs or config.final_epochs)
    trainings = config.final_seeds + len(_rivals(config)) + _leaky(config)
    stages: dict[Stage, float] = {
        "measuring": measuring_seconds(hours),
        "images": images.count * (throughput.decode + (0.0 if images.grouped else throughput.group)),
        "search": 0.0,
        "confirmation": confirming * epoch if config.confirm > 1 else 0.0,
        "final training": trainings * config.final_epochs * epoch * final_share(config),
        "result": throughput.result
        + images.count * throughput.result_image
        + pretrained_seconds(config, images, throughput)
        + known_seconds(config, images, throughput)[1],
    }
    stages["search"] = max(0.0, min((1 - AFTER) * 3600 * hours, 3600 * hours - sum(stages.values())))
    stages["search"] = max(0.0, stages["search"] - stages["measuring"] - stages["images"])
    if config.trials is not None:
        features = known_seconds(config, images, throughput)[0]
        stages["search"] = min(stages["search"], features + config.trials * _trial_epochs(config) * epoch)
    return stages


def measuring_seconds(hours: float | None) -> float:
    """How long the machine may be measured for a plan."""
    return 30.0 if hours is None else min(30.0, 0.03 * 3600 * hours)


def _rivals(config: StudyConfig) -> list[str]:
    there = {"runner-up": config.confirm > 1, "baseline": bool(config.baseline)}
    return [rival for rival in config.rivals if there[rival]]


def _leaky(config: StudyConfig) -> bool:
    """Whether one more network is trained, on the published split."""
    return config.leaky_score and not config.leaky


def _trial_epochs(config: StudyConfig) -> float:
    return expected_epochs(config.min_epochs, config.epochs, config.eta) if config.brackets else float(config.epochs)


def _trials(config: StudyConfig, images: Images, throughput: Throughput, seconds: float) -> int:
    """Trials that the search has time for, and some more: its end is the deadline's."""
    each = _trial_epochs(config) * epoch_seconds(config, images, throughput, usual_cost(config))
    return max(FULL_TRAININGS, min(MOST_TRIALS, math.ceil(1.5 * seconds / each)))


def _fits(config: StudyConfig, images: Images, throughput: Throughput, hours: float, *, strict: bool) -> bool:
    """Whether the hours hold it: with room for a real search, or else (`strict` false) for the cheapest network."""
    usual = (
        usual_cost(config)
        if strict
        else cost_of(config.space, cheapest(config.space, config.image_size), config.image_size)
    )
    stages = expected(config, images, throughput, hours, usual)
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
    """Hours, of two digits, that hold one epoch of the cheapest network."""

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


def _choices(asked: Asked, images: Images) -> Iterator[StudyConfig]:
    """What each row makes of the fields that say auto, as far as the space and the files allow it."""
    problem: ValidationError | None = None
    found = False
    space = StudyConfig.model_validate({**asked.fields, **{name: STANDING_IN[name] for name in asked.autos}}).space
    known = backbones(space)
    for tier in BACKBONE_TIERS if known else TIERS:
        if "image_size" in asked.autos and found and images.side and tier.image_size > max(32, images.side):
            break  # nothing is seen in more pixels than the files have
        values = {**tier.fields, **_for_classes(images.imbalance)}
        if known:
            values["limit"] = _limit_for(known, tier.image_size)
        values = {name: value for name, value in values.items() if name in asked.autos}
        try:
            config = _made(asked, values)
        except ValidationError as error:
            problem = error
            continue
        found = True
        yield config
    if not found and problem is not None:
        raise StudyError(in_one_line(problem)) from problem


def _for_classes(imbalance: float) -> dict[str, JsonValue]:
    """What is maximised and trained for: where classes are of unequal size, each as much as another."""
    if imbalance < UNEQUAL:
        return {"metric": "accuracy", "class_weights": "none"}
    return {"metric": "balanced_accuracy", "class_weights": "balanced"}


def _made(asked: Asked, values: Mapping[str, JsonValue]) -> StudyConfig:
    """The configuration with these values, and with the least of what else is left to the plan."""
    least = {"confirm": 1, "confirm_epochs": values.get("epochs", asked.fields.get("epochs")), "final_seeds": 1}
    least |= {"rivals": [], "trials": MOST_TRIALS, "starts": []}
    fields = {**asked.fields, **{name: value for name, value in least.items() if name in asked.autos}, **values}
    return StudyConfig.model_validate(fields)
