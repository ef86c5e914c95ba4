"""Optuna's own test suite for samplers, over ours."""

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase

from study.config.schema import StudyConfig
from study.search.sampling import PerTrialSampler


def tpe(seed: int) -> TPESampler:
    return TPESampler(seed=seed, n_startup_trials=0)  # as upstream tests its own


@pytest.mark.long
@pytest.mark.parametrize("make", [tpe, lambda seed: RandomSampler(seed=seed)], ids=["tpe", "random"])
class TestPerTrial(BasicSamplerTestCase):
    """A sampler of its own for each trial; its whole points are always those of its study's space."""

    @pytest.fixture
    def sampler(
        self, make: Callable[[int], BaseSampler], tiny: Callable[..., StudyConfig]
    ) -> Callable[[], BaseSampler]:
        return lambda: PerTrialSampler(make, tiny())
