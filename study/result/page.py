"""The report as one HTML page: offline, readable on a phone, printable; values in, text out."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np
import plotly.graph_objects as go
import plotly.io
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from models.bundle.card import Conformal, Data, ExportedFile, StudyCard, percent
from models.bundle.readable import calibrated
from models.bundle.verdict import by_class, verdict
from models.scores.conformal import RefusedLevel
from models.scores.evaluation import Comparison, HeldOutScores, PositiveScores
from models.scores.intervals import Interval
from models.training.loop import EpochResult
from study.attributes import BASELINE, NUM_PARAMS, SECONDS, number
from study.config.schema import StudyConfig
from study.config.space import Entry, Range, used_parameters
from study.result import figures
from study.result.front import Point
from study.result.gain import Gain
from study.result.html import MOST_CELLS, Row, document, facts, folded, matrix, picture, pictures, table, thumbnail
from study.search.standing import best_first, is_start
from study.training.mistakes import Mistake

SHOWN = 20
"""Number of rows of the leaderboard and of the table of classes that are not folded away."""
EXAMPLES = 12
"""Largest number of classes of which an image is shown."""


@dataclass(frozen=True, kw_only=True)
class SearchFacts:
    """Facts about the search that report.write_report works out."""

    rungs: figures.Rungs
    importance: dict[str, float]
    infeasible: int
    at_the_edge: list[str]
    gain: Gain
    front: list[Point]  # cheapest first
    left_out: int  # trials of other programs
    stages: Mapping[str, tuple[float, float | None]]  # by stage: (seconds planned, seconds taken)
    planned_hours: float | None  # hours that the plan was made for
    storage: str  # option of commands that names the database; empty for the usual one


def page(
    trials: list[FrozenTrial],
    config: StudyConfig,
    card: StudyCard,
    epochs: list[EpochResult],
    times: dict[str, float | int],
    found: SearchFacts,
    mistakes: list[Mistake],
    examples: Mapping[str, NDArray[np.uint8]],
) -> str:
    """Return the whole report: what the model is worth, what it gets wrong, and folded below it everything else."""
    first = [
        ("confusion", "Confusion matrix", _confusion(card)),
        ("mistakes", "Its worst mistakes", _mistakes(mistakes)),
        ("classes", "Per class", _classes(card)),
    ]
    experts = [
        ("scores", "All scores", _scores(card)),
        ("beside", "Beside other models", _comparison(card)),
        ("calibration", "Calibration", _calibration(card)),
        ("sets", "Prediction sets", _doubt(card)),
        ("model", "The shipped model", _model(card, config, found, epochs)),
        ("gain", "Did the search pay?", _gain(card, found.gain)),
        ("search", "The search", _search(trials, config, card, found, times)),
        ("trials", "All trials", _trials(trials, config)),
        ("data", "The data", _data(card.data)),
        ("again", "How to do it again", _again(card, times, found.storage)),
    ]
    body = [
        f"<h1>{html.escape(card.study.name)}: {html.escape(Path(card.data.source).name)}</h1>",
        '<h2 id="score">What the model is worth</h2>',
        _worth(card),
        _examples(examples, len(card.classes)),
        _links(first, "experts", "For experts"),
        *(f'<h2 id="{anchor}">{title}</h2>{content}' for anchor, title, content in first),
        '<h2 id="experts">For experts</h2>',
        *(folded(anchor, title, content) for anchor, title, content in experts if content),
        f'<p class="note">{html.escape(card.notice)}</p>',
    ]
    scripts = f"<script>{plotly.offline.get_plotlyjs()}</script>"
    return document(card.study.name, "".join(body), scripts)


def _links(sections: list[tuple[str, str, str]], anchor: str, title: str) -> str:
    shown = [*((anchor, title) for anchor, title, _ in sections), (anchor, title)]
    return "<nav>" + "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in shown) + "</nav>"


def _figure(figure: go.Figure) -> str:
    """Return a figure as wide as the page, with its title as text above it; plotly's script is in the head."""
    title = html.escape(figure.layout.title.text or "")
    clear = "rgba(0,0,0,0)"
    shown = go.Figure(figure).update_layout(
        title=None,
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        height=figure.layout.height or 380,
        margin={"t": 20, "l": 70, "r": 20},
    )
    drawn = plotly.io.to_html(
        shown, full_html=False, include_plotlyjs=False, config={"responsive": True, "displaylogo": False}
    )
    return f'<figure><figcaption>{title}</figcaption><div class="figure">{drawn}</div></figure>'


def _worth(card: StudyCard) -> str:
    """Return the verdict as HTML; its words are escaped because they hold names from users."""
    worth = verdict(card)
    assert worth is not None
    value, _, rest = worth.value.partition(", ")
    seeds = card.test_accuracy_of_seeds
    metric = html.escape(worth.metric.capitalize())
    parts = [
        f'<p class="score">{metric} <b>{html.escape(value)}</b> {html.escape(rest)} ({html.escape(worth.on)})</p>',
        f'<p class="word">{html.escape(worth.word)}</p>',
        *(f'<p class="warn">{html.escape(note)}</p>' for note in worth.notes),
        f"<p>{html.escape(worth.choice)}</p>",
        f"<p>Accuracy of all {len(seeds)} seeds: {', '.join(map(percent, seeds))}.</p>" if seeds[1:] else "",
    ]
    return f'<div class="verdict {worth.kind.replace(" ", "-")}">{"".join(parts)}</div>'


def _examples(examples: Mapping[str, NDArray[np.uint8]], classes: int) -> str:
    """Return an image of each of the first classes, as HTML."""
    shown = pictures([(thumbnail(image), name, "") for name, image in examples.items()], "small")
    more = f'<p class="note">and {classes - EXAMPLES} more classes</p>' if classes > EXAMPLES else ""
    return f'<p class="note">An image of each class:</p>{shown}{more}' if examples else ""


def _confusion(card: StudyCard) -> str:
    """Return the confusion matrix as a table, or as colours if there are many classes."""
    counts, classes = card.test.confusion, card.classes
    if len(classes) > MOST_CELLS:
        return _figure(figures.confusion(counts, classes))
    words = "Held-out images: the true class down, what the model named across. Blue is right, orange is wrong."
    return f'<p class="note">{words}</p>{matrix(counts, classes)}'


def _scores(card: StudyCard) -> str:
    return table(("on the held-out images", "value", "95 % interval"), _score_rows(card.test))


def _score_rows(test: HeldOutScores) -> list[Row]:
    why = f"none: {test.no_interval}" if test.no_interval else ""
    balanced, f1 = test.balanced_accuracy_interval, test.macro_f1_interval
    rows = [
        ("accuracy", test.accuracy, _interval(test.accuracy_interval)),
        ("balanced accuracy (mean recall of the classes)", test.balanced_accuracy, _interval(balanced, why)),
        ("macro F1", test.macro_f1, _interval(f1, why)),
        ("AUROC (mean of one class against the rest)", test.auroc, _interval(test.auroc_interval, why)),
        ("always the most frequent class", test.majority, ""),
    ]
    return [(words, percent(value), ends) for words, value, ends in rows if value is not None]


def _interval(bounds: Interval | None, otherwise: str = "") -> str:
    """Return the ends of an interval in words, or `otherwise` if there is no interval."""
    return otherwise if bounds is None else f"{percent(bounds[0])} to {percent(bounds[1])}"


def _positive_rows(found: PositiveScores) -> list[Row]:
    rows: list[tuple[str, float | None, Interval | None]] = [
        ("sensitivity", found.sensitivity, found.sensitivity_interval),
        ("specificity", found.specificity, found.specificity_interval),
        ("AUROC", found.auroc, found.auroc_interval),
    ]
    none = "none: too few groups"
    if above := found.at_specificity:
        where = f"at the cutoff from {above.cutoff_from}"
        rows.append((f"sensitivity {where}", above.sensitivity, above.sensitivity_interval))
        rows.append((f"specificity {where}", above.specificity, above.specificity_interval))
    return [(words, percent(value), _interval(ends, none)) for words, value, ends in rows if value is not None]


def _calibration(card: StudyCard) -> str:
    """Return the calibration scores as HTML, before temperature scaling and after."""
    test, said = card.test, calibrated(card)
    changes = facts(
        [
            (
                "expected calibration error",
                f"{percent(test.calibration_error_before)} before the temperature, "
                f"{percent(test.calibration_error)} after",
            ),
            ("negative log likelihood", f"{test.nll_before:.4f} nats before the temperature, {test.nll:.4f} after"),
            ("Brier score", f"{test.brier:.4f} after (0 is perfect, 2 the worst)"),
        ]
    )
    drawn = _figure(figures.reliability(test.reliability)) if test.reliability else ""
    return f"<p>{html.escape(said[0].upper() + said[1:])}.</p>{changes}{drawn}"


def _doubt(card: StudyCard) -> str:
    return _sets(card.conformal) + _figure(figures.risk_coverage(card.test.risk_coverage))


def _comparison(card: StudyCard) -> str:
    """Return a table of everything that was scored at the same opening, compared with the shipped model."""
    rows: list[Row] = []
    for other in card.comparison:
        name = other.name if other.trial is None else f"{other.name} (trial {other.trial})"
        low, high = other.accuracy_interval
        worse, better = other.difference_interval
        rows.append(
            (
                name,
                percent(other.accuracy),
                f"{percent(low)} to {percent(high)}",
                f"{100 * other.difference:+.1f}",
                f"{100 * worse:+.1f} to {100 * better:+.1f}",
                *(_balanced(other) if by_class(card) else ()),
            )
        )
    head = ("beside it", "accuracy", "95 % interval", "shipped is better by (points)", "95 % interval, paired")
    more = ("balanced accuracy", "shipped is better by (points, paired)") if by_class(card) else ()
    leaky = card.leaky_score
    note = (
        '<p class="warn">Leaky, for comparison with published numbers only: the same architecture on a random 80/20 '
        f"split reaches {percent(leaky.accuracy)}.</p>"
        if leaky
        else ""
    )
    missing = "".join(
        f'<p class="note">Not compared with {_rival(name)}: {html.escape(why)}.</p>'
        for name, why in card.not_compared.items()
    )
    return (table((*head, *more), rows) if rows else "") + missing + note


def _balanced(other: Comparison) -> tuple[str, str]:
    """Return the balanced accuracy of another model, and the interval of the paired difference, in words."""
    ends = other.balanced_difference_interval
    words = "no interval: too few groups" if ends is None else f"{100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}"
    return percent(other.balanced_accuracy), words


def _rival(name: str) -> str:
    """Return the name of something that was not compared, in words."""
    return {"pretrained": "a pretrained network", "trees": "trees"}.get(name, html.escape(name))


def _sets(conformal: Conformal | None) -> str:
    """Return a table of prediction sets: their error levels, and their scores on the held-out images."""
    rows: list[Row] = []
    for level, sets in (conformal.levels if conformal else {}).items():
        if isinstance(sets, RefusedLevel):
            rows.append((percent(float(level)), sets.refused, "", ""))
        else:
            shares = percent(sets.coverage), f"{sets.mean_size:.2f}", percent(sets.abstained)
            rows.append((percent(float(level)), *shares))
    head = ("sets that may miss (of new sources)", "held the true class here", "classes in a set", "not exactly one")
    return table(head, rows) if rows else ""


def _formats(formats: dict[str, ExportedFile]) -> str:
    """Return a table of the exported files, each compared with the network as it was trained."""
    rows: list[Row] = []
    for name, form in formats.items():
        rate = f"{form.speed_cpu[-1].images_per_second:,.0f}" if form.speed_cpu else ""
        rows.append((name, f"{form.max_difference:.1e}", rate))
    return table(("file", "largest difference of a probability", "images/s (CPU)"), rows) if rows else ""


