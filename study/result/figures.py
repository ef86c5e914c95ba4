"""Plotly figures of a study and of its final model: values in, figures out."""

from collections.abc import Sequence

import plotly.graph_objects as go
import plotly.io
from optuna.trial import FrozenTrial, TrialState

from models.scores.calibration import Bin
from models.training.loop import EpochResult
from study.attributes import BRACKET, number

# Colours that people with any kind of colour vision can tell apart (Okabe and Ito 2008), and that differ in lightness
# in a grey print; grey stands in place of their black, which would vanish on a dark page.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")

plotly.io.templates["study"] = go.layout.Template(
    layout={
        "colorway": COLOURS,
        "font": {"family": "system-ui, sans-serif", "size": 14},
        "margin": {"t": 60},
        "title": {"yref": "container", "y": 0.97, "yanchor": "top"},
        "yaxis": {"automargin": True},
        "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0.0},
    }
)
plotly.io.templates.default = "plotly_white+study"

SHARES = ".1~%"
"""Format of the labels on an axis of shares: 97.5%."""

Rungs = list[tuple[int, int, int, int]]
"""Rows of (bracket, epochs, entered, promoted), one for each rung."""


def selection_name(metric: str) -> str:
    """Return the name of the score that guides the search, as it is written wherever the score is shown."""
    return f"selection score (validation {metric.replace('_', ' ')})"


def _in_two_lines(name: str) -> str:
    """Break a name into two lines, which fit beside an upright axis."""
    return name.replace(" (", "<br>(", 1)


def learning_curves(trials: list[FrozenTrial], metric: str) -> go.Figure:
    """Draw the selection score by epoch, one line for each trial; pruned trials end early and are pale."""
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
                line_color=COLOURS[int(number(trial.user_attrs, BRACKET) or 0) % len(COLOURS)],
                opacity=0.35 if pruned else 1.0,
                showlegend=False,
            )
    figure.update_layout(
        title="Learning curves by bracket",
        xaxis_title="epochs completed",
        yaxis={"title": _in_two_lines(selection_name(metric)), "tickformat": SHARES},
        hovermode="closest",
    )
    return figure


def history(trials: list[FrozenTrial], metric: str) -> go.Figure:
    """Draw the selection score by trial number, and the best complete trial so far."""
    scored = [trial for trial in trials if trial.value is not None]
    best: list[float] = []
    for trial in scored:
        full = trial.value or 0.0 if trial.state == TrialState.COMPLETE else 0.0
        best.append(max([full, *best[-1:]]))
    figure = go.Figure()
    for state, symbol in (("COMPLETE", "circle"), ("PRUNED", "x")):
        some = [trial for trial in scored if trial.state.name == state]
        figure.add_scatter(
            x=[trial.number for trial in some],
            y=[trial.value for trial in some],
            name=state.lower(),
            mode="markers",
            marker={"symbol": symbol, "size": 9},
        )
    figure.add_scatter(
        x=[trial.number for trial in scored],
        y=[value or None for value in best],
        name="best complete so far",
        line_shape="hv",
    )
    figure.update_layout(
        title="Trials in turn",
        xaxis_title="trial",
        yaxis={"title": _in_two_lines(selection_name(metric)), "tickformat": SHARES},
    )
    return figure


def best_by_time(so_far: list[tuple[float, float]], metric: str) -> go.Figure:
    """Draw the best selection score against the seconds of training that the search had taken by then."""
    figure = go.Figure()
    figure.add_scatter(
        x=[seconds for seconds, _ in so_far],
        y=[score for _, score in so_far],
        mode="lines+markers",
        line_shape="hv",
        showlegend=False,
    )
    figure.update_layout(
        title="Best complete trial by time",
        xaxis_title="seconds of training in the search",
        yaxis={"title": _in_two_lines(selection_name(metric)), "tickformat": SHARES},
    )
    return figure


def rung_survival(rungs: Rungs) -> go.Figure:
    """Draw how many trials reached each rung, and how many went on."""
    figure = go.Figure()
    names = [f"bracket {bracket}: epoch {epochs}" for bracket, epochs, _, _ in rungs]
    figure.add_bar(x=names, y=[entered for _, _, entered, _ in rungs], name="judged there")
    figure.add_bar(x=names, y=[promoted for _, _, _, promoted in rungs], name="went on")
    figure.update_layout(title="What pruning kept", barmode="group", yaxis_title="trials")
    return figure


