"""Gain of a search: how much better its winner is than the networks it began with, and when it was found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from study.attributes import SECONDS, number
from study.config.schema import StudyConfig
from study.search.standing import is_start, rank


def best_start(config: StudyConfig, trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """Return the best start that ran to its end (see `rank`); None if there is none."""
    return next(iter(rank(config, (one for one in trials if is_start(one) and _is_complete(one)))), None)


@dataclass(frozen=True)
class Gain:
    """Gain of a search, by selection scores."""

    winner: FrozenTrial
    start: FrozenTrial | None  # best complete start
    drawn: FrozenTrial | None  # best complete trial that was drawn
    half: FrozenTrial | None  # best complete trial after half of the seconds of training
    so_far: list[tuple[float, float]]  # for each complete trial: (seconds of training so far, best score so far)


def gain(config: StudyConfig, trials: Iterable[FrozenTrial], winner: FrozenTrial) -> Gain:
    """Work out the gain of a search from its trials, in the order in which they ended.

    Seconds are those of training, added up over all workers. The best one is the first by `rank`, as the winner is.
    """
    ended = sorted(
        (one for one in trials if one.datetime_complete), key=lambda one: (one.datetime_complete, one.number)
    )
    whole = sum(number(one.user_attrs, SECONDS) or 0.0 for one in ended)
    spent, best, by_half = 0.0, 0.0, 0
    complete: list[FrozenTrial] = []
    so_far: list[tuple[float, float]] = []
    for one in ended:
        spent += number(one.user_attrs, SECONDS) or 0.0
        if not _is_complete(one):
            continue
        complete.append(one)
        best = max(best, one.value or 0.0)
        so_far.append((spent, best))
        if spent <= whole / 2:
            by_half = len(complete)
    half = next(iter(rank(config, complete[:by_half])), None)
    drawn = next(iter(rank(config, (one for one in complete if not is_start(one)))), None)
    return Gain(winner, best_start(config, ended), drawn, half, so_far)


def _is_complete(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE
