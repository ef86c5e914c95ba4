"""Findings of a study and the worth of its model, as plain values and as files beside the model."""

import csv
import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import numpy as np
import optuna
import plotly.graph_objects as go
import tomli_w
from numpy.typing import NDArray
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from pydantic import JsonValue

from models import files
from models.bundle.card import StudyCard
from models.scores.evaluation import ClassScores, HeldOutScores
from models.training.loop import EpochResult
from study.attributes import BRACKET, EPOCH_SECONDS, INFEASIBLE, NUM_PARAMS, PRUNED_BECAUSE, SECONDS, number, why
from study.config.schema import StudyConfig
from study.config.space import PARAMETERS, Entry, Range, Value, full_point, numbers, used_parameters
from study.result import figures
from study.result.figures import Rungs
from study.result.front import Point
from study.result.gain import gain
from study.result.page import EXAMPLES, SearchFacts, page
from study.search.open_study import OpenStudy
from study.search.standing import best_first
from study.storage.address import storage_option
from study.training.mistakes import Mistake
from study.training.workspace import Workspace

CURVES = 100
"""Largest number of learning curves that a figure shows."""
ENOUGH = 8
"""Number of complete trials below which nothing is said about the importance of parameters."""


def write_report(
    directory: Path,
    study: OpenStudy,
    config: StudyConfig,
    card: StudyCard,
    epochs: list[EpochResult],
    mistakes: list[Mistake],
    front: list[Point],
    examples: dict[str, NDArray[np.uint8]],
) -> None:
    """Write the report's files beside the model: one page, and each table as a file of its own.

    `examples`: an image [H, W, 3] of each of the first classes, by name.
    """
    trials = study.own_trials()
    times = times_table(trials, card, config)
    stages, planned = study.times(), study.planned()
    found = SearchFacts(
        rungs=rungs_table(trials, config),
        importance=importances(trials),
        infeasible=sum(why(trial.user_attrs) in INFEASIBLE for trial in trials),
        at_the_edge=edges(config.space, used_parameters(config.space, card.study.params)),
        gain=gain(config, trials, _own_choice(study, card)),
        front=front,
        stages=stages,
        planned_hours=planned.hours if planned else None,
        storage=storage_option(study.storage.url),
        left_out=sum(trial.state.is_finished() for trial in study.trials()) - len(trials),
    )
    files.write_json(directory / "results.json", results(trials, config))
    by_stage = {name: {"planned": wanted, "taken": spent} for name, (wanted, spent) in stages.items()}
    files.write_json(directory / "times.json", {**times, **({"stages": by_stage} if stages else {})})
    files.write(directory / "study.toml", study_file(config, study.name, len(trials)))
    warning = f"{card.mark}\n\n" if card.mark else ""
    files.write(directory / "classification_report.txt", (warning + report_text(card.test, card.classes)).encode())
    files.write(directory / "confusion_matrix.csv", confusion_csv(card.test.confusion, card.classes).encode())
    files.write(
        directory / "report.html", page(trials, config, card, epochs, times, found, mistakes, examples).encode()
    )


def one_of_each(work: Workspace) -> dict[str, NDArray[np.uint8]]:
    """Return one training image [H, W, 3] of each of the first EXAMPLES classes, by class name."""
    labels = work.dataset.labels[work.parts.train]
    found: dict[str, NDArray[np.uint8]] = {}
    for label, name in enumerate(work.dataset.classes[:EXAMPLES]):
        mine = np.flatnonzero(labels == label)
        if len(mine):
            found[name] = np.asarray(work.dataset.images[work.parts.train[mine[0]]])
    return found


def results(trials: list[FrozenTrial], config: StudyConfig) -> list[dict[str, JsonValue]]:
    """Return all trials with a score, best first, with the reference's fields (val_accuracy in percent) and ours."""
    rows: list[dict[str, JsonValue]] = []
    for trial in best_first(trials):
        if trial.value is None:
            continue
        point = full_point(config.space, trial.params)
        attributes = trial.user_attrs
        rows.append(
            {
                "config": point | {name: list(numbers(point[name])) for name in ("kernel_sizes", "dense_units")},
                "val_accuracy": 100 * trial.value,
                "total_time": number(attributes, SECONDS),
                "avg_epoch_time": number(attributes, EPOCH_SECONDS),
                "trial": trial.number,
                "state": trial.state.name,
                "epochs": trial.last_step,
                "selection_score": trial.value,
                "leaky": config.leaky,
                "pruned_because": attributes.get(PRUNED_BECAUSE),
            }
        )
    return rows


def _own_choice(study: OpenStudy, card: StudyCard) -> FrozenTrial:
    """Return the trial that the study itself chose, whichever was shipped."""
    return next(one for one in study.trials() if one.number == card.study.chosen)


def times_table(trials: list[FrozenTrial], card: StudyCard, config: StudyConfig) -> dict[str, float | int]:
    """Return seconds and epochs of search and final trainings; pauses between runs do not count."""
    epochs = sum(len(trial.intermediate_values) for trial in trials)
    search = sum(number(trial.user_attrs, SECONDS) or 0.0 for trial in trials)
    final_epochs = card.final.epochs * card.final.trainings
    return {
        "search_seconds": round(search, 2),
        "search_epochs": epochs,
        "search_epochs_without_pruning": sum(
            config.epochs if why(one.user_attrs) == "not_promoted" else len(one.intermediate_values) for one in trials
        ),
        "search_seconds_per_epoch": round(search / max(1, epochs), 3),
        "final_seconds": round(card.final.seconds, 2),
        "final_epochs": final_epochs,
        "final_seconds_per_epoch": round(card.final.seconds / final_epochs, 3),
        "total_seconds": round(search + card.final.seconds, 2),
    }


def report_text(scores: HeldOutScores, classes: Sequence[str]) -> str:
    """Return the classification report as aligned text."""
    rows = [(name, scores.of_class(name)) for name in classes]
    averages = list(scores.averages.items())
    width = max(len(name) for name, _ in [*rows, *averages])
    lines = [f"{'':{width}}  precision  recall  f1-score  support", *(_report_line(width, *row) for row in rows)]
    lines.append(f"{'accuracy':{width}}  {scores.accuracy:27.4f}")
    lines += [_report_line(width, *row) for row in averages]
    return "\n".join(lines) + "\n"


def _report_line(width: int, name: str, row: ClassScores) -> str:
    return (
        f"{name:{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1-score']:8.4f}"
        f"  {int(row['support']):7d}"
    )


def confusion_csv(confusion: list[list[int]], classes: Sequence[str]) -> str:
    """Return the confusion matrix as CSV; rows are true classes, columns predicted ones."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, confusion, strict=True))
    return text.getvalue()


def rungs_table(trials: list[FrozenTrial], config: StudyConfig) -> Rungs:
    """Count how many trials of each bracket reached each rung, and how many of them went on."""
    found: Rungs = []
    for bracket, rungs in enumerate(config.brackets):
        lengths = [len(one.intermediate_values) for one in trials if one.user_attrs.get(BRACKET) == bracket]
        found += [
            (bracket, rung, sum(n >= rung for n in lengths), sum(n > rung for n in lengths)) for rung in rungs[:-1]
        ]
    return found


def search_figures(trials: list[FrozenTrial], config: StudyConfig) -> dict[str, go.Figure]:
    """Draw the figures of a search, finished or not, by name; learning curves only of the latest trials."""
    drawn = {
        "learning-curves": figures.learning_curves(trials[-CURVES:], config.metric),
        "score-against-parameters": figures.cost_against_score(
            trials, NUM_PARAMS, "parameters of the network", config.metric
        ),
        "score-against-seconds": figures.cost_against_score(trials, SECONDS, "seconds of training", config.metric),
    }
    if rungs := rungs_table(trials, config):
        drawn["rung-survival"] = figures.rung_survival(rungs)
    return drawn


def importances(trials: list[FrozenTrial]) -> dict[str, float]:
    """Return the parameters' shares in the score (PED-ANOVA, Watanabe et al. 2023); {} if too little is known."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(complete) < ENOUGH:
        return {}
    own = optuna.create_study(direction="maximize")
    own.add_trials(complete)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            return optuna.importance.get_param_importances(
                own, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
        except (ValueError, RuntimeError):  # all values equal
            return {}


def edges(space: dict[str, Entry], params: dict[str, Value]) -> list[str]:
    """Return a line for each parameter whose value is in the outer 5 % of its range on either side.

    A wider range may hold a better value. Limits of the parameter itself, such as a dropout of 0, are left out.
    """
    found = []
    for name, value in params.items():
        entry = space.get(name)
        if isinstance(value, str | bool):
            continue
        if isinstance(entry, Range):
            ends = float(entry.low), float(entry.high)
            low, high, at = (math.log(x) if entry.log else float(x) for x in (entry.low, entry.high, value))
            place = (at - low) / (high - low)
        elif isinstance(entry, list) and len(entry) > 2:
            values = sorted(map(float, entry))
            ends = values[0], values[-1]
            place = values.index(float(value)) / (len(values) - 1)
        else:
            continue
        side, end = ("lower", ends[0]) if place < 0.5 else ("upper", ends[1])
        if 0.05 <= place <= 0.95 or end in (PARAMETERS[name].low, PARAMETERS[name].high):
            continue
        found.append(f"{name} = {value:.4g} lies at the {side} end of what was tried")
    return found


def study_file(config: StudyConfig, name: str, trials: int) -> bytes:
    """Return the configuration as a TOML file for `study run`, with `trials` as budget if hours ended the search."""
    command = f"# The same trials: study run study.toml --name {quote(name)}   (the name decides the brackets)\n"
    if config.hours is not None and trials:
        config = config.model_copy(update={"hours": None, "trials": trials})
    if config.preset == "auto":  # its own fields would leave things to a plan
        config = config.model_copy(update={"preset": "full"})
    return (command + tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))).encode()
