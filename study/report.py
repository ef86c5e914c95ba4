"""Trials and scores as tables, figures and one offline HTML page."""

import csv
import html
import io
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
import plotly.io
from optuna.trial import FrozenTrial, TrialState

from models.bundle import write_json
from study.config import StudyConfig
from study.contract import own_trials
from study.space import full_point, numbers

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .8rem; text-align: left }
th { border-bottom: 1px solid #888 } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.score { font-size: 1.6rem; font-weight: 600 } .note { color: #666 } .warn { color: #a40 }
"""

Row = tuple[object, ...]

LEAKY = (
    "LEAKY: the published random 80/20 split. Copies of one source lie on both sides, and the same images chose the "
    "architecture: compare this number with published ones, believe neither."
)
"""Stands wherever a number of the random protocol is shown."""


def write_report(
    directory: Path, study: optuna.Study, config: StudyConfig, card: dict[str, Any], epochs: list[dict[str, Any]]
) -> None:
    """Write the report's files beside the model: one page, and each table as a file of its own."""
    trials = own_trials(study)
    times = times_table(trials, card)
    write_json(directory / "results.json", results(trials, config))
    write_json(directory / "times.json", times)
    warning = f"{LEAKY}\n\n" if card["leaky"] else ""
    (directory / "classification_report.txt").write_text(warning + report_text(card["test"]["report"]))
    (directory / "confusion_matrix.csv").write_text(confusion_csv(card["test"]["confusion"], card["classes"]))
    (directory / "report.html").write_text(page(trials, config, card, epochs, times), encoding="utf-8")


def results(trials: list[FrozenTrial], config: StudyConfig) -> list[dict[str, Any]]:
    """All finished trials, best first, with the reference's fields (val_accuracy in percent) and ours."""
    rows = []
    for trial in trials:
        if trial.value is None:
            continue
        point = full_point(config.space, trial.params)
        attributes = trial.user_attrs
        rows.append(
            {
                "config": point | {name: list(numbers(point[name])) for name in ("kernel_sizes", "dense_units")},
                "val_accuracy": 100 * trial.value,
                "total_time": attributes.get("seconds"),
                "avg_epoch_time": attributes.get("epoch_seconds"),
                "trial": trial.number,
                "state": trial.state.name,
                "epochs": trial.last_step,
                "selection_score": trial.value,
                "leaky": config.protocol == "random",
                "pruned_because": attributes.get("pruned_because"),
            }
        )
    return sorted(rows, key=lambda row: (row["state"] != "COMPLETE", -row["selection_score"]))


def times_table(trials: list[FrozenTrial], card: dict[str, Any]) -> dict[str, float | int]:
    """Where the time went, in seconds; pauses between runs do not count."""
    epochs = sum(len(trial.intermediate_values) for trial in trials)
    search = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials)
    final_epochs = card["final"]["epochs"] * len(card["test_accuracy_of_seeds"])
    config = card["study"]["config"]
    return {
        "search_seconds": round(search, 2),
        "search_epochs": epochs,
        "search_epochs_without_pruning": len(trials) * config["epochs"],
        "search_seconds_per_epoch": round(search / max(1, epochs), 3),
        "final_seconds": round(card["final"]["seconds"], 2),
        "final_epochs": final_epochs,
        "final_seconds_per_epoch": round(card["final"]["seconds"] / final_epochs, 3),
        "total_seconds": round(search + card["final"]["seconds"], 2),
    }


def report_text(report: dict[str, Any]) -> str:
    """The classification report as aligned text."""
    width = max(len(name) for name in report)
    lines = [f"{'':{width}}  precision  recall  f1-score  support"]
    for name, row in report.items():
        if isinstance(row, dict):
            lines.append(
                f"{name:{width}}  {row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1-score']:8.4f}"
                f"  {int(row['support']):7d}"
            )
        else:  # scikit-learn gives accuracy as a bare number
            lines.append(f"{name:{width}}  {row:27.4f}")
    return "\n".join(lines) + "\n"