def _classes(card: StudyCard) -> str:
    rows: list[Row] = []
    named = np.sum(card.test.confusion, axis=0)  # how often each class was predicted
    for place, name in enumerate(card.classes):
        row = card.test.of_class(name)
        recall = _interval(card.test.recall_intervals.get(name))
        rows.append(
            (
                name,
                percent(row["recall"]),
                recall,
                percent(row["precision"]) if named[place] else "–",
                percent(row["f1-score"]),
                int(row["support"]),
            )
        )
    head = ("class", "found (recall)", "95 % interval", "right when named (precision)", "F1", "images")
    parts = [_some(head, rows)]
    if found := card.test.positive:
        classes = html.escape(", ".join(found.classes))
        parts.append(f"<h3>{classes} against the rest</h3>")
        parts.append(table(("finding against the rest", "value", "95 % interval"), _positive_rows(found)))
    return "".join(parts)


def _some(head: tuple[str, ...], rows: list[Row]) -> str:
    """Return a table whose rows after the first SHOWN are folded away."""
    rest = f"<details><summary>{len(rows) - SHOWN} more</summary>{table(head, rows[SHOWN:])}</details>"
    return table(head, rows[:SHOWN]) + (rest if len(rows) > SHOWN else "")


def _mistakes(mistakes: list[Mistake]) -> str:
    if not mistakes:
        return "<p>None: every held-out image was named rightly.</p>"
    shown = [
        (
            picture(mistake.image, "PNG"),
            f"{mistake.true}, taken for {mistake.predicted} ({percent(mistake.probability)})",
            mistake.path,
        )
        for mistake in mistakes
    ]
    return f'<p class="note">The surest first, as the model saw them.</p>{pictures(shown)}'


def _model(card: StudyCard, config: StudyConfig, found: SearchFacts, epochs: list[EpochResult]) -> str:
    final, study = card.final, card.study
    score, count = study.selection_score, final.num_params
    rows: list[tuple[str, object]] = [
        ("trial", study.trial),
        (figures.selection_name(study.metric), "none" if score is None else percent(score)),
        ("parameters of the network", "not known" if count is None else f"{count:,}"),
        ("trained on", f"{final.data}, {final.epochs} epochs from {'pretrained' if card.begun else 'fresh'} weights"),
        ("probabilities", calibrated(card)),
    ]
    chosen: list[Row] = [
        (name, _allowed(config.space[name]), _short(value))
        for name, value in sorted(used_parameters(config.space, study.params).items())
    ]
    edge = "".join(
        f"<li>{html.escape(line)}: a wider range might hold a better one.</li>" for line in found.at_the_edge
    )
    return (
        facts(rows)
        + table(("parameter", "searched", "chosen"), chosen)
        + (f"<ul>{edge}</ul>" if edge else '<p class="note">No value lies at the end of its range.</p>')
        + _formats(card.formats)
        + _figure(figures.training_curves(epochs))
        + '<p class="note">Training images are augmented, and dropout is on while they are scored.</p>'
    )


def _allowed(entry: Entry) -> str:
    if isinstance(entry, Range):
        return f"{entry.low:g} to {entry.high:g}{', by factors' if entry.log else ''}"
    return ", ".join(map(str, entry)) if isinstance(entry, list) else str(entry)


def _difference(card: StudyCard, beside: Comparison) -> str:
    """Say by how many points the model is better than another one, in the study's metric."""
    points, of = beside.difference, "accuracy"
    ends: Interval | None = beside.difference_interval
    if by_class(card):
        points, of = card.test.balanced_accuracy - beside.balanced_accuracy, "balanced accuracy"
        ends = beside.balanced_difference_interval
    sure = f"95 % interval {100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}, paired" if ends else "too few groups to tell"
    return f"{100 * points:+.1f} points of {of} ({sure})"


