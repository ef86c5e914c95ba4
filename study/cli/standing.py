"""The facts and sentences that `study status` prints about each study."""

from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import JsonValue

from data import counted
from study import StudyError
from study.attributes import FINAL_STAGE, MODELS, REPLAY_DIFFERS
from study.cli.console import duration, one_line, size_in_words, storage_option
from study.search.open_study import OpenStudy, existing
from study.search.standing import search_seconds, winner
from study.search.unneeded import size_of
from study.storage.door import load_study, open_storage, runs_folder
from study.storage.lean import LeanStorage
from study.storage.owners.leases import holders_in_words
from study.storage.trouble import storage_trouble

if TYPE_CHECKING:
    from models.bundle.card import StudyCard

Row = dict[str, JsonValue]
Stage = Literal["search", "final stage", "finished"]


def rows_of(name: str | None, storage: str) -> list[Row]:
    """Return the standing of one study, or of all studies in the database."""
    with storage_trouble(storage):
        database = open_storage(storage, create=False, write=False)
        names = database.study_names() if name is None else [name]
        return [_row_or_note(database, one, storage) for one in names]


def _row_or_note(database: LeanStorage, name: str, storage: str) -> Row:
    """Return one study's standing, or a note: what another program wrote into it must not hide the others."""
    try:
        return _row(database, name, storage)
    except StudyError as error:
        return {"name": name, "note": str(error)}


def _row(database: LeanStorage, name: str, storage: str) -> Row:
    """Return one study's standing."""
    study = load_study(database, name)
    row = _counts(study, holders_in_words(database))
    try:
        found = _found(existing(database, name, storage))
    except StudyError as error:  # plain Optuna's, another version's, or changed by another program
        return {**row, "note": str(error)}
    return {**row, **found, "go_on": f"study resume {quote(name)}{storage_option(storage)}"}


def _counts(study: optuna.Study, held: dict[int, str]) -> Row:
    """Return what can be said of any study of Optuna."""
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
    """Return what can be said of a study of this program."""
    row: Row = {}
    finished = [trial for trial in study.trials() if trial.state.is_finished()]
    if strangers := {trial.number: why for trial in finished if (why := study.members.stranger(trial))}:
        row["not_counted"] = {str(number): why for number, why in strangers.items()}
        ended = [trial.state for trial in finished if trial.number not in strangers]
        row |= {state.name.lower(): ended.count(state) for state in (TrialState.COMPLETE, TrialState.PRUNED)}
    if any(trial.state == TrialState.COMPLETE for trial in study.own_trials()):
        best = winner(study)
        row |= {"best_trial": best.number, "best_selection_score": best.value, "best_params": dict(best.params)}
    config = study.config
    row |= {"protocol": f"{config.protocol} (LEAKY)" if config.leaky else config.protocol}
    row |= {"data": config.data, "trials_wanted": config.trials, "hours_wanted": config.hours}
    row |= {"hours_spent": round(study.clock.spent() / 3600, 3)}
    card = finished_model_card(study)
    row |= {"stage": stage_of(study, card), "worked_on": study.clock.is_held(), "may_search": not _searched(study)}
    return row if card is None else row | _worth(study, card)


def _searched(study: OpenStudy) -> bool:
    """Return whether the trials that were wanted have ended, or the time for them is over."""
    wanted = study.config.trials
    return (wanted is not None and len(study.own_trials()) >= wanted) or study.search_seconds_left() <= 0


def stage_of(study: OpenStudy, card: "StudyCard | None") -> Stage:
    """Return the stage of a study; it is finished if it has the card of a finished model."""
    if card:
        return "finished"
    return "final stage" if _searched(study) or FINAL_STAGE in study.study.user_attrs else "search"


def finished_model_card(study: OpenStudy) -> "StudyCard | None":
    """Return the card of a study's model; None while somebody works on it, or if trials came after the model.

    A trial that was under way when the time of the search was over keeps its number and counts as running: it is no
    reason to call the study unfinished.
    """
    if MODELS not in study.study.user_attrs or study.clock.is_held():
        return None
    if study.trials(TrialState.RUNNING) and not _searched(study):
        return None
    from models.bundle.card import StudyCard  # these import torch
    from models.bundle.folder import read_card
    from study.result.shipped import FINISHED

    directory = study.folder / "model"
    try:
        card = read_card(directory, StudyCard) if (directory / FINISHED).exists() else None
    except (OSError, ValueError):  # removed, torn, altered, or of another version
        return None
    return card if card and (card.study.name, card.study.trials) == (study.name, len(study.own_trials())) else None


def _worth(study: OpenStudy, card: "StudyCard") -> Row:
    """Return the model, the report and the verdict of a finished study."""
    from models.bundle.verdict import verdict

    directory, found = study.folder / "model", verdict(card)
    row: Row = {"model": str(directory), "report": str(directory / "report.html")}
    return row | ({"verdict": list(found.lines)} if found else {})


