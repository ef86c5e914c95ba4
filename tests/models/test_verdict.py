"""What a model is worth, in a word that its interval allows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.card import Card, Confirmation, Opening, Origin, Preprocessing, SmallerTrial
from models.bundle.verdict import Verdict, verdict
from models.scores.evaluation import HeldOutScores, compare, score, without_images

CLASSES = ("MT_Free", "MT_Fray", "MT_Crack")
LABELS = np.repeat([0, 1, 2], [140, 30, 30])
GROUPS = np.arange(200)


def answers(wrong: float, seed: int = 0) -> NDArray[np.int64]:
    """The true classes, of which a share is another one."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(200) < wrong, (LABELS + rng.integers(1, 3, 200)) % 3, LABELS)


def judged(ours: NDArray[np.int64], others: dict[str, NDArray[np.int64]], **given: Any) -> Verdict:
    """The verdict on a model that named the images so, beside others."""
    metric, groups = given.pop("metric", "accuracy"), given.pop("groups", GROUPS)
    scores = score(4 * np.eye(3)[ours], LABELS, groups, CLASSES, 1.0)
    origin = {"name": "s", "trial": 3, "winner": 3, "params": {}, "metric": metric, "selection_score": 0.9}
    card = Card(
        classes=CLASSES,
        preprocessing=Preprocessing(size=8, mean=(0.5,) * 3, std=(0.5,) * 3),
        temperature=1.0,
        study=Origin(**{"trials": 9, "config": {}, **origin, **given.pop("origin", {})}),
        test=HeldOutScores(**vars(scores), by_group=without_images(scores), reliability=[]),
        comparison=[
            compare(ours, other, LABELS, groups, name=name, trial=None, leaky=False) for name, other in others.items()
        ],
        **given,
    )
    found = verdict(card)
    assert found is not None
    return found


def test_without_an_interval_nothing_is_shown() -> None:
    """A class of few groups has no interval of the balanced accuracy: a good score alone is no evidence."""
    few = np.where(LABELS == 2, GROUPS.max() + 1, GROUPS)  # all images of one class are of one group
    found = judged(answers(0.1), {}, metric="balanced_accuracy", groups=few)
    assert found.kind == "no better"
    assert "too few groups for an interval, and nothing else was compared" in found.word


def test_a_model_that_was_never_scored_has_no_verdict() -> None:
    card = Card(classes=CLASSES, preprocessing=Preprocessing(size=8, mean=(0.5,) * 3, std=(0.5,) * 3), temperature=1.0)
    assert verdict(card) is None


def test_better_is_said_where_the_paired_interval_says_so() -> None:
    found = judged(answers(0.02), {"trees": answers(0.3, 1), "pretrained resnet18 at 8 px": answers(0.25, 2)})
    assert found.kind == "better"
    assert found.word.startswith("Better than trees on colours and edges (")
    assert " and a pretrained resnet18 at 8 px (" in found.word
    assert found.metric == "test accuracy"
    assert found.on == "200 images of 200 sources"
    assert found.lines[0].startswith("Test accuracy 97.")


def test_what_cannot_be_told_apart_is_not_better() -> None:
    found = judged(answers(0.03), {"trees": answers(0.11, 1), "runner-up": answers(0.9, 2)})
    assert found.kind == "no better"
    assert found.word.startswith("Not shown to be better than trees on colours and edges (")


def test_what_may_be_chance_is_said_to_be_below() -> None:
    found = judged(answers(0.12), {"trees": answers(0.1, 1)})
    assert found.kind == "no better"
    assert found.word.startswith("Below trees on colours and edges (")
    assert found.word.endswith(", perhaps by chance.")


def test_a_known_network_that_is_better_is_named_first() -> None:
    found = judged(answers(0.2), {"trees": answers(0.6, 1), "pretrained resnet18 at 8 px": answers(0.01, 2)})
    assert found.kind == "worse"
    assert found.word.startswith("Worse than a pretrained resnet18 at 8 px")
    assert "Better than trees on colours" in found.word


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_who_is_worse_than_one_class_for_all_should_not_be_used(metric: str) -> None:
    found = judged(np.random.default_rng(1).integers(0, 3, 200), {"trees": answers(0.5, 1)}, metric=metric)
    assert found.kind == "useless"
    assert found.word.startswith("Worse than always saying MT_Free (accuracy 70.0 %")
    assert found.word.endswith("do not use it.")


