"""Scores against scikit-learn and by hand; intervals and sets that keep their promise for images of new sources."""

import tracemalloc

import numpy as np
import pytest
from sklearn import metrics

from models import ModelError
from models.scores import intervals
from models.scores.calibration import calibration_error, fit_temperature, reliability, risk_coverage, softmax
from models.scores.conformal import Refused, Sets, abstains, describe, prediction_sets, threshold
from models.scores.evaluation import by_group, compare, cutoff_at, score
from models.scores.intervals import accuracy_interval, class_intervals, wilson


def noisy_logits(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(0, 1, (count, classes))
    logits[np.arange(count), labels] += 2
    return logits, labels


def test_scores_by_hand() -> None:
    logits = np.array([[2.0, 0, 0], [0, 2, 0], [2, 0, 0], [0, 0, 2]])
    labels = np.array([0, 1, 1, 2])
    result = score(logits, labels, np.arange(4), ["a", "b", "c"], 1.0, seed=0)
    assert result.accuracy == 0.75
    assert result.balanced_accuracy == pytest.approx((1 + 0.5 + 1) / 3)
    assert result.confusion == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert result.majority == 0.5
    assert result.groups == 4
    assert result.report["b"]["recall"] == 0.5
    expected = -np.log(softmax(logits)[np.arange(4), labels]).mean()
    assert result.nll == pytest.approx(expected)


def test_temperature_finds_the_scale_that_was_put_in() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 4))
    labels = np.array([rng.choice(4, p=row) for row in softmax(logits)])
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)


def test_an_interval_over_groups_is_wider_than_one_over_their_images() -> None:
    rng = np.random.default_rng(0)
    hit = rng.random(100) < 0.9
    groups, labels = np.repeat(np.arange(100), 20), np.repeat(np.arange(100) % 2, 20)
    correct = np.repeat(hit, 20)
    low, high = accuracy_interval(correct, labels, groups, seed=1)
    narrow_low, narrow_high = accuracy_interval(correct, labels, np.arange(2000), seed=1)
    assert low < correct.mean() < high
    assert high - low > 3 * (narrow_high - narrow_low)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_an_error_the_interval_is_wilson_over_groups(share: float) -> None:
    correct = np.full(500, bool(share))
    groups = np.repeat(np.arange(50), 10)
    interval = accuracy_interval(correct, groups % 2, groups, seed=0)
    assert interval == wilson(share, 50)


def test_wilson_from_the_textbook() -> None:
    low, high = wilson(0.9, 100)
    assert (low, high) == (pytest.approx(0.8256, abs=1e-3), pytest.approx(0.9448, abs=1e-3))
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)
    assert wilson(1.0, 10)[0] == pytest.approx(0.7225, abs=1e-3)


def test_scores_agree_with_accuracy_of_argmax() -> None:
    logits, labels = noisy_logits(300, 4, 3)
    result = score(logits, labels, np.arange(300) // 3, list("abcd"), 1.3, seed=0)
    assert result.accuracy == (logits.argmax(1) == labels).mean()
    assert np.trace(result.confusion) == (logits.argmax(1) == labels).sum()
    assert result.accuracy_interval[0] < result.accuracy < result.accuracy_interval[1]


def test_auroc_of_classes_and_of_positives_agrees_with_scikit_learn() -> None:
    logits, labels = noisy_logits(300, 4, 3)
    result = score(logits, labels, np.arange(300) // 3, list("abcd"), 1.3, seed=0, positive=["b", "d"])
    probabilities = softmax(logits, 1.3)
    assert result.auroc == pytest.approx(metrics.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert result.auroc_interval is not None
    assert result.auroc_interval[0] < result.auroc < result.auroc_interval[1]
    assert result.positive is not None
    truth = np.isin(labels, [1, 3])
    called = np.isin(logits.argmax(axis=1), [1, 3])
    assert result.positive.sensitivity == called[truth].mean()
    assert result.positive.specificity == (~called)[~truth].mean()
    assert result.positive.auroc == pytest.approx(metrics.roc_auc_score(truth, probabilities[:, [1, 3]].sum(axis=1)))
    assert result.positive.at_specificity is None
    low, high = result.balanced_accuracy_interval
    assert low < result.balanced_accuracy == metrics.balanced_accuracy_score(labels, logits.argmax(1)) < high
    assert result.macro_f1_interval[0] < result.macro_f1 < result.macro_f1_interval[1]


def test_auroc_is_undefined_where_a_class_is_missing() -> None:
    logits, labels = noisy_logits(60, 3, 1)
    keep = labels != 2
    result = score(logits[keep], labels[keep], np.arange(keep.sum()), list("abc"), 1.0, seed=0)
    assert (result.auroc, result.auroc_interval) == (None, None)


def test_the_cutoff_keeps_its_specificity_where_it_was_chosen() -> None:
    logits, labels = noisy_logits(400, 3, 5)
    probabilities = softmax(logits)
    cutoff = cutoff_at(probabilities, labels, list("abc"), ["c"])
    assert cutoff is not None
    negative = labels != 2
    assert (probabilities[negative, 2] <= cutoff).mean() >= 0.95
    assert (probabilities[negative, 2] < cutoff).mean() < 0.95
    assert cutoff_at(probabilities[~negative], labels[~negative], list("abc"), ["c"]) is None
    result = score(logits, labels, np.arange(400), list("abc"), 1.0, 0, ["c"], cutoff)
    assert result.positive is not None
    assert result.positive.at_specificity is not None
    assert (result.positive.at_specificity.specificity or 0) >= 0.95


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.8, 0.2]] * 10)
    labels = np.array([0] * 6 + [1] * 4)
    assert calibration_error(probabilities, labels) == pytest.approx(0.2)
    # Bins apart: in one too sure, in the other not sure enough.
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    labels = np.array([0] * 7 + [1] * 3 + [1] * 10)
    assert calibration_error(probabilities, labels) == pytest.approx((10 * 0.2 + 10 * 0.4) / 20)


