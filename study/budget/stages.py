"""Stages of a study: how long each takes, in a plan or a new plan, and what fits into the time after the search."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Literal, get_args

from pydantic import BaseModel, FiniteFloat, JsonValue

from data import counted
from models.cost import Cost
from study.budget.expect import (
    Images,
    Throughput,
    epoch_seconds,
    export_seconds,
    final_share,
    known_seconds,
    pretrained_seconds,
    usual_cost,
)
from study.config.rungs import expected_epochs
from study.config.schema import StudyConfig
from study.config.space import backbones

Stage = Literal["measuring", "images", "search", "confirmation", "final training", "result"]


STAGES: tuple[Stage, ...] = get_args(Stage)
"""Stages of a study, in their order."""


AFTER = 0.6
"""Share of the hours that is kept for what follows the search. Where the hours hold only one or two long trainings, a
long final training gains the most (scripts/bench/search.py)."""


LEAST_SHARE = 0.15
"""Smallest share of the final epochs with which a final training begins; its pace may end it sooner."""


MORE_EPOCHS, LONG = 2.0, 45
"""Most final epochs if time is left over: MORE_EPOCHS times the planned number, or LONG if that is more."""


SPARE = 0.9
"""Share of the time left at the beginning of the final stage that additions to the plan may use."""


CONFIRM_SEEDS = 2
"""Number of trainings of each trial that is confirmed."""


class Plan(BaseModel):
    """Plan of a study: the seconds of each stage, as they were expected when the study was made."""

    stages: dict[Stage, float]
    hours: float
    after_search: float  # seconds that are kept for what follows the search
    epoch: float  # seconds of an epoch of the final training
    known: float = 0.0  # seconds of the result that are needed only if the winner began from a pretrained network
    slower: float = 1.0  # times as slow as a quiet machine, while it was measured
    begins: str = ""  # which networks the study begins with, in words
    given_up: str = ""  # what is left of the search because the hours are few, in words
    throughput: Throughput | None = None  # speed of the machine
    again: str = ""  # why the plan was made a second time, in words

    def in_words(self, config: StudyConfig) -> dict[Stage, str]:
        """Return in words what is done in each stage."""
        trials = f"up to {counted(config.trials, 'trial')}" if config.trials else "trials"
        again = config.confirm_epochs or config.final_epochs
        rivals = _rivals(config)
        return {
            "measuring": "this machine",
            "images": "found and decoded; which images share a source",
            "search": f"{trials} of {counted(config.epochs, 'epoch')} at {config.image_size} px, {_largest(config)}",
            "confirmation": f"the best {config.confirm}, {CONFIRM_SEEDS} seeds of {counted(again, 'epoch')} each"
            if config.confirm > 1
            else "none",
            "final training": f"{counted(config.final_epochs, 'epoch')}, {counted(config.final_seeds, 'seed')}"
            + (f", and the {' and the '.join(rivals)}" if rivals else ""),
            "result": "decision trees to compare with, scores, export, report",
        }


ENDS = dict[Stage, FiniteFloat]
"""Type of the ends of stages: stage -> seconds on the study's clock at its end."""


def taken(ends: Mapping[Stage, float]) -> dict[Stage, float]:
    """Return the seconds of each stage, from the clock at the ends; stages that have not ended are left out."""
    found: dict[Stage, float] = {}
    before = 0.0
    for stage in STAGES:
        if stage in ends:
            found[stage] = max(0.0, ends[stage] - before)
            before = max(before, ends[stage])
    return found


def in_words(config: StudyConfig) -> str:
    """Return in one line what a plan decided."""
    trials = "trials" if config.trials is None else f"up to {counted(config.trials, 'trial')}"
    judged = ", judged by balanced accuracy" if config.metric == "balanced_accuracy" else ""
    weighted = ", each class weighted the same" if config.class_weights == "balanced" else ""
    return (
        f"{config.image_size} px, {_largest(config)}, {trials} of {counted(config.epochs, 'epoch')}"
        f", {after_in_words(config)}{judged}{weighted}"
    )


def after_in_words(config: StudyConfig) -> str:
    """Return in words what follows the search."""
    confirmed = f"the best {config.confirm} confirmed, " if config.confirm > 1 else ""
    return f"{confirmed}{counted(config.final_epochs, 'final epoch')}, {counted(config.final_seeds, 'seed')}"


