"""Draws from a space without Optuna: inside it, and near a point where that is wanted."""

import numpy as np
import optuna
import pytest

from study.config.draw import draw_near, draw_uniform
from study.config.presets import PRESETS
from study.config.schema import StudyConfig
from study.config.space import contains, distributions, validated
from study.search.sampling import STARTUP, make_sampler
from tests.models.test_cnn import POINT, preset


@pytest.mark.parametrize("name", PRESETS)
def test_draws_lie_in_the_space(name: str) -> None:
    space = validated(preset(name).space)
    kinds, rng = distributions(space), np.random.default_rng(0)
    points = [draw_uniform(kinds, rng) for _ in range(100)]
    points += [draw_near(point, kinds, rng) for point in points]
    for point in points:
        assert point.keys() == kinds.keys()
        assert all(contains(space, key, value) for key, value in point.items())


def test_draws_near_a_point_are_near_it() -> None:
    kinds, rng = distributions(preset("auto").space), np.random.default_rng(0)
    drawn = [draw_near(POINT, kinds, rng) for _ in range(2000)]
    assert 0.8 < np.mean([point["block"] == "residual" for point in drawn]) < 0.9  # 0.7 kept, half of 0.3 drawn
    rates = np.log([point["learning_rate"] for point in drawn])
    assert np.median(rates) == pytest.approx(np.log(1e-3), abs=0.1)
    whole = np.log(2e-2 / 5e-4)
    assert 0.08 * whole < rates.std() < 0.16 * whole  # cut off at the end of the range


def points(config: StudyConfig, count: int) -> list[dict[str, object]]:
    study = optuna.create_study(sampler=make_sampler(config), pruner=optuna.pruners.NopPruner(), direction="maximize")
    for number in range(count):
        trial = study.ask(distributions(config.space))
        study.tell(trial, number % 7)
    return [trial.params for trial in study.trials]


def test_so_many_of_the_first_trials_are_drawn_near_a_start() -> None:
    free = preset("auto").model_copy(update={"near_starts": 0.0, "starts": [POINT]})
    without = points(free, 14)
    half = points(free.model_copy(update={"near_starts": 0.5}), 14)
    all_near = points(free.model_copy(update={"near_starts": 1.0}), 14)
    differ = [one != other for one, other in zip(without, half, strict=True)]
    assert 2 <= sum(differ[:STARTUP]) <= 8
    kept = [
        sum(point[name] == POINT[name] for name in ("block", "stem_stride", "dense_units", "schedule"))
        for point in all_near
    ]
    assert np.mean(kept[:STARTUP]) > 2.8  # of 4; 2 by chance
    assert points(free.model_copy(update={"near_starts": 0.5}), 14) == half  # a pure function of seed and number
    assert points(free.model_copy(update={"starts": []}), 14) == without
