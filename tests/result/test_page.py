"""The report's page: what stands first, shares as percent, and nothing that a user wrote runs in it."""

import re
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from models.bundle.card import Conformal, Data, FinalTraining, Opening, Origin, Preprocessing, StudyCard
from models.bundle.readable import calibrated, markdown
from models.scores.calibration import reliability
from models.scores.evaluation import HeldOutScores, compare, score, without_images
from models.training.loop import EpochResult
from study.config.resolve import resolve
from study.config.space import Range
from study.result.gain import gain
from study.result.html import facts, matrix, table, thumbnail
from study.result.page import EXAMPLES, SearchFacts, page
from study.result.report import edges
from study.training.mistakes import Mistake

EPOCH = EpochResult(
    epoch=1,
    train_loss=0.5,
    train_accuracy=0.8,
    val_loss=0.6,
    val_accuracy=0.75,
    val_balanced_accuracy=0.75,
    learning_rate=0.1,
    images=10,
    seconds=1.0,
)
FOUND: dict[str, Any] = {
    "rungs": [(0, 1, 4, 2)],
    "importance": {},
    "infeasible": 0,
    "at_the_edge": [],
    "front": [],
    "left_out": 0,
    "stages": {},
    "planned_hours": None,
    "storage": "",
}
TIMES = {"search_epochs": 8, "search_epochs_without_pruning": 16}


def card_of(classes: list[str], wrong: float = 0.1, **given: Any) -> StudyCard:
    """The card of a model that names a share of twenty images of each class wrongly."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(classes)), 20)
    shift = np.where(rng.random(len(labels)) < wrong, 1, 0)
    named = (labels + shift) % len(classes)
    logits, groups = 3 * np.eye(len(classes))[named], np.arange(len(labels))
    scores = score(logits, labels, groups, classes, 1.0)
    bins = reliability(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels)
    beside = compare(named, np.roll(labels, 20), labels, groups, name="trees", trial=None, leaky=False)
    fields: dict[str, Any] = {
        "classes": tuple(classes),
        "preprocessing": Preprocessing(size=8, mean=(0.5,) * 3, std=(0.5,) * 3),
        "temperature": 1.3,
        "conformal": Conformal(groups=23),
        "test_opening": Opening(number=1, time="", weights_sha256=["a"], parts="b"),
        "test_openings": 1,
        "study": Origin(
            name="<b>s</b>",
            trial=1,
            winner=1,
            params={"conv_dropout": 0.0},
            metric="accuracy",
            selection_score=0.9876,
            trials=2,
            config={},
        ),
        "final": FinalTraining(
            data="train+val", epochs=3, trainings=1, seconds=1, epoch_seconds=[1.0], num_params=1234
        ),
        "data": Data(source="x", images=40, groups=40, groups_from="a list", parts={}, parts_hash="", content=""),
        "test": HeldOutScores(**vars(scores), by_group=without_images(scores), reliability=bins),
        "comparison": [beside],
    }
    return StudyCard(**{**fields, **given})


def trials() -> list[FrozenTrial]:
    kinds = {"conv_dropout": CategoricalDistribution([0.0, 0.1])}
    found = [
        create_trial(
            state=TrialState.COMPLETE,
            value=value,
            params={"conv_dropout": 0.0},
            distributions=kinds,
            intermediate_values={1: 0.5, 2: value},
        )
        for value in (0.9876, 0.5)
    ]
    for number, trial in enumerate(found):
        trial.number = number
    return found


def image(shade: int = 90) -> np.ndarray:
    return np.full((120, 120, 3), shade, np.uint8)


def made(card: StudyCard, config: dict[str, Any] | None = None, **found: Any) -> str:
    """The page of a card."""
    wrong = [Mistake(path="<i>.png", true=card.classes[0], predicted=card.classes[1], probability=0.987, image=image())]
    fields = {"space": {"conv_dropout": [0.0, 0.1]}, **(config or {})}
    examples = {name: image() for name in card.classes[:EXAMPLES]}
    tried = trials()
    whole = SearchFacts(**{**FOUND, "gain": gain(resolve(None, {"preset": "quick"}), tried, tried[0]), **found})
    return page(tried, resolve(None, {"preset": "quick", **fields}), card, [EPOCH], dict(TIMES), whole, wrong, examples)


def text_of(shown: str) -> str:
    """A page without its scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", shown, flags=re.DOTALL)


def test_verdict_and_pictures_stand_first_then_confusion_mistakes_classes_and_the_rest_is_folded() -> None:
    shown = text_of(made(card_of(["cat", "dog"])))
    places = [
        'class="verdict better"',
        "Better than trees",
        'alt="cat"',
        'id="confusion"',
        'id="mistakes"',
        'id="classes"',
        'id="experts"',
        '<details id="scores">',
        '<details id="beside">',
        '<details id="calibration">',
        '<details id="sets">',
        '<details id="model">',
        '<details id="gain">',
        '<details id="search">',
        '<details id="trials">',
        '<details id="data">',
        '<details id="again">',
    ]
    found = [shown.index(place) for place in places]
    assert found == sorted(found)
    assert shown.index("plotly-graph-div") > shown.index('id="experts"')


