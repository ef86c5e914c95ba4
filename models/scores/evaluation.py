"""All scores of a trained network, with their uncertainty.

SciPy and scikit-learn take seconds to import and are needed only once, at the end, so they are imported where they are
used.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic reads typing.TypedDict only from Python 3.12 on

from models.memory import is_out_of_memory
from models.precision import full_precision
from models.scores.calibration import Bin, brier, calibration_error, losses, risk_coverage, softmax
from models.scores.intervals import (
    ENOUGH,
    Interval,
    accuracy_interval,
    auroc_interval,
    balanced_difference_interval,
    balanced_interval,
    difference_interval,
    f1_interval,
    fewest_groups,
    group_labels,
    group_sums,
)
from models.scores.transforms import apply_view
from models.scores.views import AS_IT_IS, View

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SPECIFICITY = 0.95
"""Specificity at which the sensitivity is reported too."""


ClassScores = TypedDict("ClassScores", {"precision": float, "recall": float, "f1-score": float, "support": float})
"""Scores of one class, with scikit-learn's names."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Sensitivity and specificity of the positive classes against the others, with 95 % intervals over groups.

    A rate is None if there are no images to measure it on.
    """

    sensitivity: float | None
    sensitivity_interval: Interval | None
    specificity: float | None
    specificity_interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class RatesAtCutoff(Rates):
    """Sensitivity and specificity if an image counts as positive above a cutoff of the probability."""

    wanted: float  # the specificity that the cutoff was chosen for
    cutoff: float
    cutoff_from: str  # the part that the cutoff was chosen on


@dataclass(frozen=True, kw_only=True)
class PositiveScores(Rates):
    """Scores of the positive classes, those that are a finding, against the others."""

    classes: list[str]
    auroc: float | None
    auroc_interval: Interval | None
    at_specificity: RatesAtCutoff | None


@dataclass(frozen=True, kw_only=True)
class GroupScores:
    """Scores of predicted probabilities with one vote per group. Fractions, not percent; 95 % intervals over groups.

    The interval of a mean over classes is None if a class has too few groups.
    """

    groups: int
    accuracy: float
    accuracy_interval: Interval
    balanced_accuracy: float
    balanced_accuracy_interval: Interval | None
    macro_f1: float  # mean over the classes that occur
    macro_f1_interval: Interval | None
    auroc: float | None  # mean over classes of one against the rest; None if a class is missing
    auroc_interval: Interval | None
    nll: float  # negative log likelihood, nats per vote, after temperature
    brier: float  # after temperature, summed over classes: 0 to 2
    calibration_error: float  # expected calibration error, 15 bins, after temperature
    risk_coverage: list[tuple[float, float]]  # (share of votes kept, error among them)
    majority: float  # accuracy of always naming the most frequent class
    report: dict[str, float | ClassScores]  # scores of each class; earlier versions put averages among them
    confusion: list[list[int]]  # rows: true class; columns: predicted class
    positive: PositiveScores | None  # None if no class is named positive
    averages: dict[str, ClassScores] = field(default_factory=dict)  # averages over the classes
    recall_intervals: dict[str, Interval] = field(default_factory=dict)  # for each class that occurs
    no_interval: str = ""  # why means over classes have no interval; empty if they have one

    def of_class(self, name: str) -> ClassScores:
        """Return the scores of one class from the report."""
        row = self.report[name]
        assert not isinstance(row, float)
        return row


@dataclass(frozen=True, kw_only=True)
class Scores(GroupScores):
    """Scores of predicted probabilities with one vote per image."""

    images: int
    nll_before: float  # before temperature
    calibration_error_before: float


@dataclass(frozen=True, kw_only=True)
class HeldOutScores(Scores):
    """Scores on the held-out part of a study."""

    by_group: GroupScores
    reliability: list[Bin]
    mixed_groups: int = 0  # number of groups with images of several classes; in by_group the most frequent one counts


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Scores of another model on the same images, and the paired difference (shipped model minus the other one).

    Intervals are over groups.
    """

    name: str
    trial: int | None
    leaky: bool
    accuracy: float
    accuracy_interval: Interval
    balanced_accuracy: float
    difference: float
    difference_interval: Interval
    balanced_difference_interval: Interval | None = None  # None if a class has too few groups


def predict_logits(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], views: tuple[View, ...] = AS_IT_IS
) -> Floats:
    """Compute logits [N, K] in float32 (no autocast, no TF32), in the order of the batches; [V, N, K] for V views."""
    model.eval()
    with torch.inference_mode(), full_precision(next(model.parameters()).device):
        # One view after another, since all at once would need V times the memory that training was fitted to.
        parts = []
        at_once = 2**31
        for images, _ in batches:
            part, at_once = _as_many_as_fit(model, images, views, at_once)
            parts.append(part)
    logits = torch.cat(parts, dim=1)
    return (logits[0] if views == AS_IT_IS else logits).numpy()


