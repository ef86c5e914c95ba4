"""Optuna's own test suite for samplers, over ours."""

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler, RandomSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase

from study.config.schema import StudyConfig
from study.search.sampling import PerTrialSampler, RecallingSampler


def tpe(seed: int) -> RecallingSampler:
    sampler = RecallingSampler(seed, {})
    sampler._n_startup_trials = 0  # as upstream tests its own
    return sampler


@pytest.mark.long
class TestTpe(BasicSamplerTestCase, RelativeSamplerTestCase):
    """TPE that remembers its numbers."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: tpe(0)


@pytest.mark.long
@pytest.mark.parametrize("make", [tpe, lambda seed: RandomSampler(seed=seed)], ids=["tpe", "random"])
class TestPerTrial(BasicSamplerTestCase):
    """A sampler of its own for each trial; its whole points are always those of its study's space."""

    @pytest.fixture
    def sampler(
        self, make: Callable[[int], BaseSampler], tiny: Callable[..., StudyConfig]
    ) -> Callable[[], BaseSampler]:
        return lambda: PerTrialSampler(make, tiny())
