"""Parts are whole by group, stratified by class, complete, and a pure function of the seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataError
from data.splits import SHARES, make_parts, random_parts


@st.composite
def labelled_groups(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels and groups of a random dataset in which each class has at least four groups of its own."""
    classes = draw(st.integers(2, 5))
    labels: list[int] = []
    groups: list[int] = []
    for label in range(classes):
        for _ in range(draw(st.integers(4, 12))):
            size = draw(st.integers(1, 6))
            group = max(groups, default=-1) + 1
            labels += [label] * size
            groups += [group] * size
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return np.array(labels)[order], np.array(groups)[order], classes


def split(labels: np.ndarray, groups: np.ndarray, classes: int, seed: int):
    names = [f"c{i}" for i in range(classes)]
    return make_parts(labels, groups, names, [f"{i}.png" for i in range(len(labels))], seed)


@settings(max_examples=60, deadline=None)
@given(labelled_groups(), st.integers(0, 1000))
def test_parts_divide_the_images_and_never_a_group(case: tuple[np.ndarray, np.ndarray, int], seed: int) -> None:
    labels, groups, classes = case
    parts = split(labels, groups, classes, seed)
    index = [getattr(parts, name) for name in SHARES]
    assert sorted(np.concatenate(index).tolist()) == list(range(len(labels)))
    owners = [set(groups[part].tolist()) for part in index]
    assert sum(map(len, owners)) == len(set(groups.tolist()))
    for part in index:
        assert set(labels[part].tolist()) == set(range(classes))
    assert split(labels, groups, classes, seed).hash == parts.hash


@pytest.mark.parametrize("copies", [1, 4, 20])
def test_shares_are_met_within_two_points_where_groups_are_many(copies: int) -> None:
    sources, classes = 250, 5
    groups = np.repeat(np.arange(sources * classes), copies)
    labels = groups // sources
    parts = split(labels, groups, classes, 0)
    for name, share in SHARES.items():
        index = getattr(parts, name)
        for label in range(classes):
            assert abs((labels[index] == label).sum() / (sources * copies) - share) < 0.02


def uneven() -> tuple[np.ndarray, np.ndarray, int]:
    """Three classes of groups of 1 to 9 images, some of which hold two classes."""
    sizes = [1 + 7 * number % 9 for number in range(60)]
    groups = np.repeat(np.arange(60), sizes)
    labels = np.where(np.arange(len(groups)) % 11 == 0, (groups + 1) % 3, groups % 3)
    return labels, groups, 3


def test_parts_stay_what_they_were_in_earlier_versions() -> None:
    """A study goes on only with the parts that it began with: these hashes never change."""
    assert [split(*uneven(), seed).hash[:12] for seed in (0, 1, 2)] == ["2c864c2baeb6", "3d2ae7072d64", "a43f66c13c44"]


def test_shares_are_met_where_groups_are_uneven() -> None:
    labels, groups, classes = uneven()
    parts = split(labels, groups, classes, 0)
    for name, share in SHARES.items():
        for label in range(classes):
            assert abs((labels[getattr(parts, name)] == label).sum() / (labels == label).sum() - share) < 0.03


def test_seed_changes_the_parts() -> None:
    groups = np.arange(200)
    assert split(groups % 2, groups, 2, 0).hash != split(groups % 2, groups, 2, 1).hash


def test_groups_across_classes_stay_whole() -> None:
    groups = np.arange(120) // 3  # each group has one image of each class
    parts = split(np.arange(120) % 3, groups, 3, 0)
    assert not set(groups[parts.train].tolist()) & set(groups[parts.test].tolist())


def test_groups_of_several_classes_find_a_division_where_there_is_one() -> None:
    """Tables for each of which random tries find one; without a second try half of them were refused."""
    rng, divided, refused = np.random.default_rng(0), 0, 0
    while divided + refused < 30:
        table = rng.random((20, 6)) < 0.3
        wanted = rng.integers(0, 4, (500, 20))
        if not any(all(table[one == part].any(axis=0).all() for part in range(4)) for one in wanted):
            continue
        groups, labels = np.nonzero(table)
        groups = np.unique(groups, return_inverse=True)[1]
        try:
            split(labels, groups, 6, 0)
            divided += 1
        except DataError:
            refused += 1
    assert refused <= 3


def test_too_few_sources_are_refused_with_the_number_needed() -> None:
    labels = np.array([0] * 10 + [1] * 10)
    groups = np.array(list(range(10)) + [10] * 4 + [11] * 3 + [12] * 3)
    with pytest.raises(DataError, match=r"class c1 has 10 images of 3 sources; .* at least 4 sources"):
        split(labels, groups, 2, 0)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 14)), min_size=8, max_size=80), st.integers(0, 2**31))
def test_any_labels_and_groups_are_divided_soundly_or_refused(rows: list[tuple[int, int]], seed: int) -> None:
    labels = np.unique([label for label, _ in rows], return_inverse=True)[1]
    groups = np.unique([group for _, group in rows], return_inverse=True)[1]
    classes = int(labels.max()) + 1
    try:
        parts = split(labels, groups, classes, seed)
    except DataError:
        owned = [len(set(groups[labels == label].tolist())) for label in range(classes)]
        shared = len({(label, group) for label, group in rows}) > len(set(groups.tolist()))
        assert min(owned) < len(SHARES) or shared  # never without a reason
        return
    index = [getattr(parts, name) for name in SHARES]
    assert sorted(np.concatenate(index).tolist()) == list(range(len(labels)))
    assert sum(len(set(groups[part].tolist())) for part in index) == len(set(groups.tolist()))
    assert all(set(labels[part].tolist()) == set(range(classes)) for part in index)


def test_the_random_protocol_is_an_unsealed_80_20() -> None:
    paths = [f"{i}.png" for i in range(1000)]
    parts = random_parts(1000, paths, 0)
    assert parts.counts() == {"train": 800, "val": 200, "cal": 0, "test": 0}
    assert sorted([*parts.train, *parts.val]) == list(range(1000))
    assert random_parts(1000, paths, 1).hash != parts.hash
