"""Optuna's sampler and pruner, set up so that a study gives the same trials if it is interrupted anywhere."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from models.training.recipe import derive_seed
from study.config.draw import draw_near
from study.config.limit import cheapest
from study.config.schema import StudyConfig
from study.config.space import Value, distributions

REDRAWS = 32
"""Number of draws above the limit after which the cheapest point is taken."""
STARTUP = 10
"""Number of finished trials below which TPE draws uniformly, by Optuna's default."""


class PerTrialSampler(BaseSampler):
    """Sampler that draws each trial's whole point at once, with a seed from (study seed, trial number).

    A sampler that lives as long as the process would have another state after a restart. TPE has no state but random
    numbers: it reads the history anew for every trial.
    """

    def __init__(self, make: Callable[[int], BaseSampler], config: StudyConfig) -> None:
        self._make = make
        self._config = config
        self._seed = config.seed
        self._space = distributions(config.space)
        self._sampler = make(config.seed)
        self._rng = np.random.default_rng(config.seed)
        self._start: dict[str, Value] | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed the random numbers anew from the trial's number."""
        self._sampler = self._make(derive_seed(self._seed, "sampler", trial.number) % 2**32)
        self._rng = np.random.default_rng(derive_seed(self._seed, "near", trial.number))
        starts = self._config.starts if trial.number < STARTUP else []
        drawn_near = bool(starts) and self._rng.random() < self._config.near_starts
        self._start = starts[int(self._rng.integers(len(starts)))] if drawn_near else None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space, whatever the history holds."""
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw all parameters at once, so that a kill between two of them does not change later draws.

        A point above the limit is drawn again, from the same generator, REDRAWS times at most; then the cheapest point
        is taken.
        """
        for _ in range(REDRAWS):
            point = self._drawn(study, trial, search_space)
            if not self._config.above_limit(point):
                return point
        return dict(cheapest(self._config.space, self._config.image_size))

    def _drawn(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._start:
            return draw_near(self._start, search_space, self._rng)
        point = self._sampler.sample_relative(study, trial, search_space)
        for name, distribution in search_space.items():
            if name not in point:
                point[name] = self._sampler.sample_independent(study, trial, name, distribution)
        return point

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter; this is never needed for a parameter of the space."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass the call on to the sampler."""
        self._sampler.after_trial(study, trial, state, values)


def make_sampler(config: StudyConfig) -> BaseSampler:
    """Make the study's sampler: TPE (Bergstra et al. 2011; Optuna's multivariate form) or random."""

    def make(seed: int) -> BaseSampler:
        return RandomSampler(seed=seed) if config.sampler != "tpe" else TPESampler(seed=seed)

    return PerTrialSampler(make, config)


def make_pruner(config: StudyConfig) -> BasePruner:
    """Make the study's pruner: Hyperband (Li et al. 2018) or none."""
    if config.pruner == "none":
        return NopPruner()
    return HyperbandPruner(min_resource=config.min_epochs, max_resource=config.epochs, reduction_factor=config.eta)
