"""The report as one HTML page: offline, readable on a phone, printable; values in, text out."""

import html
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote

import plotly.graph_objects as go
import plotly.io
from optuna.trial import FrozenTrial, TrialState

from models.bundle.card import INCOMPLETE, Conformal, Data, Format, StudyCard, beaten, percent
from models.scores.conformal import Refused
from models.scores.evaluation import HeldOutScores, Positive
from models.scores.intervals import Interval
from models.training.loop import EpochResult
from study.attributes import BASELINE, NUM_PARAMS, SECONDS, number
from study.config.schema import StudyConfig
from study.config.space import Entry, Range
from study.result import figures
from study.result.html import Row, document, picture, table
from study.training.mistakes import Mistake

SHOWN = 20
"""Trials in the leaderboard that are not folded away."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A network of the search than which none is better and cheaper."""

    trial: int
    score: float
    gflops: float  # an image
    milliseconds: float  # an image alone, on this processor


@dataclass(frozen=True, kw_only=True)
class Found:
    """What report.write_report works out of the search."""

    rungs: figures.Rungs
    importance: dict[str, float]
    infeasible: int
    at_the_edge: list[str]
    front: list[Point]  # cheapest first
    left_out: int  # trials of other programs
    stages: Mapping[str, tuple[float, float | None]]  # seconds as planned, and taken by the time of writing


def page(
    trials: list[FrozenTrial],
    config: StudyConfig,
    card: StudyCard,
    epochs: list[EpochResult],
    times: dict[str, float | int],
    found: Found,
    mistakes: list[Mistake],
) -> str:
    """The whole report."""
    sections = [
        ("score", "What the model is worth", _score(card)),
        ("classes", "Per class", _classes(card)),
        ("mistakes", "Its worst mistakes", _mistakes(mistakes)),
        ("model", "The shipped model", _model(card, config, found, epochs)),
        ("search", "The search", _search(trials, config, card, found, times)),
        ("trials", "All trials", _trials(trials)),
        ("data", "The data", _data(card.data)),
        ("again", "How to do it again", _again(card, times)),
    ]
    name = html.escape(card.study.name)
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, content in sections if content)
    body = "".join(f'<h2 id="{anchor}">{title}</h2>{content}' for anchor, title, content in sections if content)
    note = f'<p class="note">{html.escape(card.notice)}</p>'
    scripts = f"<script>{plotly.offline.get_plotlyjs()}</script>"
    return document(card.study.name, f"<h1>{name}</h1><nav>{links}</nav>{body}{note}", scripts)


def _figure(figure: go.Figure) -> str:
    """A figure that is as wide as the page; its script is in the head."""
    drawn = plotly.io.to_html(figure, full_html=False, include_plotlyjs=False, config={"responsive": True})
    return f'<div class="figure">{drawn}</div>'


def _openings(card: StudyCard) -> str:
    return (
        f"The test part was opened {card.test_openings} times in this study, and the scores here are from opening "
        f"{card.test_opening.number}; they are optimistic."
    )


def _score(card: StudyCard) -> str:
    test, opening = card.test, card.test_openings
    low, high = test.accuracy_interval
    warnings = [
        *([card.mark] if card.mark else []),
        *([] if card.study.complete else [INCOMPLETE]),
        *(["The images are synthetic: no score here says anything about tissue."] if card.synthetic_data else []),
        *([_openings(card)] if opening > 1 else []),
    ]
    seeds = card.test_accuracy_of_seeds
    spread = f"; all {len(seeds)} seeds: {', '.join(percent(seed) for seed in seeds)}" if len(seeds) > 1 else ""
    parts = [
        f'<p class="score">{card.score_name.capitalize()} {percent(test.accuracy)}</p>',
        f"<p>95 % interval {percent(low)} to {percent(high)} (over {test.groups} groups, {test.images} "
        f"images){spread}. Always naming the most frequent class gives {percent(test.majority)}.</p>",
        *(f'<p class="warn">{html.escape(warning)}</p>' for warning in (*warnings, *beaten(card))),
        table(("on the held-out images", "value", "95 % interval"), _score_rows(test)),
    ]
    if test.positive:
        parts.append(table(("finding against the rest", "value", "95 % interval"), _positive_rows(test.positive)))
    parts += [_comparison(card), _sets(card.conformal), _figure(figures.risk_coverage(test.risk_coverage))]
    if test.reliability:
        parts.append(_figure(figures.reliability(test.reliability)))
    return "".join(parts)


def _score_rows(test: HeldOutScores) -> list[Row]:
    why = f"none: {test.no_interval}" if test.no_interval else ""
    balanced, f1 = test.balanced_accuracy_interval, test.macro_f1_interval
    rows = [
        ("accuracy", test.accuracy, _interval(test.accuracy_interval)),
        ("balanced accuracy (mean recall of the classes)", test.balanced_accuracy, _interval(balanced, why)),
        ("macro F1", test.macro_f1, _interval(f1, why)),
        ("AUROC (mean of one class against the rest)", test.auroc, _interval(test.auroc_interval, why)),
        ("negative log likelihood (nats per image)", test.nll, ""),
        ("Brier score (0 is perfect, 2 the worst)", test.brier, ""),
        ("expected calibration error, after temperature scaling", test.calibration_error, ""),
        ("expected calibration error, before", test.calibration_error_before, ""),
    ]
    return [(words, round(value, 4), ends) for words, value, ends in rows if value is not None]