def _gain(card: StudyCard, gain: Gain) -> str:
    """Return what the search found beyond the networks that it began with, on val and on the held-out images."""
    winner, start, drawn, half = gain.winner, gain.start, gain.drawn, gain.half
    said = [f"The winner is {_named(winner)}."]
    if card.study.trial != winner.number:
        said = [f"This model is trial {card.study.trial}, as asked for; the study's own choice is {_named(winner)}."]
    if is_start(winner):
        said.append("It is one of the networks that the search began with: the search chose among them.")
        said.append(
            f"The best one that was drawn is {_named(drawn)}."
            if drawn
            else "No network that was drawn was trained to its end."
        )
    elif start is None:
        said.append("It was drawn, and no network that the search began with was trained to its end.")
    else:
        said.append(f"It was drawn. The best of the networks that the search began with is {_named(start)}.")
        own = card.study.trial == winner.number
        beside = next((other for other in card.comparison if own and other.trial == start.number), None)
        if beside is None:
            said.append("The two were not trained alike for the held-out images: the hours, or the study, left it out.")
        else:
            said.append(f"Trained alike, the winner is better by {_difference(card, beside)} on the held-out images.")
    if half is None:
        said.append("After half of the search's training no trial had run to its end.")
    elif half.number == winner.number:
        said.append("Half of the search's training would have given the same winner.")
    else:
        said.append(f"After half of the search's training the best was {_named(half)}.")
    drawing = _figure(figures.best_by_time(gain.so_far, card.study.metric)) if gain.so_far else ""
    note = '<p class="note">Selection scores are of val, which chose: the best of many is higher than it will be.</p>'
    return "".join(f"<p>{html.escape(one)}</p>" for one in said) + drawing + note


def _named(trial: FrozenTrial) -> str:
    return f"trial {trial.number}" + (f" ({percent(trial.value)} on val)" if trial.value is not None else "")


def _search(
    trials: list[FrozenTrial], config: StudyConfig, card: StudyCard, found: SearchFacts, times: dict[str, float | int]
) -> str:
    states = {
        state: sum(trial.state == state for trial in trials) for state in (TrialState.COMPLETE, TrialState.PRUNED)
    }
    spent, whole = times["search_epochs"], times["search_epochs_without_pruning"]
    sentences = [
        f"{len(trials)} trials ({states[TrialState.COMPLETE]} to their end, {states[TrialState.PRUNED]} pruned), "
        f"{config.sampler} and {config.pruner}. {spent} epochs instead of {whole}: pruning saved "
        f"{percent(1 - spent / max(1, whole))}.",
        f"{found.infeasible} of them ({percent(found.infeasible / max(1, len(trials)))}) could not be trained "
        "(out of memory, diverged, or their worker died).",
        *([f"{found.left_out} trials of other programs are left out."] if found.left_out else []),
        "Selection scores come from the validation part, which chose the winner: the best of many is not a "
        "performance.",
    ]
    parts = ["".join(f"<p>{sentence}</p>" for sentence in sentences), _stages(config, card, found)]
    parts.append(_figure(figures.history(trials, config.metric)))
    if found.rungs:
        shares: list[Row] = [(*row, percent(row[3] / row[2]) if row[2] else "") for row in found.rungs]
        parts.append(table(("bracket", "rung (epochs)", "judged", "went on", "share"), shares))
        parts.append(_figure(figures.rung_survival(found.rungs)))
    parts.append(_figure(figures.learning_curves(trials, config.metric)))
    parts.append('<p class="note">A line is a trial, its colour the bracket; pale: pruned.</p>')
    if found.importance:
        parts.append(_figure(figures.importance(found.importance)))
    else:
        parts.append('<p class="note">Too few complete trials to say which parameters mattered.</p>')
    for attribute, label in ((NUM_PARAMS, "parameters of the network"), (SECONDS, "seconds of training")):
        parts.append(_figure(figures.cost_against_score(trials, attribute, label, config.metric)))
    return "".join(parts) + _front(found.front, card, found.storage)


