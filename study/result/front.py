"""The trials of a search than which none is better and cheaper to use, and one that would do as well for far less."""

from dataclasses import dataclass
from shlex import quote

from optuna.trial import FrozenTrial, TrialState

from models.bundle.card import Smaller, StudyCard
from models.bundle.export import milliseconds, run_module
from models.bundle.predictor import Predictor
from models.bundle.verdict import score_of
from models.cnn import build_cnn
from study.config.limit import cost_of
from study.config.schema import StudyConfig
from study.config.space import full_point, network_config

LOOKED_AT, SHOWN = 64, 8
"""Complete trials, for the front of score and cost."""
FAR = 2.0
"""Times as fast, or as cheap by arithmetic, from which a network is far smaller."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A network of the search than which none is better and cheaper."""

    trial: int
    score: float
    gflops: float  # an image
    milliseconds: float  # an image alone, on this processor


def front(trials: list[FrozenTrial], config: StudyConfig, card: StudyCard) -> list[Point]:
    """The complete trials than which none is better and cheaper to use, cheapest first; of many, among the best."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    best = sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))[:LOOKED_AT]
    costs = {trial.number: cost_of(config.space, trial.params, config.image_size).gflops for trial in best}
    found: list[FrozenTrial] = []
    for trial in sorted(best, key=lambda trial: (costs[trial.number], -(trial.value or 0.0), trial.number)):
        if not found or (trial.value or 0.0) > (found[-1].value or 0.0):
            found.append(trial)
    return [point(trial, config, card) for trial in found[-SHOWN:]]


def point(trial: FrozenTrial, config: StudyConfig, card: StudyCard) -> Point:
    """A trial's network, timed here: how fast it is does not depend on its weights."""
    network = network_config(full_point(config.space, trial.params), len(card.classes), config.image_size)
    given = card.preprocessing
    predictor = Predictor(build_cnn(network), given.mean, given.std, 1.0, given.views)
    return Point(
        trial=trial.number,
        score=trial.value or 0.0,
        gflops=round(cost_of(config.space, trial.params, config.image_size).gflops, 4),
        milliseconds=milliseconds(run_module(predictor.eval()), config.image_size),
    )


def smaller(points: list[Point], shipped: Point, card: StudyCard) -> Smaller | None:
    """The cheapest trial that is far smaller than the shipped one and scored the same within the interval.

    By selection scores: less than the shipped trial's by at most half the width of the test score's interval.
    """
    ends, own = score_of(card, card.test)[1], card.study.selection_score
    if ends is None or own is None or card.leaky:
        return None
    for one in points:  # cheapest first
        close = one.score >= own - (ends[1] - ends[0]) / 2
        if close and FAR * one.milliseconds <= shipped.milliseconds and FAR * one.gflops <= shipped.gflops:
            return Smaller(
                trial=one.trial,
                score=one.score,
                milliseconds=one.milliseconds,
                shipped_milliseconds=shipped.milliseconds,
                command=f"study retrain {quote(card.study.name)} --trial {one.trial}",
            )
    return None
