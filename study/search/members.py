"""Membership of trials: which are a study's own, since plain Optuna or a notebook may write to its database too."""

import math
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from study.attributes import FAILED_BECAUSE
from study.config.schema import StudyConfig
from study.config.space import distributions, misfit


class Membership:
    """Rules that tell a study's own trials from others."""

    def __init__(self, config: StudyConfig) -> None:
        self._config = config
        self.space = distributions(config.space)
        self._known: dict[int, str | None] = {}  # verdicts on finished trials, which never change

    def own(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return the finished trials that this program ran, or could have run."""
        return [trial for trial in trials if trial.state.is_finished() and self.stranger(trial) is None]

    def stranger(self, trial: FrozenTrial) -> str | None:
        """Return why a trial does not belong to this study; None if it does."""
        if not trial.state.is_finished():
            return self._unfit(trial) or self._other_steps(trial)
        if trial.number not in self._known:
            self._known[trial.number] = self._finished_elsewhere(trial)
        return self._known[trial.number]

    def too_large(self, trial: FrozenTrial) -> str | None:
        """Return why a trial's network lies above the limit; None if it does not, or if its point is not whole."""
        point = point_of(trial)
        if point.keys() != self.space.keys() or misfit(self._config.space, point):
            return None
        too_much = self._config.above_limit(point)
        return f"above the limit on networks: {too_much}" if too_much else None

    def _finished_elsewhere(self, trial: FrozenTrial) -> str | None:
        if trial.state == TrialState.FAIL:
            return str(trial.user_attrs.get(FAILED_BECAUSE, "closed by another program"))
        if trial.distributions != self.space:
            return self._unfit(trial) or "it lacks parameters of this study"
        steps = trial.intermediate_values
        if trial.state == TrialState.COMPLETE and not (
            len(steps) == self._config.epochs and math.isclose(steps.get(len(steps), math.nan), trial.value or 0.0)
        ):
            return "its value was set by another program"
        return self._other_steps(trial)

    def _unfit(self, trial: FrozenTrial) -> str | None:
        given = point_of(trial)
        if reason := misfit(self._config.space, given):
            return f"not a point of this study: {reason}"
        if any(self.space[name] != drawn_from for name, drawn_from in trial.distributions.items()):
            return "its parameters were drawn from another space"
        return None

    def _other_steps(self, trial: FrozenTrial) -> str | None:
        steps = sorted(trial.intermediate_values)
        if steps != list(range(1, len(steps) + 1)) or len(steps) > self._config.epochs:
            return "its steps are not this study's epochs"
        return None


def point_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters of a trial so far, including those that were enqueued for it."""
    enqueued = trial.system_attrs.get("fixed_params")
    return {**(enqueued if isinstance(enqueued, dict) else {}), **trial.params}
