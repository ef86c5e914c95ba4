"""Scores against scikit-learn and by hand; intervals that resample groups."""

import numpy as np
import pytest

from models.evaluation import accuracy_interval, fit_temperature, score, softmax, wilson


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
