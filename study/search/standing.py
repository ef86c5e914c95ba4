"""Standing of a study: which trial is the best, and how long its trials took."""

from collections.abc import Iterable
from shlex import quote

from optuna.trial import FrozenTrial, TrialState

from study import StudyError
from study.attributes import SECONDS, number
from study.config.schema import StudyConfig
from study.config.space import full_point
from study.search.open_study import OpenStudy
from study.storage.address import storage_option


def best_first(trials: Iterable[FrozenTrial], *, smallest: bool = False) -> list[FrozenTrial]:
    """Sort trials: complete ones first, the highest value (or the `smallest`) first, the earlier among equals."""
    sign = 1.0 if smallest else -1.0
    return sorted(trials, key=lambda one: (one.state != TrialState.COMPLETE, sign * (one.value or 0.0), one.number))


GROWTH = 0.15
"""Exponent with which a network's error falls with the length of its training.

It is near the smaller of the medians of two recorded tasks (0.12 on synthetic tissue, 0.74 on digits, from 3 to 36
epochs; `tests/curves.json.gz`), so it promises little. A network of which only the last layer is new gains nothing.
"""


def promise(config: StudyConfig, trial: FrozenTrial) -> float:
    """Return the metric on val that a complete trial's network may reach in a training of the final length."""
    point = full_point(config.space, trial.params)
    value = trial.value or 0.0
    if point["backbone"] != "none" and not point["backbone_trained"]:
        return value
    return 1 - (1 - value) * float((config.epochs / max(config.epochs, config.final_epochs)) ** GROWTH)


def rank(config: StudyConfig, complete: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Sort trials that ran to their end, the best selection score first.

    Where starts are not pruned, trials of which only a new last layer is trained are ranked among the others by their
    `promise`: they lead in short trials, and longer trainings bring them nothing.
    """
    found = best_first(complete)
    return found if config.prune_starts else sorted(found, key=lambda trial: -promise(config, trial))


def winner(study: OpenStudy) -> FrozenTrial:
    """Return the best trial, the first of those that are `ranked`. Raises StudyError if there is none."""
    return ranked(study)[0]


def ranked(study: OpenStudy) -> list[FrozenTrial]:
    """Return the trials that ran to their end, best selection score first.

    See `rank`. If no trial ran to its end, return those that finished an epoch and are not INFEASIBLE, most epochs
    first. Raises StudyError if there are none.
    """
    finished = [trial for trial in study.own_trials() if trial.state == TrialState.COMPLETE]
    if finished:
        return rank(study.config, finished)
    begun = study.shippable()
    if not begun:
        raise StudyError(
            f"the study {study.name!r} has no trial that ran to its end, nor one that was trained for a while "
            f"(search on with a larger budget: study resume {quote(study.name)}{storage_option(study.storage.url)} "
            "--trials MORE, or --hours MORE)"
        )
    return sorted(begun, key=lambda trial: (-len(trial.intermediate_values), -last_value(trial), trial.number))


def is_start(trial: FrozenTrial) -> bool:
    """Return whether a trial's point was given, by the plan or a person, instead of drawn."""
    return "fixed_params" in trial.system_attrs


def last_value(trial: FrozenTrial) -> float:
    """Return the metric on val after the last epoch of a trial."""
    return trial.intermediate_values[max(trial.intermediate_values)]


def search_seconds(trials: list[FrozenTrial]) -> float:
    """Return the seconds of training in the finished ones of these trials; pauses between runs do not count."""
    return sum(number(trial.user_attrs, SECONDS) or 0.0 for trial in trials if trial.state.is_finished())