def _largest(config: StudyConfig) -> str:
    limit = config.limit.gflops
    return "any network of the space" if limit is None else f"networks up to {limit:g} GFLOP an image"


EXTRAS: tuple[dict[str, JsonValue], ...] = (
    {"confirm": 2, "rivals": ["runner-up"]},
    {"final_seeds": 2},
    {"rivals": ["runner-up", "best start"]},
    {"confirm": 3},
    {"final_seeds": 3},
    {"rivals": ["runner-up", "best start", "baseline"]},
)
"""Additions to what follows the search, tried in this order; each is made if there is time for it."""


MOST_CONFIRMED = 3
"""Most trials to confirm."""


def result_seconds(images: Images, throughput: Throughput) -> float:
    """Return the seconds for scores, export and report alone, without pretrained networks."""
    return throughput.result + images.count * throughput.result_image


AGAIN_AFTER, AGAIN_FROM = 3, 1.5
"""Number of trials after which a plan is compared with their times, and factor by which these must be longer or
shorter for the plan to be made again."""


def replan(config: StudyConfig, planned: Plan, images: Images, trials: Sequence[tuple[Cost, float]]) -> Plan | None:
    """Return a new plan, made from what an epoch of the first trials took; None if the old plan stands.

    `trials`: for each trial (cost of its network, seconds of an epoch). The configuration and the seconds of measuring,
    images and result stay as they are. Where the hours do not hold all of it any more, the stages after the search are
    planned as short as they will have to be.
    """
    machine = planned.throughput
    if machine is None or planned.again or len(trials) < AGAIN_AFTER:
        return None
    took = (seconds / epoch_seconds(config, images, machine, one) for one, seconds in trials[:AGAIN_AFTER])
    times = median(took)
    if 1 / AGAIN_FROM <= times <= AGAIN_FROM:
        return None
    slower = replace(
        machine,
        flops=machine.flops / times,
        numbers=machine.numbers / times,
        pixels=machine.pixels / times,
        step=machine.step * times,
    )
    stages = expected_seconds(config, images, slower, planned.hours)
    stages |= {name: planned.stages[name] for name in ("measuring", "images", "result")}
    kept = kept_seconds(config, stages, planned.hours)
    if planned.given_up:  # a scarce plan keeps no more than its final training and result take
        stages |= {"confirmation": 0.0, "final training": times * planned.stages["final training"], "search": 0.0}
        kept = stages["final training"] + stages["result"]
        stages["search"] = max(0.0, 3600 * planned.hours - sum(stages.values()))
    elif sum(stages.values()) > 3600 * planned.hours:
        others = sum(stages[name] for name in ("measuring", "images", "search", "result"))
        short = shorten_final_stage(config, planned.epoch * times, 3600 * planned.hours - others)
        shorter = expected_seconds(short, images, slower, planned.hours)
        stages |= {name: shorter[name] for name in ("confirmation", "final training")}
    return planned.model_copy(
        update={
            "stages": stages,
            "after_search": kept,
            "epoch": planned.epoch * times,
            "throughput": slower,
            "again": f"an epoch of the first {AGAIN_AFTER} trials took {times:.1f} times as long as planned",
        }
    )


def kept_seconds(config: StudyConfig, stages: Mapping[Stage, float], hours: float) -> float:
    """Return the seconds that are kept for what follows the search.

    They are the share AFTER of the hours or, if that is more, half of what the stages after the search are expected to
    take (which counts only up to 90 % of the hours, less measuring and images).
    """
    after = stages["confirmation"] + stages["final training"] + stages["result"]
    return max(AFTER * 3600 * hours, min(after, 0.9 * 3600 * hours - stages["measuring"] - stages["images"]) / 2)


def shorten_final_stage(config: StudyConfig, epoch: float, seconds: float, at_once: int = 1) -> StudyConfig:
    """Return the configuration with as much after the search as fits into `seconds`, if an epoch there takes `epoch`.

    `at_once`: number of trainings that several workers do at the same time.
    First trainings that only serve to compare are left out, then the confirmation, and last some final epochs.
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
        config = config.with_fields(change)
        if _epochs_one_after_the_other(config, at_once) * epoch <= seconds:
            return config
    least = max(1, math.ceil(config.final_epochs * LEAST_SHARE))
    epochs = max(least, min(config.final_epochs, int(seconds / epoch)))
    return config.model_copy(update={"final_epochs": epochs})


def extend_final_stage(
    config: StudyConfig, autos: Collection[str], epoch: float, seconds: float, at_once: int = 1
) -> StudyConfig:
    """Return the configuration with more after the search, if `seconds` are more than the plan expected.

    `epoch`: seconds of an epoch there; `at_once`: number of trainings that are done at the same time. Only fields that
    were left to the plan change: first come more final epochs, then the EXTRAS.
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
        if _epochs_one_after_the_other(richer) <= _epochs_one_after_the_other(config):
            return None
        scratch = bool(backbones(config.space))  # a pretrained winner's rival from scratch
        return richer if _epochs_one_after_the_other(richer, at_once, scratch) <= SPARE * seconds / epoch else None

    if "final_epochs" in autos:
        most = max(LONG, int(config.final_epochs * MORE_EPOCHS))
        found = (holds({"final_epochs": epochs}) for epochs in range(most, config.final_epochs, -1))
        config = next((one for one in found if one), config)
    for extra in EXTRAS:
        if extra.keys() <= set(autos):
            config = holds(extra) or config
    return config


def _epochs_one_after_the_other(config: StudyConfig, at_once: int = 1, scratch: bool = False) -> int:
    """Count the epochs after the search that follow each other, if `at_once` trainings are done at the same time.

    `scratch`: whether one more network is trained, from scratch.
    """
    confirming = math.ceil(CONFIRM_SEEDS * config.confirm / at_once) if config.confirm > 1 else 0
    trainings = config.final_seeds + len(_rivals(config)) + _leaky(config) + scratch
    return confirming * (config.confirm_epochs or config.final_epochs) + (
        math.ceil(trainings / at_once) * config.final_epochs
    )


def expected_seconds(
    config: StudyConfig, images: Images, throughput: Throughput, hours: float, network: Cost | None = None
) -> dict[Stage, float]:
    """Return the expected seconds of each stage.

    `network`: cost of the network that the stages after the search train; if None, the usual cost in the space.
    """
    usual = network or usual_cost(config)
    epoch = epoch_seconds(config, images, throughput, usual)
    confirming = CONFIRM_SEEDS * config.confirm * (config.confirm_epochs or config.final_epochs)
    trainings = config.final_seeds + len(_rivals(config)) + _leaky(config)
    stages: dict[Stage, float] = {
        "measuring": max(measuring_seconds(hours), min(throughput.before, MOST_BEFORE * 3600 * hours)),
        "images": images.count * (throughput.decode + (0.0 if images.grouped else throughput.group)),
        "search": 0.0,
        "confirmation": confirming * epoch if config.confirm > 1 else 0.0,
        "final training": trainings * config.final_epochs * epoch * final_share(config),
        "result": throughput.result
        + images.count * throughput.result_image
        + pretrained_seconds(config, images, throughput)
        + known_seconds(config, images, throughput)[1]
        + export_seconds(config, throughput),
    }
    before = stages["measuring"] + stages["images"]
    search = min((1 - AFTER) * 3600 * hours - before, 3600 * hours - sum(stages.values()))
    stages["search"] = max(0.0, search)
    if config.trials is not None:
        features = known_seconds(config, images, throughput)[0]
        stages["search"] = min(stages["search"], features + config.trials * trial_epochs(config) * epoch)
    return stages


MOST_BEFORE = 0.25
"""Largest share of the hours that a plan gives to the time before it is made; what a busy machine took beyond it, the
search pays for, and no study is refused because of that."""


def measuring_seconds(hours: float | None) -> float:
    """Return how many seconds the machine may be measured for a plan."""
    return 30.0 if hours is None else min(30.0, 0.03 * 3600 * hours)


def _rivals(config: StudyConfig) -> list[str]:
    there = {"runner-up": config.confirm > 1, "best start": True, "baseline": bool(config.baseline)}
    return [rival for rival in config.rivals if there[rival]]


def _leaky(config: StudyConfig) -> bool:
    """Return whether one more network is trained, on the published split."""
    return config.leaky_score and not config.leaky


def trial_epochs(config: StudyConfig) -> float:
    return expected_epochs(config.min_epochs, config.epochs, config.eta) if config.brackets else float(config.epochs)