def cost_against_score(trials: list[FrozenTrial], attribute: str, label: str, metric: str) -> go.Figure:
    """Draw the selection score of complete trials against what they cost, with the Pareto front."""
    points = sorted(
        (cost, -(trial.value or 0.0), trial.number)
        for trial in trials
        if trial.state == TrialState.COMPLETE and (cost := number(trial.user_attrs, attribute)) is not None
    )
    front: list[tuple[float, float]] = []
    for cost, negative, _ in points:
        if not front or -negative > front[-1][1]:
            front.append((cost, -negative))
    figure = go.Figure()
    figure.add_scatter(
        x=[cost for cost, _, _ in points],
        y=[-negative for _, negative, _ in points],
        text=[f"trial {number}" for _, _, number in points],
        mode="markers",
        name="complete trials",
        marker_size=9,
    )
    figure.add_scatter(
        x=[cost for cost, _ in front], y=[score for _, score in front], mode="lines", name="Pareto front"
    )
    figure.update_layout(
        title=f"Score against {label}",
        xaxis={"title": label, "type": "log"},
        yaxis={"title": _in_two_lines(selection_name(metric)), "tickformat": SHARES},
    )
    return figure


def importance(shares: dict[str, float]) -> go.Figure:
    """Draw how much the score depended on each parameter, the largest share on top."""
    ordered = sorted(shares.items(), key=lambda pair: pair[1])
    figure = go.Figure(go.Bar(x=[share for _, share in ordered], y=[name for name, _ in ordered], orientation="h"))
    figure.update_layout(
        title="What the score depended on",
        xaxis={"title": "share (PED-ANOVA)", "tickformat": SHARES},
        height=180 + 26 * len(ordered),
        yaxis={"automargin": True},
    )
    return figure


def training_curves(epochs: list[EpochResult]) -> go.Figure:
    """Draw loss and accuracy of the final training by epoch."""
    steps = [result.epoch for result in epochs]
    figure = go.Figure()
    for key, axis, name in (
        ("train_loss", "y2", "training loss"),
        ("val_loss", "y2", "validation loss"),
        ("train_accuracy", "y", "training accuracy"),
        ("val_accuracy", "y", "validation accuracy"),
    ):
        values = [getattr(result, key) for result in epochs]
        if values[0] is not None:
            dash = "dot" if axis == "y2" else "solid"
            figure.add_scatter(x=steps, y=values, name=name, yaxis=axis, line_dash=dash)
    figure.update_layout(
        title="Final training",
        xaxis_title="epochs completed",
        yaxis={"title": "accuracy", "tickformat": SHARES},
        yaxis2={"title": "loss (nats)", "overlaying": "y", "side": "right", "showgrid": False, "rangemode": "tozero"},
    )
    return figure


def confusion(counts: list[list[int]], classes: Sequence[str]) -> go.Figure:
    """Draw the confusion matrix of the held-out part as counts, coloured by share of the true class."""
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    # Class names can be numbers (digits); plotly would draw those on a numeric axis.
    figure = go.Figure(
        go.Heatmap(
            z=shares, x=classes, y=classes, text=counts, texttemplate="%{text}", colorscale="Blues", zmin=0, zmax=1
        )
    )
    figure.update_layout(
        title="Confusion matrix",
        xaxis={"title": "predicted", "type": "category"},
        yaxis={"title": "true", "type": "category", "autorange": "reversed"},
        height=160 + 60 * len(classes),
    )
    return figure


def reliability(bins: list[Bin]) -> go.Figure:
    """Draw accuracy against confidence; the probabilities of a calibrated model lie on the diagonal."""
    figure = go.Figure()
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "#888"}, name="perfect")
    figure.add_scatter(
        x=[one.confidence for one in bins],
        y=[one.accuracy for one in bins],
        text=[f"{one.images:.0f} images" for one in bins],
        mode="lines+markers",
        name="this model",
    )
    figure.update_layout(
        title="Calibration",
        xaxis={"title": "probability it gives", "range": [0, 1.02], "tickformat": SHARES},
        yaxis={"title": "share that is right", "range": [0, 1.02], "tickformat": SHARES},
    )
    return figure


def risk_coverage(points: list[tuple[float, float]]) -> go.Figure:
    """Draw the error among the images that remain when the least certain ones are left to a person."""
    figure = go.Figure(go.Scatter(x=[kept for kept, _ in points], y=[error for _, error in points], mode="lines"))
    figure.update_layout(
        title="Leaving doubtful images to a person",
        xaxis={"title": "share of images the model decides", "tickformat": SHARES},
        yaxis={"title": "error among those", "rangemode": "tozero", "tickformat": SHARES},
    )
    return figure
