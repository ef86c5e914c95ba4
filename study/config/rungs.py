"""Arithmetic of Hyperband: at which epochs trials are judged, and which of them together."""

import binascii
import math


def check_rungs(min_epochs: int, epochs: int, eta: int) -> None:
    """Raise ValueError if Hyperband could never prune, or Optuna would lose a bracket by rounding."""
    if min_epochs >= epochs:
        raise ValueError(
            f"Hyperband cannot prune before epoch {min_epochs} of {epochs}: min_epochs must be below epochs "
            '(or pruner = "none")'
        )
    counted = math.floor(math.log(epochs / min_epochs, eta)) + 1  # as Optuna does
    if counted != len(brackets(min_epochs, epochs, eta)):
        raise ValueError(
            f"Optuna's rounding loses a bracket for min_epochs={min_epochs}, epochs={epochs}, eta={eta}; "
            f"use epochs={epochs + 1}"
        )


def brackets(min_epochs: int, epochs: int, eta: int) -> tuple[tuple[int, ...], ...]:
    """Return the rungs (epochs completed) of each Hyperband bracket, counted in whole numbers (Li et al. 2018).

    (3, 27, 3) -> ((3, 9, 27), (9, 27), (27,)). A rung at `epochs` is the end of training and judges nobody.
    """
    rungs = [min_epochs]
    while rungs[-1] * eta <= epochs:
        rungs.append(rungs[-1] * eta)
    return tuple(tuple(rungs[start:]) for start in range(len(rungs)))


def bracket_of(study_name: str, number: int, count: int, eta: int) -> int:
    """Return which of `count` brackets Optuna's HyperbandPruner gives to a trial."""
    shares = [math.ceil(count * eta**s / (s + 1)) for s in range(count - 1, -1, -1)]
    place = binascii.crc32(f"{study_name}_{number}".encode()) % sum(shares)
    for bracket, share in enumerate(shares):
        place -= share
        if place < 0:
            return bracket
    raise AssertionError("a place below the sum of the shares lies in one of them")


def expected_epochs(min_epochs: int, epochs: int, eta: int) -> float:
    """Return the average epochs of a trial, if one of `eta` trials goes on at each rung."""
    all_rungs = brackets(min_epochs, epochs, eta)
    count = len(all_rungs)
    shares = [math.ceil(count * eta**s / (s + 1)) for s in range(count - 1, -1, -1)]
    spent = []
    for rungs in all_rungs:
        judged = [rung for rung in rungs if rung < epochs]
        steps = [later - rung for rung, later in zip((0, *judged), (*judged, epochs), strict=True)]
        spent.append(sum(step / eta**place for place, step in enumerate(steps)))
    return float(sum(share * some for share, some in zip(shares, spent, strict=True)) / sum(shares))