def test_reliability_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.2, 0.8]] * 2 + [[1.0, 0.0]] * 3)
    labels = np.array([0, 0, 0, 1, 1, 0, 0, 0, 0])
    rows = reliability(probabilities, labels)
    assert [(row.images, row.confidence, row.accuracy) for row in rows] == [
        (2, pytest.approx(0.8), 0.5),
        (4, pytest.approx(0.9), 0.75),
        (3, pytest.approx(1.0), 1.0),
    ]


def test_risk_falls_with_coverage_and_ends_at_the_error() -> None:
    logits, labels = noisy_logits(1000, 4, 2)
    curve = risk_coverage(softmax(logits), labels)
    assert len(curve) == 20
    assert curve[-1] == (1.0, pytest.approx((logits.argmax(1) != labels).mean()))
    assert curve[4][1] < curve[-1][1]
    assert len(risk_coverage(softmax(logits[:3]), labels[:3])) == 3


def test_a_group_is_scored_as_one_image() -> None:
    logits = np.array([[4.0, 0], [0, 1], [0, 3], [0, 3]])
    labels, groups = np.array([0, 0, 1, 1]), np.array([7, 7, 9, 9])
    result = score(*by_group(logits, labels, groups, 1.0), ["a", "b"], 1.0, seed=0)
    assert (result.groups, result.accuracy) == (2, 1.0)
    expected = -np.log([softmax(logits)[:2, 0].mean(), softmax(logits)[2:, 1].mean()]).mean()
    assert result.nll == pytest.approx(expected)


def test_paired_differences_are_narrower_than_unpaired_and_know_a_tie() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, 600), np.arange(600) // 4
    one = np.where(rng.random(600) < 0.8, labels, 1 - labels)
    other = np.where(rng.random(600) < 0.03, 1 - one, one)  # nearly the same model
    found = compare(one, other, labels, groups, 0, name="other", trial=None, leaky=False)
    low, high = found.difference_interval
    assert low <= found.difference <= high
    assert high - low < 0.5 * (found.accuracy_interval[1] - found.accuracy_interval[0])
    tie = compare(one, one, labels, groups, 0, name="tie", trial=None, leaky=False)
    assert tie.difference == 0
    assert tie.difference_interval == (-wilson(0, 150)[1], wilson(0, 150)[1])


def test_without_an_error_small_classes_widen_the_mean_over_classes() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    both = class_intervals(labels, labels, np.arange(100), 2, seed=0)
    assert both["balanced_accuracy"] == wilson(1.0, 4 / (1 / 90 + 1 / 10))


REPETITIONS = 250