def _interval(bounds: Interval | None, otherwise: str = "") -> str:
    """The ends of an interval, of which an upper one below 1 is not rounded to 1; or why there is none."""
    if bounds is None:
        return otherwise
    low, high = bounds
    return f"{low:.4f} to {high if high == 1 else min(high, 0.9999):.4f}"


def _positive_rows(found: Positive) -> list[Row]:
    rows: list[tuple[str, float | None, Interval | None]] = [
        ("sensitivity", found.sensitivity, found.sensitivity_interval),
        ("specificity", found.specificity, found.specificity_interval),
        ("auroc", found.auroc, found.auroc_interval),
    ]
    none = "none: too few groups"
    if above := found.at_specificity:
        where = f"at the cutoff from {above.cutoff_from}"
        rows.append((f"sensitivity {where}", above.sensitivity, above.sensitivity_interval))
        rows.append((f"specificity {where}", above.specificity, above.specificity_interval))
    shown: list[Row] = [(words, round(value, 4), _interval(b, none)) for words, value, b in rows if value is not None]
    return [("classes", ", ".join(found.classes), ""), *shown]


def _comparison(card: StudyCard) -> str:
    """Everything scored at the same opening, beside the shipped model."""
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
            )
        )
    if not rows:
        return ""
    head = ("beside it", "accuracy", "95 % interval", "shipped is better by (points)", "95 % interval, paired")
    leaky = card.leaky_score
    note = (
        '<p class="warn">Leaky, for comparison with published numbers only: the same architecture on a random 80/20 '
        f"split reaches {percent(leaky.accuracy)}.</p>"
        if leaky
        else ""
    )
    missing = "".join(
        f'<p class="note">No {html.escape(name)} network beside it: {html.escape(why)}.</p>'
        for name, why in card.not_compared.items()
    )
    return table(head, rows) + missing + note


def _sets(conformal: Conformal | None) -> str:
    """What prediction sets promise and do."""
    rows: list[Row] = []
    for level, sets in (conformal.levels if conformal else {}).items():
        if isinstance(sets, Refused):
            rows.append((percent(float(level)), sets.refused, "", ""))
        else:
            shares = percent(sets.coverage), f"{sets.mean_size:.2f}", percent(sets.abstained)
            rows.append((percent(float(level)), *shares))
    head = ("sets that may miss (of new sources)", "held the true class here", "classes in a set", "not exactly one")
    return table(head, rows) if rows else ""


def _formats(formats: dict[str, Format]) -> str:
    """Each file that runs, beside the network as it was trained."""
    rows: list[Row] = []
    for name, form in formats.items():
        rate = f"{form.speed_cpu[-1].images_per_second:,.0f}" if form.speed_cpu else ""
        rows.append((name, f"{form.max_difference:.1e}", rate))
    return table(("file", "largest difference of a probability", "images/s (CPU)"), rows) if rows else ""


def _classes(card: StudyCard) -> str:
    rows: list[Row] = []
    for name in card.classes:
        row = card.test.of_class(name)
        recall = card.test.recall_intervals.get(name)
        shares = (round(row["precision"], 4), round(row["recall"], 4), _interval(recall), round(row["f1-score"], 4))
        rows.append((name, *shares, int(row["support"])))
    drawn = _figure(figures.confusion(card.test.confusion, card.classes))
    return table(("class", "precision", "recall", "95 % interval", "F1", "images"), rows) + drawn


def _mistakes(mistakes: list[Mistake]) -> str:
    if not mistakes:
        return "<p>None: every held-out image was named rightly.</p>"
    shown = []
    for mistake in mistakes:
        words = html.escape(
            f"{mistake.true}, taken for {mistake.predicted} ({percent(mistake.probability)}): {mistake.path}"
        )
        shown.append(f'<li><img src="{picture(mistake.image, "PNG")}" alt="{words}"><br>{words}</li>')
    return f'<p class="note">The surest first, as the model saw them.</p><ul class="mistakes">{"".join(shown)}</ul>'


def _model(card: StudyCard, config: StudyConfig, found: Found, epochs: list[EpochResult]) -> str:
    final, study = card.final, card.study
    rows: list[Row] = [
        ("trial", study.trial),
        ("selection score", study.selection_score),
        ("parameters of the network", final.num_params),
        ("trained on", f"{final.data}, {final.epochs} epochs from fresh weights"),
        ("temperature", round(card.temperature, 3)),
    ]
    chosen: list[Row] = [(name, _allowed(config.space[name]), value) for name, value in sorted(study.params.items())]
    edge = "".join(
        f"<li>{html.escape(line)}: a wider range might hold a better one.</li>" for line in found.at_the_edge
    )
    return (
        table(("what", "value"), rows)
        + table(("parameter", "searched", "chosen"), chosen)
        + (f"<ul>{edge}</ul>" if edge else '<p class="note">No value lies at the end of its range.</p>')
        + _formats(card.formats)
        + _figure(figures.training_curves(epochs))
    )


