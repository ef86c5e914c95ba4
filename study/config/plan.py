"""What the hours buy: fields that say "auto" become plain values, and each stage gets its seconds.

A pure function of what was asked for, the images, and what this machine was measured to do. The choices are rows of one
table, each at least as costly in every respect as the one before; the last row that fits is taken. So a faster machine
never gets a smaller image, limit or number of epochs.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, FiniteFloat, JsonValue, ValidationError

from models.cost import Cost
from study import StudyError
from study.config.expect import Images, Throughput, epoch_seconds, final_share, pretrained_seconds, usual_cost
from study.config.limit import cheapest, cost_of
from study.config.resolve import Asked
from study.config.rungs import expected_epochs
from study.config.schema import StudyConfig, in_one_line
from study.config.starts import starts

Stage = Literal["measuring", "images", "search", "confirmation", "final training", "result"]

STAGES: tuple[Stage, ...] = get_args(Stage)
"""In their order."""
AFTER = 0.4
"""Share of the hours that is kept for what follows the search."""
FULL_TRAININGS = 8
"""So many trainings to the last epoch the search must afford."""
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

    def in_words(self, config: StudyConfig) -> dict[Stage, str]:
        """What is done in each stage."""
        trials = f"up to {config.trials} trials" if config.trials else "trials"
        again = config.confirm_epochs or config.final_epochs
        rivals = _rivals(config)
        return {
            "measuring": "this machine",
            "images": "found and decoded; who shares a source",
            "search": f"{trials} of {config.epochs} epochs at {config.image_size} px, {_largest(config)}",
            "confirmation": f"the best {config.confirm}, {CONFIRM_SEEDS} seeds of {again} epochs each"
            if config.confirm > 1
            else "none",
            "final training": f"{config.final_epochs} epochs, {config.final_seeds} seeds"
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
    confirmed = f", the best {config.confirm} confirmed" if config.confirm > 1 else ""
    judged = ", judged by balanced accuracy" if config.metric == "balanced_accuracy" else ""
    weighted = ", each class weighted the same" if config.class_weights == "balanced" else ""
    return (
        f"{config.image_size} px, {_largest(config)}, up to {config.trials} trials of {config.epochs} epochs"
        f"{confirmed}, {config.final_epochs} final epochs, {config.final_seeds} seeds{judged}{weighted}"
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

    Raises StudyError with the hours that would do, when not even the cheapest choice fits.
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
                enough = _enough(choice, images, throughput, strict=strict)
                raise StudyError(
                    f"hours = {hours:g} is too short for the cheapest network and its final training here "
                    f"(it would do with: --hours {enough:g})"
                )
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
    return config, Planned(stages=stages, hours=hours, after_search=_kept(config, stages, hours), epoch=epoch)


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
        + pretrained_seconds(config, images, throughput),
    }
    stages["search"] = max(0.0, min((1 - AFTER) * 3600 * hours, 3600 * hours - sum(stages.values())))
    stages["search"] = max(0.0, stages["search"] - stages["measuring"] - stages["images"])
    if config.trials is not None:
        stages["search"] = min(stages["search"], config.trials * _trial_epochs(config) * epoch)
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
    return search >= FULL_TRAININGS * config.epochs * epoch and after <= AFTER * 3600 * hours


def _enough(config: StudyConfig, images: Images, throughput: Throughput, *, strict: bool) -> float:
    """Hours, of two digits, that hold a configuration."""
    low, high = 0.0, 0.01
    while not _fits(config, images, throughput, high, strict=strict):
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if _fits(config, images, throughput, middle, strict=strict) else (middle, high)
    digits = 10.0 ** (math.floor(math.log10(high)) - 1)
    return round(math.ceil(high / digits + 1e-9) * digits, 10)


def _choices(asked: Asked, images: Images) -> Iterator[StudyConfig]:
    """What each row makes of the fields that say auto, as far as the space and the files allow it."""
    problem: ValidationError | None = None
    found = False
    for tier in TIERS:
        if "image_size" in asked.autos and found and images.side and tier.image_size > max(32, images.side):
            break  # nothing is seen in more pixels than the files have
        values = {**tier.fields, **_for_classes(images.imbalance)}
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