def correlated(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(correct, labels, groups) of 80 sources of 4 to 12 images; some sources are easy, others not. Accuracy 0.8."""
    sizes = rng.integers(4, 13, 80)
    share = rng.beta(0.8, 0.2, 80)  # correlation within a group: 1 / (1 + 0.8 + 0.2) = 0.5
    groups = np.repeat(np.arange(80), sizes)
    return rng.random(len(groups)) < share[groups], groups % 2, groups


def test_the_interval_over_groups_holds_its_level_and_the_one_over_images_does_not() -> None:
    """95 % of 250 intervals should hold 0.8; three binomial standard errors of 250 repetitions are 4.1 points."""
    rng = np.random.default_rng(0)
    held = np.zeros(2)
    for seed in range(REPETITIONS):
        correct, labels, groups = correlated(rng)
        for way, unit in enumerate((groups, np.arange(len(groups)))):
            low, high = accuracy_interval(correct, labels, unit, seed, resamples=300)
            held[way] += low <= 0.8 <= high
    allowed = 3 * np.sqrt(0.95 * 0.05 / REPETITIONS)
    assert held[0] / REPETITIONS >= 0.95 - allowed
    assert held[1] / REPETITIONS < 0.95 - allowed - 0.1


def sources(rng: np.random.Generator, count: int, largest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(probabilities, labels, groups) of two classes; a tenth of the sources are large, and large ones are easy."""
    large = rng.random(count) < 0.1
    sizes = np.where(large, largest, rng.integers(1, 4, count))
    skill = np.where(large, 4.0, rng.normal(1.0, 1.5, count))
    groups = np.repeat(np.arange(count), sizes)
    true = 1 / (1 + np.exp(-(skill[groups] + rng.normal(0, 0.5, len(groups)))))
    labels = rng.integers(0, 2, len(groups))
    return np.where(labels[:, None] == np.arange(2), true[:, None], 1 - true[:, None]), labels, groups


@pytest.mark.parametrize("level", [0.2, 0.1])
def test_sets_hold_the_class_of_images_of_new_sources(level: float) -> None:
    """The mean over calibrations reaches 1 - level within three of its standard errors; weighing images fails."""
    rng = np.random.default_rng(1)
    new, truth, group = sources(rng, 4000, 1)  # one image of the large sources is enough
    weight = 1 / np.bincount(group)[group] / 4000
    held: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPETITIONS):
        probabilities, labels, groups = sources(rng, 30, 60)
        for way, unit in zip(held, (groups, np.arange(len(groups))), strict=True):
            sets = prediction_sets(new, threshold(probabilities, labels, unit, level))
            way.append(float(weight @ sets[np.arange(len(truth)), truth]))
    by_groups, by_images = (np.mean(way) for way in held)
    allowed = 3 * np.std(held[0]) / np.sqrt(REPETITIONS)
    assert by_groups >= 1 - level - allowed
    assert by_groups <= 1 - level + 1 / 31 + allowed + 0.02  # and no more than it must
    assert by_images < 1 - level - 0.05


def test_a_level_that_the_groups_cannot_promise_is_refused() -> None:
    probabilities, labels, groups = sources(np.random.default_rng(0), 9, 1)
    assert threshold(probabilities, labels, groups, 0.1) == (1 - probabilities[np.arange(len(labels)), labels]).max()
    message = r"level 0.05 needs at least 19 calibration groups, there are 9: the smallest level is 0.1"
    with pytest.raises(ModelError, match=message):
        threshold(probabilities, labels, groups, 0.05)
    with pytest.raises(ModelError, match="between 0 and 1"):
        threshold(probabilities, labels, groups, 1.0)
    found = describe((probabilities, labels, groups), (probabilities, labels, groups))
    promised, refused = found["0.1"], found["0.05"]
    assert isinstance(promised, Sets)
    assert promised.coverage == pytest.approx(1.0)
    assert isinstance(refused, Refused)
    assert "smallest level" in refused.refused


def test_no_class_or_several_is_no_answer() -> None:
    sets = prediction_sets(np.array([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]]), threshold=0.3)
    assert abstains(sets).tolist() == [False, True, True]
    assert abstains(prediction_sets(np.array([[0.55, 0.45]]), threshold=0.6)).tolist() == [True]


def test_the_bootstrap_takes_little_memory_and_gives_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 held-out images, each a source of its own: 2,000 draws of them all would be 320 MB."""
    rng = np.random.default_rng(0)
    labels, groups, right = rng.integers(0, 2, 20_000), np.arange(20_000), rng.random(20_000) < 0.9
    tracemalloc.start()
    whole = intervals.accuracy_interval(right, labels, groups, 0)
    assert tracemalloc.get_traced_memory()[1] < 64e6
    tracemalloc.stop()
    assert whole[0] < 0.9 < whole[1]
    few = (right[:200], labels[:200], groups[:200] // 2, 0)
    at_once = intervals.accuracy_interval(*few)
    monkeypatch.setattr(intervals, "DRAWN_AT_ONCE", 1000)
    assert intervals.accuracy_interval(*few) == at_once
