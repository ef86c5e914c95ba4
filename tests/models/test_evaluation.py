"""Scores against scikit-learn and by hand; intervals and sets that keep their promise for images of new sources."""

import numpy as np
import pytest
from pydantic import TypeAdapter
from sklearn import metrics

from models import ModelError
from models.bundle.card import percent
from models.scores.calibration import calibration_error, fit_temperature, losses, reliability, risk_coverage, softmax
from models.scores.conformal import PredictionSets, RefusedLevel, abstains, describe, prediction_sets, threshold
from models.scores.evaluation import HeldOutScores, Scores, by_group, compare, cutoff_at, score
from models.scores.intervals import (
    ENOUGH,
    accuracy_interval,
    auroc_interval,
    balanced_difference_interval,
    balanced_interval,
    binomial_interval,
    difference_interval,
    f1_interval,
)
from study.result.page import _score_rows


def noisy_logits(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(0, 1, (count, classes))
    logits[np.arange(count), labels] += 2
    return logits, labels


def test_scores_by_hand() -> None:
    logits = np.array([[2.0, 0, 0], [0, 2, 0], [2, 0, 0], [0, 0, 2]])
    labels = np.array([0, 1, 1, 2])
    result = score(logits, labels, np.arange(4), ["a", "b", "c"], 1.0)
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
    assert fit_temperature(3 * logits, labels, np.arange(20000)) == pytest.approx(3, rel=0.05)


def confused(rng: np.random.Generator, count: int, classes: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose probabilities are honest at a temperature of `scale`, and labels."""
    logits = rng.normal(0, 3, (count, classes))
    return scale * logits, np.array([rng.choice(classes, p=row) for row in softmax(logits)])


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_temperature_from_a_few_images_does_no_harm(classes: int, scale: float) -> None:
    """18 images, each a source of its own: worse by 0.01 nats on others in at most 5 % of 200 draws."""
    rng = np.random.default_rng(0)
    others, truth = confused(rng, 4000, classes, scale)
    before, worse = losses(others, truth, 1.0).mean(), 0
    for _ in range(200):
        found = fit_temperature(*confused(rng, 18, classes, scale), np.arange(18))
        worse += losses(others, truth, found).mean() > before + 0.01
    assert worse <= 10


def test_a_temperature_without_an_error_to_learn_from_stays_1() -> None:
    labels = np.arange(18) % 3
    assert fit_temperature(4 * np.eye(3)[labels], labels, np.arange(18)) == 1.0
    assert fit_temperature(4 * np.eye(3)[labels], labels, np.zeros(18, int)) == 1.0  # one source


@pytest.mark.parametrize("scale", [0.4, 2.5])
def test_a_temperature_that_helps_is_found_on_a_hundred_images(scale: float) -> None:
    logits, labels = confused(np.random.default_rng(0), 100, 5, scale)
    assert fit_temperature(logits, labels, np.arange(100)) == pytest.approx(scale, rel=0.35)


def test_an_interval_over_groups_is_wider_than_one_over_their_images() -> None:
    rng = np.random.default_rng(0)
    hit = rng.random(100) < 0.9
    groups, labels = np.repeat(np.arange(100), 20), np.repeat(np.arange(100) % 2, 20)
    correct = np.repeat(hit, 20)
    low, high = accuracy_interval(correct, labels, groups)
    narrow_low, narrow_high = accuracy_interval(correct, labels, np.arange(2000))
    assert low < correct.mean() < high
    assert high - low > 3 * (narrow_high - narrow_low)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_an_error_each_group_is_one_trial(share: float) -> None:
    correct = np.full(500, bool(share))
    groups = np.repeat(np.arange(50), 10)
    assert accuracy_interval(correct, groups % 2, groups) == pytest.approx(binomial_interval(share, 50))


def test_the_binomial_interval_from_the_textbook() -> None:
    low, high = binomial_interval(0.9, 100)
    assert (low, high) == (pytest.approx(0.8238, abs=1e-4), pytest.approx(0.9510, abs=1e-4))
    assert binomial_interval(1.0, 10) == (pytest.approx(0.025**0.1), 1.0)
    assert binomial_interval(0.0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))


def test_one_image_of_each_class_is_worth_as_many_trials_as_there_are_images() -> None:
    """Ten images of ten classes, 7 right: resampling within classes gave 70 % to 70 %."""
    labels = np.arange(10)
    logits = np.eye(10)[np.where(labels < 7, labels, 0)]
    result = score(logits, labels, labels, list("abcdefghij"), 1.0)
    assert result.accuracy_interval == pytest.approx((0.3475, 0.9333), abs=1e-4)
    assert result.recall_intervals["a"] == (pytest.approx(0.025), 1.0)
    assert (result.balanced_accuracy_interval, result.macro_f1_interval, result.auroc_interval) == (None, None, None)
    assert result.no_interval == f"a has 1 of the {ENOUGH} groups that are needed"


def test_no_interval_ends_at_all_with_a_mistake_in_sight() -> None:
    """3 of 61 wrong: percentiles of draws went up to 100.0 %."""
    right = np.arange(61) >= 3
    low, high = accuracy_interval(right, np.arange(61) % 10, np.arange(61))
    assert (low, high) == (pytest.approx(0.8629, abs=1e-4), pytest.approx(0.9897, abs=1e-4))
    assert percent(accuracy_interval(np.arange(5000) > 0, np.zeros(5000, int), np.arange(5000))[1]) == "over 99.9 %"
    assert percent(1.0) == "100.0 %"


def test_two_models_that_differ_by_the_same_in_each_group_still_have_a_width() -> None:
    labels = np.repeat(np.arange(3), 4)
    low, high = difference_interval(labels >= 0, np.arange(12) % 2 == 0, labels, np.arange(12) // 2)
    assert low < 0.5 < high
    assert high - low > 0.3


def test_scores_agree_with_accuracy_of_argmax() -> None:
    logits, labels = noisy_logits(300, 4, 3)
    result = score(logits, labels, np.arange(300) // 3, list("abcd"), 1.3)
    assert result.accuracy == (logits.argmax(1) == labels).mean()
    assert np.trace(result.confusion) == (logits.argmax(1) == labels).sum()
    assert result.accuracy_interval[0] < result.accuracy < result.accuracy_interval[1]


def test_auroc_of_classes_and_of_positives_agrees_with_scikit_learn() -> None:
    logits, labels = noisy_logits(300, 4, 3)
    result = score(logits, labels, np.arange(300) // 3, list("abcd"), 1.3, positive=["b", "d"])
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
    assert result.balanced_accuracy_interval is not None
    assert result.macro_f1_interval is not None
    low, high = result.balanced_accuracy_interval
    assert low < result.balanced_accuracy == metrics.balanced_accuracy_score(labels, logits.argmax(1)) < high
    assert result.macro_f1_interval[0] < result.macro_f1 < result.macro_f1_interval[1]


def test_auroc_is_undefined_where_a_class_is_missing() -> None:
    logits, labels = noisy_logits(60, 3, 1)
    keep = labels != 2
    result = score(logits[keep], labels[keep], np.arange(keep.sum()), list("abc"), 1.0)
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
    result = score(logits, labels, np.arange(400), list("abc"), 1.0, ["c"], cutoff)
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
    result = score(*by_group(logits, labels, groups, 1.0), ["a", "b"], 1.0)
    assert (result.groups, result.accuracy) == (2, 1.0)
    expected = -np.log([softmax(logits)[:2, 0].mean(), softmax(logits)[2:, 1].mean()]).mean()
    assert result.nll == pytest.approx(expected)


def test_paired_differences_are_narrower_than_unpaired_and_know_a_tie() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, 600), np.arange(600) // 4
    one = np.where(rng.random(600) < 0.8, labels, 1 - labels)
    other = np.where(rng.random(600) < 0.03, 1 - one, one)  # nearly the same model
    found = compare(one, other, labels, groups, name="other", trial=None, leaky=False)
    low, high = found.difference_interval
    assert low <= found.difference <= high
    assert high - low < 0.6 * (found.accuracy_interval[1] - found.accuracy_interval[0])
    tie = compare(one, one, labels, groups, name="tie", trial=None, leaky=False)
    assert tie.difference == 0
    end = 1.959964 * np.sqrt(2) / 152  # one disagreement more on either side, of 150 groups and two more
    assert tie.difference_interval == pytest.approx((-end, end))


def test_without_an_error_small_classes_widen_the_mean_over_classes() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    share = 11 / 12  # of the ten, as if one more had been right, and one more wrong
    trials = (1 + share) / 2 * (1 - share) / 2 / (share * (1 - share) / 12 / 4)
    assert trials < 4 / (1 / 90 + 1 / 10)  # if all classes were alike
    wanted = pytest.approx(binomial_interval(1.0, trials))
    assert balanced_interval(labels >= 0, labels, np.arange(100)) == wanted
    assert f1_interval(labels, labels, np.arange(100)) == wanted


@pytest.mark.parametrize(("few", "recall"), [(4, 0.7), (8, 0.8), (30, 0.8)])
def test_a_rare_class_that_agrees_by_chance_is_no_certainty(few: int, recall: float) -> None:
    """Nine classes of 100 groups with a recall of 0.98, and a rare one; 93 % of 300 less two standard errors."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), [few] + 9 * [100])
    groups, right, held = np.arange(len(labels)), np.where(labels == 0, recall, 0.98), []
    for _ in range(300):
        one, other = (rng.random(len(labels)) < right for _ in range(2))
        found = balanced_interval(one, labels, groups), balanced_difference_interval(one, other, labels, groups)
        true = np.mean([recall] + 9 * [0.98]), 0.0
        held.append([ends is not None and ends[0] <= value <= ends[1] for ends, value in zip(found, true, strict=True)])
    assert np.mean(held, axis=0).min() >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 300)


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
    for _ in range(REPETITIONS):
        correct, labels, groups = correlated(rng)
        for way, unit in enumerate((groups, np.arange(len(groups)))):
            low, high = accuracy_interval(correct, labels, unit)
            held[way] += low <= 0.8 <= high
    allowed = 3 * np.sqrt(0.95 * 0.05 / REPETITIONS)
    assert held[0] / REPETITIONS >= 0.95 - allowed
    assert held[1] / REPETITIONS < 0.95 - allowed - 0.1


@pytest.mark.parametrize(("each", "size"), [(1, 1), (2, 5), (2, 20), (4, 20), (10, 20)])
def test_intervals_hold_their_level_with_few_groups_a_class(each: int, size: int) -> None:
    """Three classes, accuracy 0.9, correlation 0.3 in a group; 93 % of 300 intervals less two standard errors."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(3 * each), size)
    labels, held = groups % 3, []
    for _ in range(300):
        correct = rng.random(len(groups)) < rng.beta(2.1, 7 / 30, 3 * each)[groups]
        predicted = np.where(correct, labels, (labels + rng.integers(1, 3, len(labels))) % 3)
        other = np.where(rng.random(len(labels)) < 0.7, correct, rng.random(len(labels)) < 0.8)
        low, high = difference_interval(correct, other, labels, groups)
        found = [accuracy_interval(correct, labels, groups), f1_interval(predicted, labels, groups)]
        assert (found[1] is None) == (each < ENOUGH)
        held.append([low <= 0.03 <= high, *(one is None or one[0] <= 0.9 <= one[1] for one in found)])
    assert np.mean(held, axis=0).min() >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 300)


def test_the_interval_of_an_area_is_that_of_delong() -> None:
    """Each image a source of its own: the variance of the area from scikit-learn's on what is left without each."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    scores, truth = rng.normal(labels, 1.5), labels == 1
    area = metrics.roc_auc_score(truth, scores)
    without = [metrics.roc_auc_score(np.delete(truth, one), np.delete(scores, one)) for one in range(80)]
    trials = area * (1 - area) / (np.var(without) * 79)  # the jackknife's variance
    found = auroc_interval(scores[:, None], truth[:, None], labels, np.arange(80))
    assert found == pytest.approx(binomial_interval(area, trials), abs=0.02)


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
    message = r"level 0.05 needs at least 19 calibration groups, not 9: the smallest level is 0.1"
    with pytest.raises(ModelError, match=message):
        threshold(probabilities, labels, groups, 0.05)
    with pytest.raises(ModelError, match="between 0 and 1"):
        threshold(probabilities, labels, groups, 1.0)
    found = describe((probabilities, labels, groups), (probabilities, labels, groups))
    promised, refused = found["0.1"], found["0.05"]
    assert isinstance(promised, PredictionSets)
    assert promised.coverage == pytest.approx(1.0)
    assert isinstance(refused, RefusedLevel)
    assert "smallest level" in refused.refused


def test_no_class_or_several_is_no_answer() -> None:
    sets = prediction_sets(np.array([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]]), threshold=0.3)
    assert abstains(sets).tolist() == [False, True, True]
    assert abstains(prediction_sets(np.array([[0.55, 0.45]]), threshold=0.6)).tolist() == [True]


def test_cards_of_earlier_versions_and_scores_without_intervals_can_be_read() -> None:
    labels = np.arange(6) % 3
    scores = score(np.eye(3)[labels], labels, np.arange(6), list("abc"), 1.0)
    known = TypeAdapter(Scores)
    assert known.validate_json(known.dump_json(scores)) == scores
    earlier = {**vars(scores), "macro_f1_interval": (0.5, 1.0), "balanced_accuracy_interval": (0.5, 1.0)}
    del earlier["recall_intervals"], earlier["no_interval"]
    assert known.validate_python(earlier).recall_intervals == {}
    rows = {str(row[0]): row[2] for row in _score_rows(HeldOutScores(**vars(scores), by_group=scores, reliability=[]))}
    assert rows["macro F1"] == "none: a has 2 of the 4 groups that are needed"
    assert "to 100.0 %" in str(rows["accuracy"])