def _as_many_as_fit(model: nn.Module, images: Tensor, views: tuple[View, ...], at_once: int) -> tuple[Tensor, int]:
    """Return logits [V, N, K] of images, and how many of them fitted into memory at once, `at_once` at most."""
    while True:
        try:
            some = [
                torch.stack([model(apply_view(part, view)).cpu().double() for view in views])
                for part in torch.split(images, min(at_once, len(images)))
            ]
            return torch.cat(some, dim=1), at_once
        except RuntimeError as error:
            if at_once == 1 or not is_out_of_memory(error):
                raise
        at_once = (min(at_once, len(images)) + 1) // 2  # outside the `except`: the exception keeps tensors alive
        if images.is_cuda:
            torch.cuda.empty_cache()


def score(
    logits: Floats,
    labels: Ints,
    groups: Ints,
    classes: Sequence[str],
    temperature: float,
    positive: Sequence[str] = (),
    cutoff: float | None = None,
) -> Scores:
    """Compute all scores of logits [N, K] or [V, N, K] (see softmax) against labels [N]; intervals are over groups [N].

    For `positive` and `cutoff` see against_rest.
    """
    from sklearn import metrics

    before, probabilities = softmax(logits), softmax(logits, temperature)
    predicted = probabilities.argmax(axis=1)
    every = list(range(len(classes)))
    columns = metrics.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    rows = [_class_scores(*row) for row in zip(*columns, strict=True)]  # by position, since a class may have any name
    right, there = predicted == labels, np.unique(labels)
    auroc, auroc_range = _auroc(probabilities, np.eye(len(classes), dtype=bool)[labels], labels, groups)
    return Scores(
        images=len(labels),
        groups=len(np.unique(groups)),
        accuracy=float(right.mean()),
        accuracy_interval=accuracy_interval(right, labels, groups),
        balanced_accuracy=mean_recall(predicted, labels),
        balanced_accuracy_interval=balanced_interval(right, labels, groups),
        macro_f1=float(metrics.f1_score(labels, predicted, labels=there, average="macro", zero_division=0)),
        macro_f1_interval=f1_interval(predicted, labels, groups),
        auroc=auroc,
        auroc_interval=auroc_range,
        nll=float(losses(logits, labels, temperature).mean()),  # not of probabilities, whose logarithm has an end
        nll_before=float(losses(logits, labels, 1.0).mean()),
        brier=brier(probabilities, labels),
        calibration_error=calibration_error(probabilities, labels),
        calibration_error_before=calibration_error(before, labels),
        risk_coverage=risk_coverage(probabilities, labels),
        majority=float(np.bincount(labels).max() / len(labels)),
        report=dict(zip(classes, rows, strict=True)),
        averages=_averages(rows),
        recall_intervals={classes[one]: _share(right, labels == one, groups)[1] for one in there},
        no_interval=_too_few(labels, groups, classes),
        confusion=metrics.confusion_matrix(labels, predicted, labels=every).tolist(),
        positive=against_rest(probabilities, labels, groups, classes, positive, cutoff) if positive else None,
    )


def _class_scores(precision: float, recall: float, f1: float, support: float) -> ClassScores:
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1-score": float(f1),
        "support": float(support),
    }


def _share(right: NDArray[np.bool_], mine: NDArray[np.bool_], groups: Ints) -> tuple[float, Interval]:
    """Return the share of right images among those where `mine` is true (both [N]), with its interval."""
    same = np.zeros(int(mine.sum()), np.int64)
    return float(right[mine].mean()), accuracy_interval(right[mine], same, groups[mine])


def _too_few(labels: Ints, groups: Ints, classes: Sequence[str]) -> str:
    """Return why means over classes have no interval; an empty string if they have one."""
    label, count = fewest_groups(labels, groups)
    return "" if count >= ENOUGH else f"{classes[label]} has {count} of the {ENOUGH} groups that are needed"


def _averages(rows: Sequence[ClassScores]) -> dict[str, ClassScores]:
    """Return averages over the classes that occur: with equal weights, and weighted by their number of images."""
    table = np.array([list(row.values()) for row in rows if row["support"]])
    support = table[:, 3]
    means = {"macro avg": table[:, :3].mean(axis=0), "weighted avg": np.average(table[:, :3], axis=0, weights=support)}
    return {name: _class_scores(mean[0], mean[1], mean[2], support.sum()) for name, mean in means.items()}


