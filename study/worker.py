"""The life of a worker: adopt an orphan or ask for a trial, run it, and so on until the budget is reached."""

import shutil
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from study.config import StudyConfig
from study.contract import stored_config
from study.leases import DEATHS, Lease, LeaseLostError, Leases, turn
from study.objective import TrialEnd, TrialEpoch, Workspace, checkpoint_name, close, run_trial
from study.space import distributions, misfit
from study.storage import backend

LOOK_SECONDS = 0.5
"""Between two looks for a trial while others run the last ones."""


def search(study: optuna.Study, work: Workspace) -> Iterator[TrialEpoch | TrialEnd]:
    """Run trials until all that the budget allows are finished, by this worker or others; yields news of its own."""
    storage = backend(study)
    leases = Leases(storage)
    leases.prepare()
    _sweep(study, work)
    while True:
        with turn(storage, work.folder):
            claim = _claim(study, work.config, leases)
        if claim:
            yield from _run(study, claim, work)
        elif any(trial.state == TrialState.RUNNING for trial in study.get_trials(deepcopy=False)):
            time.sleep(LOOK_SECONDS)  # another worker's; should that one die, this one goes on with it
        else:
            return


def _sweep(study: optuna.Study, work: Workspace) -> None:
    """Remove checkpoints of trials that ended just before their worker did."""
    left = {folder.name for folder in work.checkpoint_folder.glob("trial-*")}
    for trial in study.get_trials(deepcopy=False) if left else ():
        if trial.state.is_finished() and checkpoint_name(trial.number) in left:
            shutil.rmtree(work.checkpoint_folder / checkpoint_name(trial.number), ignore_errors=True)


@dataclass(frozen=True)
class Claim:
    """A trial that this worker holds."""

    trial: optuna.Trial
    frozen: FrozenTrial  # with all its parameters
    strange: str | None  # why it is none of this study
    lease: Lease


def _claim(study: optuna.Study, config: StudyConfig, leases: Leases) -> Claim | None:
    """A trial to run, an orphan first (the sampler would count it as running); None when there is none for now.

    The caller has the turn, so that no two workers see the same budget or the same history; the trial's parameters
    are drawn before it ends.
    """
    trials = study.get_trials(deepcopy=False)  # also fills the cache that adopting needs
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    for orphan in sorted(running, key=lambda trial: trial.number):
        if lease := leases.adopt(orphan._trial_id, len(orphan.intermediate_values)):
            trial = optuna.Trial(study, orphan._trial_id)
            return Claim(trial, *_drawn(study, trial, config), lease)
    if budget_reached(trials, stored_config(study)):
        return None
    trial = study.ask()
    return Claim(trial, *_drawn(study, trial, config), leases.take_new(trial._trial_id))


def _drawn(study: optuna.Study, trial: optuna.Trial, config: StudyConfig) -> tuple[FrozenTrial, str | None]:
    """The trial with all its parameters, and why it is none of this study's if it is not."""
    frozen = copy(trial._cached_frozen_trial)  # as it was a moment ago
    space = distributions(config.space)
    strange = _strange(frozen, config)
    if strange or frozen.params.keys() >= space.keys():
        return frozen, strange
    point = {**trial.relative_params, **frozen.system_attrs.get("fixed_params", {})}
    drawn = {name: point[name] for name in space if name not in frozen.params}
    backend(study).set_params(trial._trial_id, drawn, space)
    frozen.params, frozen.distributions = {**frozen.params, **drawn}, space
    return frozen, None


def _run(study: optuna.Study, claim: Claim, work: Workspace) -> Iterator[TrialEpoch | TrialEnd]:
    """Run a trial that this worker holds, or close it unrun with the reason."""
    lease = claim.lease
    try:
        with lease:
            if claim.strange:
                yield close(study, claim.frozen, TrialState.FAIL, claim.strange)
            elif lease.deaths >= DEATHS:
                reason = f"its worker died {lease.deaths} times at this place (out of memory, or a crash)"
                yield close(study, claim.frozen, TrialState.PRUNED, reason)
            else:
                yield from run_trial(study, claim.trial, claim.frozen, work, lease)
    except LeaseLostError:
        return  # this process stood still for a minute, and another one has gone on


def _strange(trial: FrozenTrial, config: StudyConfig) -> str | None:
    """Why a trial that came from elsewhere (plain Optuna, a notebook) is none of this study; None when it is one."""
    given = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if reason := misfit(config.space, given):
        return f"not a point of this study: {reason}"
    if any(distributions(config.space)[name] != drawn_from for name, drawn_from in trial.distributions.items()):
        return "its parameters were drawn from another space"
    steps = sorted(trial.intermediate_values)
    if steps != list(range(1, len(steps) + 1)) or len(steps) > config.epochs:
        return "its steps are not this study's epochs"
    return None


def budget_reached(trials: list[FrozenTrial], config: StudyConfig) -> bool:
    """Whether the trials, with those that run, or the hours are used up, whichever ends first.

    A failed trial is one that came from elsewhere and was none of this study: it uses up nothing.
    """
    counted = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING) for trial in trials)
    if config.trials is not None and counted >= config.trials:
        return True
    return config.hours is not None and search_seconds(trials) >= 3600 * config.hours


def search_seconds(trials: list[FrozenTrial]) -> float:
    """Seconds of training in these trials, over all workers; pauses between runs do not count."""
    return float(sum(trial.user_attrs.get("seconds", 0.0) for trial in trials if trial.state.is_finished()))