def _stages(config: StudyConfig, card: StudyCard, found: SearchFacts) -> str:
    """Return a table of the seconds planned and taken.

    If the hours were changed after the plan was made, a note says that the two columns are not of the same work.
    """
    if not found.stages:
        return ""
    rows: list[Row] = [
        (name, round(wanted), "" if spent is None else round(spent)) for name, (wanted, spent) in found.stages.items()
    ]
    notes = ["This page is part of the stage that has not ended."]
    if config.hours is not None and found.planned_hours is not None and config.hours != found.planned_hours:
        notes.append(
            f"The plan was made for {found.planned_hours:g} hours, and the study was given {config.hours:g} since: "
            "seconds taken are of all that was done, seconds planned of the first plan alone."
        )
    elif card.test_openings > 1:
        notes.append("A model was made before: the seconds of that one count as search.")
    return table(("stage", "seconds planned", "seconds taken"), rows) + f'<p class="note">{" ".join(notes)}</p>'


def _front(front: list[Point], card: StudyCard, storage: str) -> str:
    """Return the Pareto front by score and GFLOP as HTML, with the command that makes a model of each point."""
    name = quote(card.study.name)
    rows: list[Row] = [
        (
            one.trial,
            percent(one.score),
            one.milliseconds,
            one.gflops,
            "this model" if one.trial == card.study.trial else f"study retrain {name} --trial {one.trial}{storage}",
        )
        for one in front
    ]
    if not rows:
        return ""
    head = ("trial", figures.selection_name(card.study.metric), "milliseconds", "GFLOP", "a model of it")
    return (
        "<p>No network is both better and cheaper than these; milliseconds are those of one image on the processor "
        f"that wrote this page.</p>{table(head, rows)}"
    )


def _trials(trials: list[FrozenTrial], config: StudyConfig) -> str:
    trials = best_first(trials)
    rows: list[Row] = [
        (
            trial.number,
            "baseline" if trial.user_attrs.get(BASELINE) else trial.state.name.lower(),
            percent(trial.value) if trial.value is not None else "",
            trial.last_step or 0,
            round(number(trial.user_attrs, SECONDS) or 0.0, 1),
            ", ".join(f"{key} {_short(value)}" for key, value in used_parameters(config.space, trial.params).items()),
        )
        for trial in trials
    ]
    return _some(("trial", "state", figures.selection_name(config.metric), "epochs", "seconds", "parameters"), rows)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _data(data: Data) -> str:
    rows: list[tuple[str, object]] = [
        ("source", data.source),
        ("images", f"{data.images:,}"),
        ("groups", f"{data.groups:,} ({data.groups_from})"),
        ("parts", ", ".join(f"{part} {count}" for part, count in data.parts.items())),
        ("left out as unreadable", len(data.skipped)),
        ("hash of the images", data.content),
        ("hash of the parts", data.parts_hash),
    ]
    command = f"study data audit {quote(data.source)} --html audit.html"
    return facts(rows) + f"<p>Copies, leaks and doubtful labels:</p><pre>{html.escape(command)}</pre>"


def _again(card: StudyCard, times: dict[str, float | int], storage: str) -> str:
    name = quote(card.study.name)
    commands = f"study run study.toml --name {name}\nstudy resume {name} --trials MORE{storage}"
    made = [*card.versions.items(), ("hash of the weights", card.weights_sha256)]
    return (
        "<p><code>study.toml</code> lies beside this page. With the same name (it decides the brackets), one worker, "
        "the same versions, processor and number of threads, and an empty database the weights are the same to the "
        "last bit.</p>"
        f"<pre>{html.escape(commands)}</pre><h3>Versions</h3>{facts(made)}<h3>Times</h3>"
        + facts([(key.replace("_", " "), value) for key, value in times.items()])
    )