def _allowed(entry: Entry) -> str:
    if isinstance(entry, Range):
        return f"{entry.low:g} to {entry.high:g}{', by factors' if entry.log else ''}"
    return ", ".join(map(str, entry)) if isinstance(entry, list) else str(entry)


def _search(
    trials: list[FrozenTrial], config: StudyConfig, card: StudyCard, found: Found, times: dict[str, float | int]
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
    parts = ["".join(f"<p>{sentence}</p>" for sentence in sentences)]
    if found.stages:
        rows: list[Row] = [
            (name, round(wanted), "this page is part of it" if spent is None else round(spent))
            for name, (wanted, spent) in found.stages.items()
        ]
        parts.append(table(("stage", "seconds planned", "seconds taken"), rows))
    parts.append(_figure(figures.history(trials)))
    if found.rungs:
        shares: list[Row] = [(*row, percent(row[3] / row[2]) if row[2] else "") for row in found.rungs]
        parts.append(table(("bracket", "rung (epochs)", "judged", "went on", "share"), shares))
        parts.append(_figure(figures.rung_survival(found.rungs)))
    parts.append(_figure(figures.learning_curves(trials, config.metric)))
    if found.importance:
        parts.append(_figure(figures.importance(found.importance)))
    else:
        parts.append('<p class="note">Too few complete trials to say which parameters mattered.</p>')
    for attribute, label in ((NUM_PARAMS, "parameters of the network"), (SECONDS, "seconds of training")):
        parts.append(_figure(figures.cost_against_score(trials, attribute, label)))
    return "".join(parts) + _front(found.front, card)


def _front(front: list[Point], card: StudyCard) -> str:
    """Score against milliseconds, with the command that makes a model of each point."""
    name = shlex.quote(card.study.name)
    rows: list[Row] = [
        (
            one.trial,
            percent(one.score),
            one.milliseconds,
            one.gflops,
            "this model" if one.trial == card.study.trial else f"study retrain {quote(name)} --trial {one.trial}",
        )
        for one in front
    ]
    if not rows:
        return ""
    head = ("trial", "selection score", "milliseconds", "GFLOP", "a model of it")
    return (
        "<p>None is better and cheaper than these; milliseconds are those of one image on the processor that wrote "
        f"this page.</p>{table(head, rows)}"
    )


def _trials(trials: list[FrozenTrial]) -> str:
    trials = sorted(trials, key=lambda trial: (trial.state != TrialState.COMPLETE, -(trial.value or 0)))
    rows: list[Row] = [
        (
            trial.number,
            "baseline" if trial.user_attrs.get(BASELINE) else trial.state.name.lower(),
            round(trial.value, 4) if trial.value is not None else "",
            trial.last_step or 0,
            round(number(trial.user_attrs, SECONDS) or 0.0, 1),
            ", ".join(f"{key} {_short(value)}" for key, value in trial.params.items()),
        )
        for trial in trials
    ]
    head = ("trial", "state", "selection score", "epochs", "seconds", "parameters")
    rest = f"<details><summary>{len(rows) - SHOWN} more</summary>{table(head, rows[SHOWN:])}</details>"
    return table(head, rows[:SHOWN]) + (rest if len(rows) > SHOWN else "")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _data(data: Data) -> str:
    rows: list[Row] = [
        ("source", data.source),
        ("images", data.images),
        ("groups", f"{data.groups} ({data.groups_from})"),
        ("parts", ", ".join(f"{part} {count}" for part, count in data.parts.items())),
        ("left out as unreadable", len(data.skipped)),
        ("hash of the images", data.content),
        ("hash of the parts", data.parts_hash),
    ]
    command = f"study data audit {shlex.quote(data.source)} --html audit.html"
    return (
        table(("what", "value"), rows) + f"<p>Copies, leaks and doubtful labels:</p><pre>{html.escape(command)}</pre>"
    )


def _again(card: StudyCard, times: dict[str, float | int]) -> str:
    name = shlex.quote(card.study.name)
    commands = f"study run study.toml --name {quote(name)}\nstudy resume {quote(name)} --trials MORE"
    rows: list[Row] = [(key, value) for key, value in card.versions.items()]
    rows.append(("hash of the weights", card.weights_sha256))
    return (
        "<p><code>study.toml</code> lies beside this page. With the same name (it decides the brackets), one worker, "
        "the same versions, processor and number of threads, and an empty database the weights are the same to the "
        "last bit.</p>"
        f"<pre>{html.escape(commands)}</pre>"
        + table(("version", ""), rows)
        + table(("time", "value"), [(key.replace("_", " "), value) for key, value in times.items()])
    )
