"""What `study status` says of each study."""

from shlex import quote

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import JsonValue

from study import StudyError
from study.attributes import REPLAY_DIFFERS
from study.cli.console import one_line, size_in_words, storage_option
from study.search.open_study import OpenStudy, existing
from study.search.standing import search_seconds, winner
from study.search.unneeded import size_of
from study.storage.door import load_study, open_storage, runs_folder, storage_trouble, study_names
from study.storage.lean import LeanStorage
from study.storage.leases import holders

Row = dict[str, JsonValue]


def rows_of(name: str | None, storage: str) -> list[Row]:
    """The standing of one study, or of all in the database."""
    with storage_trouble(storage):
        database = open_storage(storage, create=False, write=False)
        names = study_names(database) if name is None else [name]
        return [_row_or_note(database, one, storage) for one in names]


def _row_or_note(database: LeanStorage, name: str, storage: str) -> Row:
    """One study's standing; what another program has written into it must not hide the others."""
    try:
        return _row(database, name, storage)
    except StudyError as error:
        return {"name": name, "note": str(error)}


def _row(database: LeanStorage, name: str, storage: str) -> Row:
    """One study's standing."""
    study = load_study(database, name)
    row = _counts(study, holders(database))
    try:
        found = _found(existing(database, name, storage))
    except StudyError as error:  # plain Optuna's, another version's, or changed by another program
        return {**row, "note": str(error)}
    return {**row, **found, "go_on": f"study resume {quote(name)}{storage_option(storage)}"}


def _counts(study: optuna.Study, held: dict[int, str]) -> Row:
    """What can be said of any study of Optuna."""
    trials = study.get_trials(deepcopy=False)
    row: Row = {"name": study.study_name}
    row |= {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState}
    row["seconds"] = round(search_seconds(trials), 1)
    row |= _unfinished(trials, held)
    differing = [trial.number for trial in trials if REPLAY_DIFFERS in trial.user_attrs]
    if differing:  # another machine, thread count or version went on with it
        row["replays_that_differ"] = list(differing)
    return row


def _found(study: OpenStudy) -> Row:
    """What can be said of a study of this program."""
    row: Row = {}
    finished = [trial for trial in study.trials() if trial.state.is_finished()]
    if strangers := {trial.number: why for trial in finished if (why := study.members.stranger(trial))}:
        row["not_counted"] = {str(number): why for number, why in strangers.items()}
    if any(trial.state == TrialState.COMPLETE for trial in study.own_trials()):
        best = winner(study)
        row |= {"best_trial": best.number, "best_selection_score": best.value, "best_params": dict(best.params)}
    config = study.config
    row |= {"protocol": f"{config.protocol} (LEAKY)" if config.leaky else config.protocol}
    row |= {"data": config.data, "trials_wanted": config.trials, "hours_wanted": config.hours}
    return row | {"hours_spent": round(study.clock.spent() / 3600, 3)}


def _unfinished(trials: list[FrozenTrial], held: dict[int, str]) -> Row:
    """What becomes of the trials that are not finished, by number."""
    running: dict[str, JsonValue] = {}
    waiting: dict[str, JsonValue] = {}
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            left = "left behind; the next run goes on with it"
            running[str(trial.number)] = held.get(trial._trial_id, left)
        elif trial.state == TrialState.WAITING:
            waiting[str(trial.number)] = "enqueued; tried before new ones are drawn"
    return {name: rows for name, rows in (("running_trials", running), ("waiting_trials", waiting)) if rows}


def folder_in_words(storage: str) -> str | None:
    """What the files of all studies take, and how much of that is the cache; None where there are none."""
    runs = runs_folder(storage)
    if not runs.is_dir():
        return None
    whole, cache = size_of(runs), size_of(runs / "cache")
    clean = f"study data clean{storage_option(storage)}"
    return f"{runs} takes {size_in_words(whole)}, {size_in_words(cache)} of it the cache (what no study needs: {clean})"


def lines(value: JsonValue) -> JsonValue:
    """A table of trials, one per line; everything else in one."""
    if isinstance(value, dict) and all(key.isdecimal() for key in value):
        return "\n".join(f"{key}: {one_line(str(text))}" for key, text in value.items())
    return one_line(value) if isinstance(value, str) else value