def _auroc(
    scores: Floats, truth: NDArray[np.bool_], labels: Ints, groups: Ints
) -> tuple[float | None, Interval | None]:
    """Return the mean area under the ROC curves of scores [N, C] against truth [N, C], with its interval.

    Both are None if a column of `truth` has only one outcome, which leaves the area undefined.
    """
    from sklearn.metrics import roc_auc_score

    if (truth.all(axis=0) | ~truth.any(axis=0)).any():
        return None, None
    areas = [roc_auc_score(hit, column) for column, hit in zip(scores.T, truth.T, strict=True)]
    return float(np.mean(areas)), auroc_interval(scores, truth, labels, groups)


def mean_recall(predicted: Ints, labels: Ints) -> float:
    """Return the balanced accuracy: the mean recall over the classes that occur."""
    return float(np.mean([(predicted[labels == label] == label).mean() for label in np.unique(labels)]))


def against_rest(
    probabilities: Floats,
    labels: Ints,
    groups: Ints,
    classes: Sequence[str],
    positive: Sequence[str],
    cutoff: float | None,
) -> PositiveScores:
    """Score the positive classes against the others: AUROC, and sensitivity and specificity of the predicted label.

    With a cutoff (see cutoff_at), also sensitivity and specificity if an image counts as positive above it.
    """
    names = np.isin(np.array(classes), list(positive))
    truth, mass = names[labels], probabilities[:, names].sum(axis=1)
    auroc, interval = _auroc(mass[:, None], truth[:, None], truth.astype(np.int64), groups)
    at_cutoff = None
    if cutoff is not None:
        above = _rates(mass > cutoff, truth, groups)
        at_cutoff = RatesAtCutoff(wanted=SPECIFICITY, cutoff=cutoff, cutoff_from="cal", **vars(above))
    return PositiveScores(
        classes=list(positive),
        auroc=auroc,
        auroc_interval=interval,
        at_specificity=at_cutoff,
        **vars(_rates(names[probabilities.argmax(axis=1)], truth, groups)),
    )


def _rates(called: NDArray[np.bool_], truth: NDArray[np.bool_], groups: Ints) -> Rates:
    """Return sensitivity and specificity, given which images are called positive and which are: both [N]."""

    def share(mine: NDArray[np.bool_], right: NDArray[np.bool_]) -> tuple[float, Interval] | tuple[None, None]:
        return _share(right, mine, groups) if mine.any() else (None, None)

    sensitivity, specificity = share(truth, called), share(~truth, ~called)
    return Rates(
        sensitivity=sensitivity[0],
        sensitivity_interval=sensitivity[1],
        specificity=specificity[0],
        specificity_interval=specificity[1],
    )


def cutoff_at(probabilities: Floats, labels: Ints, classes: Sequence[str], positive: Sequence[str]) -> float | None:
    """Return the smallest probability of being positive that at least 95 % of the negative images do not exceed.

    It must be computed on the calibration part, never on the part that is scored. None if there are no negative images.
    """
    names = np.isin(np.array(classes), list(positive))
    negatives = np.sort(probabilities[~names[labels]][:, names].sum(axis=1))
    return float(negatives[int(np.ceil(SPECIFICITY * len(negatives))) - 1]) if len(negatives) else None


def by_group(logits: Floats, labels: Ints, groups: Ints, temperature: float) -> tuple[Floats, Ints, Ints]:
    """Return (logits, labels, group numbers) with one row per group, as if each group were an image.

    The logits of a group are the logarithm of its images' mean probabilities; its label is their most frequent one.
    """
    sums = group_sums(softmax(logits, temperature), groups)
    mean = sums / sums.sum(axis=1, keepdims=True)
    return np.log(np.maximum(mean, 1e-300)), group_labels(labels, groups), np.arange(len(mean))


def compare(
    shipped: Ints, other: Ints, labels: Ints, groups: Ints, *, name: str, trial: int | None, leaky: bool
) -> Comparison:
    """Compare the predicted labels [N] of another model with those of the shipped one."""
    one, two = shipped == labels, other == labels
    return Comparison(
        name=name,
        trial=trial,
        leaky=leaky,
        accuracy=float(two.mean()),
        accuracy_interval=accuracy_interval(two, labels, groups),
        balanced_accuracy=mean_recall(other, labels),
        difference=float(one.mean() - two.mean()),
        difference_interval=difference_interval(one, two, labels, groups),
        balanced_difference_interval=balanced_difference_interval(one, two, labels, groups),
    )


def without_images(votes: Scores) -> GroupScores:
    """Convert scores whose rows are groups (see by_group) to GroupScores, without the fields about images."""
    return GroupScores(**{one.name: getattr(votes, one.name) for one in fields(GroupScores)})
