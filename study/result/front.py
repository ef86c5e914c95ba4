"""The Pareto front of a search by score and cost of use, and a network that would do as well for far less."""

from dataclasses import dataclass
from shlex import quote

from optuna.trial import FrozenTrial, TrialState

from models.bundle.card import SmallerTrial, StudyCard
from models.bundle.export import milliseconds, run_module
from models.bundle.predictor import Predictor
from models.bundle.verdict import score_of
from models.cnn import build_cnn
from study.config.limit import cost_of
from study.config.schema import StudyConfig
from study.config.space import full_point, network_config
from study.search.standing import best_first

LOOKED_AT, SHOWN = 64, 8
"""Number of best complete trials among which the front is sought, and largest number of its points."""
FAR = 2.0
"""Factor by which a network must be both faster and cheaper in arithmetic to count as far smaller."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Score and cost of a network of the search, as they are compared on the Pareto front."""

    trial: int
    score: float
    gflops: float  # for one image
    milliseconds: float  # for one image alone, on this processor


def front(trials: list[FrozenTrial], config: StudyConfig, card: StudyCard) -> list[Point]:
    """Return the Pareto front, by score and GFLOP, of the best complete trials, cheapest first."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    best = best_first(complete)[:LOOKED_AT]
    costs = {trial.number: cost_of(config.space, trial.params, config.image_size).gflops for trial in best}
    found: list[FrozenTrial] = []
    for trial in sorted(best, key=lambda trial: (costs[trial.number], -(trial.value or 0.0), trial.number)):
        if not found or (trial.value or 0.0) > (found[-1].value or 0.0):
            found.append(trial)
    return [point(trial, config, card) for trial in found[-SHOWN:]]


def point(trial: FrozenTrial, config: StudyConfig, card: StudyCard) -> Point:
    """Return the score and cost of a trial's network, timed here: its speed does not depend on its weights."""
    network = network_config(full_point(config.space, trial.params), len(card.classes), config.image_size)
    given = card.preprocessing
    predictor = Predictor(build_cnn(network), given.mean, given.std, 1.0, given.views)
    return Point(
        trial=trial.number,
        score=trial.value or 0.0,
        gflops=round(cost_of(config.space, trial.params, config.image_size).gflops, 4),
        milliseconds=milliseconds(run_module(predictor.eval()), config.image_size),
    )


def smaller(points: list[Point], shipped: Point, card: StudyCard, storage: str) -> SmallerTrial | None:
    """Return the cheapest trial that is far smaller than the shipped one and scored the same within the interval.

    Its selection score may be less than the shipped trial's by at most half the width of the test score's interval.
    `storage`: the option of commands that names the database.
    None if there is no such trial.
    """
    ends, own = score_of(card, card.test)[1], card.study.selection_score
    if ends is None or own is None or card.leaky:
        return None
    for one in points:  # cheapest first
        close = one.score >= own - (ends[1] - ends[0]) / 2
        if close and FAR * one.milliseconds <= shipped.milliseconds and FAR * one.gflops <= shipped.gflops:
            return SmallerTrial(
                trial=one.trial,
                score=one.score,
                milliseconds=one.milliseconds,
                shipped_milliseconds=shipped.milliseconds,
                command=f"study retrain {quote(card.study.name)} --trial {one.trial}{storage}",
            )
    return None