def test_without_an_interval_the_same_metric_is_used() -> None:
    ours = np.where(LABELS == 0, np.where(np.arange(200) % 10 == 0, 0, 1), LABELS)  # a tenth of the largest class
    groups = np.where(LABELS == 1, 500, GROUPS)
    found = judged(ours, {}, groups=groups, metric="balanced_accuracy")
    assert "without an interval" in found.value
    assert found.kind == "no better"
    assert found.word.startswith("Not shown to be better than always saying MT_Free")
    assert found.notes == (
        "Of all images it names 37.0 % rightly; always saying the most frequent class would name 70.0 %.",
    )
    worse = judged(np.zeros(200, np.int64) + 1, {}, groups=groups, metric="balanced_accuracy")
    assert worse.kind == "useless"


def test_with_few_sources_nothing_is_shown() -> None:
    groups = np.repeat([0, 1, 2], [140, 30, 30])
    found = judged(answers(0.3), {"trees": answers(0.5, 1)}, groups=groups, metric="balanced_accuracy")
    assert found.kind == "no better"
    assert "too few groups to tell" in found.word
    assert "without an interval: MT_Free has 1 of the 4 groups" in found.value


def test_one_metric_is_used_throughout_and_what_it_hides_is_said() -> None:
    ours = np.where(LABELS == 0, np.arange(200) % 3, LABELS)  # a third of the largest class, all of the others
    found = judged(ours, {"trees": np.zeros(200, np.int64)}, metric="balanced_accuracy")
    assert found.kind == "better"
    assert found.metric == "test balanced accuracy"
    assert "edges (33.3 %;" in found.word
    assert found.notes == (
        "Of all images it names 53.5 % rightly; always saying the most frequent class would name 70.0 %.",
    )


def test_which_trial_it_is_and_why() -> None:
    def choice(**origin: Any) -> str:
        return judged(answers(0.1), {}, origin=origin).choice

    first, second = (Confirmation(trial=one, values=[0.9], mean=0.9) for one in (3, 5))
    better = Confirmation(trial=3, values=[0.95], mean=0.95)
    assert choice() == "It is trial 3 (9 trials were made), which had the best selection score."
    assert choice(leader=7).endswith(
        "Trial 7 had a better selection score, but trains a new last layer alone, which gains nothing from a longer "
        "training."
    )
    assert "and was the best when trained again" in choice(confirmed=[better, second])
    assert "and shared the best score when trained again" in choice(confirmed=[first, second])
    assert choice(tied=1).endswith("which had the best selection score, as had 1 other.")
    assert "the best selection score, as had 9 others, and was" in choice(tied=9, confirmed=[better, second])
    other = judged(answers(0.1), {}, origin={"confirmed": [first, second]}, leaky=True)
    assert other.kind == "leaky"
    assert other.metric == "leaky accuracy"
    assert choice(leader=7, confirmed=[better, second]).endswith(
        "which ranked first (trial 7 had a better selection score, but trains a new last layer alone), and was the "
        "best when trained again (confirmation)."
    )
    asked = choice(confirmed=[second, first])
    assert asked == "It is trial 3 (9 trials were made), as asked for; the study's own choice is trial 5."


def test_what_must_be_read_with_it_stands_with_it() -> None:
    opening = Opening(number=2, time="", weights_sha256=[], parts="")
    small = SmallerTrial(
        trial=1, score=0.89, milliseconds=0.5, shipped_milliseconds=2, command="study retrain s --trial 1"
    )
    found = judged(answers(0.1), {}, test_opening=opening, test_openings=3, smaller=small, origin={"complete": False})
    assert [note.split()[0] for note in found.notes] == ["No", "The", "Trial"]
    assert "opened 3 times, and this score is from opening 2" in found.notes[1]
    assert found.notes[2].endswith("this one 2 ms): study retrain s --trial 1")
    asked = judged(answers(0.1), {}, origin={"complete": False, "winner": 5})  # a pruned trial, which somebody named
    assert not asked.notes
    assert asked.choice.endswith("as asked for; the study's own choice is trial 5.")


def test_a_strangers_card_without_its_classes_is_judged_too() -> None:
    scores = score(4 * np.eye(3)[answers(0.1)], LABELS, GROUPS, CLASSES, 1.0)
    test = HeldOutScores(**vars(replace(scores, report={})), by_group=without_images(scores), reliability=[])
    card = Card(
        classes=CLASSES,
        preprocessing=Preprocessing(size=8, mean=(0.5,) * 3, std=(0.5,) * 3),
        temperature=1.0,
        test=test,
    )
    found = verdict(card)
    assert found is not None
    assert "always saying the most frequent class" in found.word
