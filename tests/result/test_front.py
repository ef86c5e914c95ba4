"""The networks of a search than which Pareto front."""

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from models.bundle import export
from models.scores.views import AS_IT_IS
from study.config.limit import cost_of
from study.config.resolve import resolve
from study.config.space import distributions
from study.result.front import front

CONFIG = resolve(None, {"preset": "quick"})


class Card:
    """What of a card decides how fast a network is."""

    classes = ("a", "b")

    class preprocessing:  # noqa: N801
        mean = std = (0.5, 0.5, 0.5)
        views = AS_IT_IS


def drawn(number: int, value: float, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    space = distributions(CONFIG.space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    params = study.ask(space).params
    trial = optuna.trial.create_trial(params=params, distributions=space, value=value, state=state)
    trial.number = number
    return trial


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([0.5, 0.6, 0.7, 0.8, 0.9]), min_size=1, max_size=12))
def test_none_is_better_and_cheaper(values: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "SECONDS", 1e-6)
        trials = [drawn(number, value) for number, value in enumerate(values)]
        trials.append(drawn(99, 1.0, TrialState.PRUNED))
        card: Any = Card
        found = front(trials, CONFIG, card)
    cost: Callable[[FrozenTrial], float] = lambda trial: cost_of(CONFIG.space, trial.params, CONFIG.image_size).gflops  # noqa: E731
    assert [one.gflops for one in found] == sorted(one.gflops for one in found)
    assert found[-1].score == max(values)
    assert all(one.milliseconds >= 0 for one in found)
    on_it = {one.trial for one in found}
    assert 99 not in on_it
    for trial in trials[:-1]:
        better = [one for one in trials[:-1] if one.value > trial.value and cost(one) <= cost(trial)]
        assert not (better and trial.number in on_it)
