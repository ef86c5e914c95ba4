"""Gain of a search: what it found beyond the networks that it began with, and by when it had found it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from study.attributes import SECONDS, number
from study.search.standing import best_first, is_start


def best_start(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """Return the best start that ran to its end; None if there is none."""
    return next(iter(best_first(one for one in trials if is_start(one) and _ended(one))), None)


@dataclass(frozen=True)
class Gain:
    """Gain of a search, by selection scores."""

    winner: FrozenTrial
    start: FrozenTrial | None  # the best one that the search began with
    drawn: FrozenTrial | None  # the best one that was drawn
    half: FrozenTrial | None  # the best one after half of the seconds of training
    so_far: list[tuple[float, float]]  # at the end of each: (seconds of training until then, best score until then)


def gain(trials: Iterable[FrozenTrial], winner: FrozenTrial) -> Gain:
    """Work out the gain of a search from its trials, in the order in which they ended.

    Seconds are those of training, added up over all workers.
    """
    ended = sorted(
        (one for one in trials if one.datetime_complete), key=lambda one: (one.datetime_complete, one.number)
    )
    whole = sum(number(one.user_attrs, SECONDS) or 0.0 for one in ended)
    spent, half, best = 0.0, None, None
    so_far: list[tuple[float, float]] = []
    for one in ended:
        spent += number(one.user_attrs, SECONDS) or 0.0
        if not _ended(one):
            continue
        best = best_first([one, *([best] if best else [])])[0]
        so_far.append((spent, best.value or 0.0))
        if spent <= whole / 2:
            half = best
    drawn = next(iter(best_first(one for one in ended if _ended(one) and not is_start(one))), None)
    return Gain(winner, best_start(ended), drawn, half, so_far)


def _ended(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE
