"""The life of a worker: adopt an orphan or ask for a trial, run it, and so on until the budget is reached."""

import logging
import shutil
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from study.config.schema import StudyConfig
from study.search.contract import CONTRACT, is_there, stored_config
from study.search.members import Membership
from study.search.trial import TrialEnd, TrialEpoch, checkpoint_name, close, run_trial
from study.storage.door import backend
from study.storage.leases import DEATHS, Lease, LeaseLostError, Leases, turn
from study.training.workspace import Workspace

LOOK_SECONDS = 0.5
"""Between two looks for a trial while others run the last ones."""

logger = logging.getLogger(__name__)


def search(study: optuna.Study, work: Workspace) -> Iterator[TrialEpoch | TrialEnd]:
    """Run trials until all that the budget allows are finished, by this worker or others; yields news of its own."""
    storage = backend(study)
    leases = Leases(storage)
    leases.prepare()
    _sweep(study, work)
    members = Membership(work.config)
    contract = study.user_attrs[CONTRACT]
    while True:
        with turn(storage, work.folder):
            if not is_there(study, contract):
                raise KeyError(study.study_name)
            claim = _claim(study, members, leases)
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


def _claim(study: optuna.Study, members: Membership, leases: Leases) -> Claim | None:
    """A trial to run, an orphan first (the sampler would count it as running); None when there is none for now.

    The caller has the turn, so that no two workers see the same budget or the same history; the trial's parameters
    are drawn before it ends.
    """
    trials = study.get_trials(deepcopy=False)  # also fills the cache that adopting needs
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    for orphan in sorted(running, key=lambda trial: trial.number):
        if lease := leases.adopt(orphan._trial_id, len(orphan.intermediate_values)):
            trial = optuna.Trial(study, orphan._trial_id)
            return Claim(trial, *_drawn(study, trial, members), lease)
    if budget_reached(running + members.own(trials), stored_config(study)):
        return None
    trial = study.ask()
    return Claim(trial, *_drawn(study, trial, members), leases.take_new(trial._trial_id))


def _drawn(study: optuna.Study, trial: optuna.Trial, members: Membership) -> tuple[FrozenTrial, str | None]:
    """The trial with all its parameters, and why it is none of this study's if it is not."""
    frozen = copy(trial._cached_frozen_trial)  # as it was a moment ago
    space = members.space
    strange = members.stranger(frozen)
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
    except UpdateFinishedTrialError:
        logger.warning(f"another program has ended trial {claim.trial.number} while it ran; going on with the next")


def budget_reached(trials: list[FrozenTrial], config: StudyConfig) -> bool:
    """Whether a study's own trials, with those that run, or its hours are used up, whichever ends first."""
    if config.trials is not None and len(trials) >= config.trials:
        return True
    return config.hours is not None and search_seconds(trials) >= 3600 * config.hours


def search_seconds(trials: list[FrozenTrial]) -> float:
    """Seconds of training in these trials, over all workers; pauses between runs do not count."""
    return float(sum(trial.user_attrs.get("seconds", 0.0) for trial in trials if trial.state.is_finished()))
