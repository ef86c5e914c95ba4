"""What the trials of a study come to: which is the best, and what they took."""

from shlex import quote

from optuna.trial import FrozenTrial, TrialState

from study import StudyError
from study.attributes import INFEASIBLE, SECONDS, number, why
from study.search.open_study import OpenStudy


def winner(study: OpenStudy) -> FrozenTrial:
    """The finished trial with the best selection score; StudyError when there is none."""
    return ranked(study)[0]


def ranked(study: OpenStudy) -> list[FrozenTrial]:
    """The trials that ran to their end, best selection score first.

    Where none did, those that were trained at all, the longest first. Raises StudyError when there are none.
    """
    finished = [trial for trial in study.own_trials() if trial.state == TrialState.COMPLETE]
    if finished:
        return sorted(finished, key=lambda trial: (-(trial.value or 0.0), trial.number))
    begun = [
        trial
        for trial in (*study.own_trials(), *study.trials(TrialState.RUNNING))
        if trial.intermediate_values
        and study.members.stranger(trial) is None
        and why(trial.user_attrs) not in INFEASIBLE
    ]
    if not begun:
        raise StudyError(
            f"the study {study.name!r} has no trial that ran to its end, nor one that was trained for a while "
            f"(search on with a larger budget: study resume {quote(study.name)} --trials MORE, or --hours MORE)"
        )
    return sorted(begun, key=lambda trial: (-len(trial.intermediate_values), -last_value(trial), trial.number))


def last_value(trial: FrozenTrial) -> float:
    """The metric on val after the last epoch it was trained."""
    return trial.intermediate_values[max(trial.intermediate_values)]


def search_seconds(trials: list[FrozenTrial]) -> float:
    """Seconds of training in these trials, over all workers; pauses between runs do not count."""
    return sum(number(trial.user_attrs, SECONDS) or 0.0 for trial in trials if trial.state.is_finished())