def _unfinished(trials: list[FrozenTrial], held: dict[int, str]) -> Row:
    """Return what becomes of the trials that are not finished, by number."""
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
    """Return how much the files of all studies take, and how much of it the cache; None if there are none."""
    runs = runs_folder(storage)
    if not runs.is_dir():
        return None
    whole, cache = size_of(runs), size_of(runs / "cache")
    clean = f"study data clean{storage_option(storage)}"
    return (
        f"{runs} takes {size_in_words(whole)}, {size_in_words(cache)} of it the cache "
        f"(to remove what no study needs: {clean})"
    )


def sentences(row: Row, storage: str) -> Iterator[str]:
    """Yield a study's standing in words, one line each, and what to type next."""
    ended = _ended(row)
    if "stage" not in row:
        yield one_line(f"{row['name']}: {f'{ended}. ' if 'complete' in row else ''}{row['note']}")
        return
    yield one_line(f"{row['name']} {_where(row)}: {ended}.")
    verdict = row.get("verdict")
    yield from map(one_line, map(str, verdict if isinstance(verdict, list) else []))
    if "best_trial" in row:
        yield f"Best selection score (validation): {_score(row)}, of trial {row['best_trial']}."
    if "model" in row:
        yield one_line(f"The model is in {row['model']}, the report is {row['report']}.")
    yield one_line(f"Images: {row['data']}; protocol: {row['protocol']}; {_spent(row)}.")
    yield from _remarks(row)
    yield from (f"  {command}" for command in _next(row, storage))


def _where(row: Row) -> str:
    if row["stage"] == "finished":
        return "is finished"
    place = "search" if row["stage"] == "search" else "final stage, after the search"
    if row["worked_on"]:
        return f"is running, in the {place}"
    begun = any(row[state] for state in ("complete", "pruned", "running", "fail"))
    return f"was stopped in the {place}" if begun else "has not begun its search"


def _ended(row: Row) -> str:
    """Return in words how many trials have ended, and what became of them."""
    counts = {state: value for state, value in row.items() if isinstance(value, int)}
    done, wanted = sum(counts.get(state, 0) for state in ("complete", "pruned")), row.get("trials_wanted")
    trials = f"{done} of {counted(wanted, 'trial')}" if isinstance(wanted, int) else counted(done, "trial")
    over = row.get("stage") == "finished" or not row.get("worked_on", True)
    ended = [f"{counts[state]} {words}" for state, words in ENDED.items() if counts.get(state)]
    others = [
        f"{counts[state]} {words}"
        for state, words in (("running", "cut off" if over else "running"), ("waiting", "waiting"))
        if counts.get(state)
    ]
    return trials + (f" ended ({', '.join(ended)})" if ended else " ended") + "".join(f", {one}" for one in others)


ENDED = {"complete": "complete", "pruned": "pruned", "fail": "failed"}
"""States in which a trial has ended -> what they are called."""


def _score(row: Row) -> str:
    """Return the best score in percent, as models.bundle.card writes it, whose import takes seconds."""
    score = row["best_selection_score"]
    if not isinstance(score, float):
        return "none"
    return "over 99.9 %" if 0.9995 <= score < 1 else f"{100 * score:.1f} %"


def _spent(row: Row) -> str:
    hours, wanted = row["hours_spent"], row["hours_wanted"]
    spent = f"{duration(3600 * float(hours if isinstance(hours, float) else 0))} of work"
    return spent if not isinstance(wanted, float) else f"{spent} of {duration(3600 * wanted)}"


def _remarks(row: Row) -> Iterator[str]:
    """Yield remarks on single trials."""
    over = row["stage"] == "finished"
    for key in ("running_trials", "not_counted") if over else ("running_trials", "waiting_trials", "not_counted"):
        trials = row.get(key)
        for number, text in trials.items() if isinstance(trials, dict) else ():
            left = over and key == "running_trials"
            said = "was left unfinished when the search ended; a longer search goes on with it" if left else text
            yield one_line(f"Trial {number}: {said}")
    if differing := row.get("replays_that_differ"):
        numbers = ", ".join(map(str, differing if isinstance(differing, list) else ()))
        yield f"Replayed with another result (another machine, thread count or version): trial {numbers}"


def _next(row: Row, storage: str) -> Iterator[str]:
    """Yield the commands that go on from here; nobody is told to resume a study that runs."""
    dashboard = f"study dashboard{storage_option(storage)}"
    if row["worked_on"]:
        yield from (f"study status {quote(str(row['name']))} --watch{storage_option(storage)}", dashboard)
        return
    if "model" in row:
        yield from (f"study predict {quote(str(row['model']))} IMAGE", dashboard)
    if row["stage"] != "finished" or row["may_search"]:
        yield str(row["go_on"])