def test_the_verdict_is_coloured_by_its_kind() -> None:
    assert 'class="verdict useless"' in made(card_of(["cat", "dog"], wrong=1.0))
    assert 'class="verdict leaky"' in made(card_of(["cat", "dog"], leaky=True, protocol="random"))


def test_of_many_classes_some_are_shown_and_the_rest_is_counted() -> None:
    shown = text_of(made(card_of([f"class {number}" for number in range(30)])))
    assert "and 18 more classes" in shown
    assert 'alt="class 11"' in shown
    assert 'alt="class 12"' not in shown
    assert shown.count("<th title=") == 60  # the matrix is a table, a row and a column for each
    assert "more classes" not in text_of(made(card_of(["cat", "dog"])))


def test_a_matrix_says_shares_where_there_is_room() -> None:
    assert '<td class="right" style="--share: 0.40">3<small>75 %</small></td>' in matrix([[3, 1], [0, 0]], ["a", "b"])
    assert "<td></td>" in matrix([[3, 1], [0, 0]], ["a", "b"])
    almost = matrix([[997, 3], [0, 1000]], ["a", "b"])
    assert [part in almost for part in ("997<small>&gt; 99 %", "3<small>&lt; 1 %", "1000<small>100 %")] == [True] * 3
    assert "%" not in matrix([[1] * 7] * 7, list("abcdefg"))


def test_shares_are_percent() -> None:
    shown = text_of(made(card_of(["cat", "dog"])))
    for share in ("98.8 %", "98.7 %"):  # selection score, and what a mistake was taken for
        assert share in shown
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", shown)
    assert not [cell for cell in cells if re.match(r"0\.\d{3,}$", cell)]
    assert "selection score (validation accuracy)" in shown  # heads of tables
    assert r"selection score\u003cbr\u003e(validation accuracy)" in made(card_of(["cat", "dog"]))  # axes


def test_what_users_wrote_is_text() -> None:
    shown = made(card_of(["<script>alert(1)</script>", "dog & cat"]))
    assert "<script>alert" not in shown
    assert "<b>s</b>" not in shown
    assert "<i>.png" not in shown


def test_values_stand_beside_their_names_and_columns_of_numbers_to_the_right() -> None:
    assert facts([("images", 5)]) == '<table class="facts"><tr><th>images</th><td>5</td></tr></table>'
    shown = table(("trial", "score", "words"), [(1, "98.0 %", "a" * 100), (2, "over 99.9 %", "")])
    assert '<th class="number">score</th>' in shown
    assert '<td>1</td><td class="number">98.0 %</td><td class="longest">' in shown


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "calibrated on 23 sources (temperature 1.300)"),
        ({"temperature": 1.0}, "not calibrated: 23 sources are too few to show that a temperature helps"),
        (
            {"temperature": 1.0, "conformal": Conformal(groups=1)},
            "not calibrated: 1 source is too few to show that a temperature helps",
        ),
        ({"temperature": 1.0, "conformal": None}, "not calibrated: no images were kept for it"),
    ],
)
def test_the_page_and_the_card_say_whether_probabilities_were_calibrated(given: dict[str, Any], words: str) -> None:
    card = card_of(["cat", "dog"], **given)
    assert calibrated(card) == words
    assert f"- Probabilities: {words}." in markdown(card)
    shown = text_of(made(card))
    part = shown[shown.index('<details id="calibration">') : shown.index('<details id="sets">')]
    assert words[1:] in part
    assert re.search(r"expected calibration error</th><td>\d+\.\d % before the temperature, \d+\.\d % after", part)
    assert re.search(r"likelihood</th><td>\d\.\d{4} nats before the temperature, \d\.\d{4} after", part)


def test_a_range_that_ends_as_far_as_it_goes_has_no_edge() -> None:
    space: dict[str, Any] = {
        "conv_dropout": Range(low=0.0, high=0.5),
        "learning_rate": Range(low=1e-4, high=1e-2, log=True),
        "base_filters": [1, 8, 16],
        "use_batch_norm": [True, False],
    }
    chosen = {"conv_dropout": 0.004, "learning_rate": 1e-4, "base_filters": 1, "use_batch_norm": True}
    assert edges(space, chosen) == ["learning_rate = 0.0001 lies at the lower end of what was tried"]
    assert edges(space, {"conv_dropout": 0.49}) == ["conv_dropout = 0.49 lies at the upper end of what was tried"]


def test_seconds_taken_are_not_set_against_a_plan_of_other_hours() -> None:
    card = card_of(["cat", "dog"])
    stages: dict[str, Any] = {"search": (100.0, 300.0), "result": (10.0, None)}
    same = made(card, {"hours": 2}, stages=stages, planned_hours=2.0)
    assert "The plan was made for" not in same
    assert '<td>search</td><td class="number">100</td><td class="number">300</td>' in same
    assert "The plan was made for 1 hours, and the study was given 2 since" in made(
        card, {"hours": 2}, stages=stages, planned_hours=1.0
    )
    again = made(card_of(["cat", "dog"], test_openings=2), {"hours": 2}, stages=stages, planned_hours=2.0)
    assert "A model was made before" in again


def test_thumbnails_are_small() -> None:
    assert len(thumbnail(np.random.default_rng(0).integers(0, 256, (768, 768, 3), np.uint8))) < 12_000
