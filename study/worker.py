"""The life of a worker: adopt an orphan or ask for a trial, run it, and so on until the budget is reached."""

from collections.abc import Iterator

import optuna
from optuna.trial import TrialState

from study.config import StudyConfig
from study.objective import TrialEnd, TrialEpoch, Workspace, run_trial


def search(study: optuna.Study, work: Workspace) -> Iterator[TrialEpoch | TrialEnd]:
    """Run trials until the budget is reached; yields news. The caller holds the study's lock."""
    while (trial := _next_trial(study, work.config)) is not None:
        yield from run_trial(study, trial, work)


def _next_trial(study: optuna.Study, config: StudyConfig) -> optuna.Trial | None:
    """An orphan first (the sampler would count it as running), then a new one; None when the budget is reached."""
    trials = study.get_trials(deepcopy=False)  # also fills the cache that adopting needs
    orphans = [trial for trial in trials if trial.state == TrialState.RUNNING]
    if orphans:
        return optuna.Trial(study, min(orphans, key=lambda trial: trial.number)._trial_id)
    if budget_reached(trials, config):
        return None
    return study.ask()


def budget_reached(trials: list[optuna.trial.FrozenTrial], config: StudyConfig) -> bool:
    """Whether the trials or the hours are used up, whichever ends first."""
    done = [trial for trial in trials if trial.state.is_finished()]
    if config.trials is not None and len(done) >= config.trials:
        return True
    return config.hours is not None and search_seconds(done) >= 3600 * config.hours


def search_seconds(trials: list[optuna.trial.FrozenTrial]) -> float:
    """Seconds of training in these trials; pauses between runs do not count."""
    return float(sum(trial.user_attrs.get("seconds", 0.0) for trial in trials))