def confusion_csv(confusion: list[list[int]], classes: list[str]) -> str:
    """Rows are true classes, columns predicted ones."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, confusion, strict=True))
    return text.getvalue()


def learning_curves(trials: list[FrozenTrial], metric: str) -> go.Figure:
    """Selection score by epoch, one line a trial; pruned trials end early and are pale."""
    figure = go.Figure()
    for trial in trials:
        if trial.intermediate_values:
            steps = sorted(trial.intermediate_values)
            pruned = trial.state != TrialState.COMPLETE
            figure.add_scatter(
                x=steps,
                y=[trial.intermediate_values[step] for step in steps],
                name=f"trial {trial.number}{' (pruned)' if pruned else ''}",
                mode="lines+markers",
                opacity=0.35 if pruned else 1.0,
            )
    figure.update_layout(
        title="Search: validation by epoch", xaxis_title="epochs completed", yaxis_title=f"validation {metric}"
    )
    return figure


def training_curves(epochs: list[dict[str, Any]]) -> go.Figure:
    """Loss and accuracy of the final training by epoch."""
    steps = [epoch["epoch"] for epoch in epochs]
    figure = go.Figure()
    for key, axis, name in (
        ("train_loss", "y2", "training loss"),
        ("val_loss", "y2", "validation loss"),
        ("train_accuracy", "y", "training accuracy"),
        ("val_accuracy", "y", "validation accuracy"),
    ):
        if epochs[0][key] is not None:
            dash = "dot" if axis == "y2" else "solid"
            figure.add_scatter(x=steps, y=[epoch[key] for epoch in epochs], name=name, yaxis=axis, line_dash=dash)
    figure.update_layout(
        title="Final training (augmented images, dropout on)",
        xaxis_title="epochs completed",
        yaxis_title="accuracy",
        yaxis2={"title": "loss (nats)", "overlaying": "y", "side": "right", "showgrid": False, "rangemode": "tozero"},
        legend={"orientation": "h", "y": -0.2},
    )
    return figure


def confusion_figure(confusion: list[list[int]], classes: list[str]) -> go.Figure:
    """Counts on the test part, coloured by share of the true class."""
    shares = [[count / max(1, sum(row)) for count in row] for row in confusion]
    # Class names can be numbers (digits); plotly would draw those on a numeric axis.
    figure = go.Figure(
        go.Heatmap(
            z=shares, x=classes, y=classes, text=confusion, texttemplate="%{text}", colorscale="Blues", zmin=0, zmax=1
        )
    )
    figure.update_layout(
        title="Confusion matrix on the test part",
        xaxis={"title": "predicted", "type": "category"},
        yaxis={"title": "true", "type": "category", "autorange": "reversed"},
        height=160 + 60 * len(classes),
    )
    return figure


def score_name(card: dict[str, Any]) -> str:
    """What the final score is called."""
    return "leaky accuracy" if card["leaky"] else "test accuracy"


def percent(share: float) -> str:
    """0.97531 -> "97.5 %"."""
    return f"{100 * share:.1f} %"


def page(
    trials: list[FrozenTrial],
    config: StudyConfig,
    card: dict[str, Any],
    epochs: list[dict[str, Any]],
    times: dict[str, float | int],
) -> str:
    """The report as one HTML page that needs no network (plotly's script is inside)."""
    test, data, name = card["test"], card["data"], card["study"]["name"]
    low, high = test["accuracy_interval"]
    figures = [
        confusion_figure(test["confusion"], card["classes"]),
        training_curves(epochs),
        learning_curves(trials, config.metric),
    ]
    drawn = [
        plotly.io.to_html(figure, full_html=False, include_plotlyjs=number == 0)
        for number, figure in enumerate(figures)
    ]
    opening = card["test_openings"]
    warnings = [
        *([LEAKY] if card["leaky"] else []),
        *(["The images are synthetic: no score here says anything about tissue."] if card["synthetic_data"] else []),
        *([f"The test part was opened {opening} times in this study; the score is optimistic."] if opening > 1 else []),
    ]
    seeds = card["test_accuracy_of_seeds"]
    spread = f"; all {len(seeds)} seeds: {', '.join(percent(seed) for seed in seeds)}" if len(seeds) > 1 else ""
    parts = ", ".join(f"{part} {count}" for part, count in data["parts"].items())
    body = [
        f"<h1>{html.escape(name)}</h1>",
        f'<p class="score">{score_name(card).capitalize()} {percent(test["accuracy"])}</p>',
        f"<p>95 % interval {percent(low)} to {percent(high)} (resampling {test['groups']} groups, {test['images']} "
        f"images){spread}. Always naming the most frequent class gives {percent(test['majority'])}. "
        f"Balanced accuracy {percent(test['balanced_accuracy'])}, macro F1 {test['macro_f1']:.3f}.</p>",
        *(f'<p class="warn">{html.escape(warning)}</p>' for warning in warnings),
        f'<p class="note">{data["images"]} images of {data["groups"]} groups ({html.escape(data["groups_from"])}); '
        f"parts: {parts}. {card['notice']}</p>",
        "<h2>Per class (test)</h2>",
        table(("class", "precision", "recall", "F1", "images"), _class_rows(test["report"], card["classes"])),
        drawn[0],
        "<h2>The shipped model</h2>",
        table(("parameter", "value"), [*sorted(card["study"]["params"].items()), *_model_rows(card)]),
        drawn[1],
        "<h2>The search</h2>",
        '<p class="note">Selection scores come from the validation part, which chose the winner: the best of many '
        "is not a performance.</p>",
        table(("trial", "state", "selection score", "epochs", "seconds", "parameters"), _trial_rows(trials)),
        drawn[2],
        "<h2>Times</h2>",
        table(("what", "value"), [(key.replace("_", " "), value) for key, value in times.items()]),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(name)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _class_rows(report: dict[str, Any], classes: list[str]) -> list[Row]:
    return [
        (
            name,
            *(round(report[name][key], 4) for key in ("precision", "recall", "f1-score")),
            int(report[name]["support"]),
        )
        for name in classes
    ]


def _model_rows(card: dict[str, Any]) -> list[Row]:
    final = card["final"]
    return [
        ("trial", card["study"]["trial"]),
        ("selection score", card["study"]["selection_score"]),
        ("parameters of the network", final["num_params"]),
        ("trained on", f"{final['data']}, {final['epochs']} epochs from fresh weights"),
        ("temperature", round(card["temperature"], 3)),
    ]


def _trial_rows(trials: list[FrozenTrial]) -> list[Row]:
    trials = sorted(trials, key=lambda trial: (trial.state != TrialState.COMPLETE, -(trial.value or 0)))
    return [
        (
            trial.number,
            "baseline" if trial.user_attrs.get("baseline") else trial.state.name.lower(),
            round(trial.value, 4) if trial.value is not None else "",
            trial.last_step or 0,
            round(trial.user_attrs.get("seconds", 0), 1),
            ", ".join(f"{key} {_short(value)}" for key, value in trial.params.items()),
        )
        for trial in trials
    ]


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(head: tuple[str, ...], rows: list[Row]) -> str:
    """An HTML table; numbers are set to the right."""

    def cell(tag: str, value: object) -> str:
        number = ' class="number"' if isinstance(value, int | float) and not isinstance(value, bool) else ""
        return f"<{tag}{number}>{html.escape(f'{value:.5g}' if isinstance(value, float) else str(value))}</{tag}>"

    top = "".join(cell("th", name) for name in head)
    lines = "".join(f"<tr>{''.join(cell('td', value) for value in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{lines}</table>"
