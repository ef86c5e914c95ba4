"""The verdict on a model, a few lines that come first wherever it is shown: a metric, its interval, and a judgement."""

from dataclasses import dataclass
from typing import Literal

from models.bundle.card import INCOMPLETE, Card, Origin, percent
from models.scores.evaluation import Comparison, HeldOutScores
from models.scores.intervals import Interval

Kind = Literal["better", "no better", "worse", "useless", "leaky"]
"""A judgement on a model, compared with others; useless: no better than an answer that does not look at the image."""

KNOWN = ("trees", "pretrained", "from scratch")
"""Beginnings of the names of the other models that a model must beat."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on a model, in words. It contains names given by users, so code that shows it must escape them."""

    kind: Kind
    metric: str  # name of the score, such as "test accuracy"
    value: str  # such as "97.3 %, 95 % interval 95.1 % to 98.7 %"
    on: str  # what it was measured on, such as "414 images of 207 sources"
    word: str  # the judgement as a sentence
    choice: str  # which trial the model is, and why; empty if no study made it
    notes: tuple[str, ...]  # notes that must be read with the score

    @property
    def lines(self) -> list[str]:
        """The whole verdict as sentences, one per line."""
        score = f"{self.metric[0].upper()}{self.metric[1:]} {self.value} ({self.on})."
        return [line for line in (score, self.word, self.choice, *self.notes) if line]


def verdict(card: Card) -> Verdict | None:
    """Return the verdict on a model from its card; None if the model was never scored."""
    test = card.test
    if test is None:
        return None
    kind, word = _judged(card, test)
    return Verdict(
        kind=kind,
        metric=card.score_name,
        value=_with_interval(*score_of(card, test), test.no_interval),
        on=f"{_count(test.images, 'image')} of {_count(test.groups, 'source')}",
        word=word,
        choice=choice(card.study) if card.study else "",
        notes=tuple(_notes(card, test)),
    )


def by_class(card: Card) -> bool:
    """Return whether each class counts the same in the metric that the search optimised."""
    return card.study is not None and card.study.metric == "balanced_accuracy"


def score_of(card: Card, test: HeldOutScores) -> tuple[float, Interval | None]:
    """Return the metric that the search optimised, on the held-out images, with its interval."""
    if by_class(card):
        return test.balanced_accuracy, test.balanced_accuracy_interval
    return test.accuracy, test.accuracy_interval


def _with_interval(value: float, ends: Interval | None, why: str) -> str:
    if ends is None:
        return f"{percent(value)}, without an interval: {why or 'too few groups'}"
    return f"{percent(value)}, 95 % interval {percent(ends[0])} to {percent(ends[1])}"


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _judged(card: Card, test: HeldOutScores) -> tuple[Kind, str]:
    if card.mark:
        return "leaky", card.mark
    if useless := _useless(card, test):
        return "useless", useless
    rows = [row for row in card.comparison if row.name.startswith(KNOWN)]
    if not rows and score_of(card, test)[1] is None:
        why = "too few groups for an interval, and nothing else was compared"
        return "no better", f"Not shown to be better than always saying {_largest(card, test)}: {why}."
    if not rows:
        return "better", f"Better than always saying {_largest(card, test)}; nothing else was compared."
    found = [(_compared(row, by_class(card)), row) for row in rows]
    worst: Kind = next(kind for kind in ("worse", "no better", "better") if kind in [kind for kind, _ in found])
    words = {
        "worse": "Worse than",
        "below": "Below",
        "no better": "Not shown to be better than",
        "better": "Better than",
    }
    by_word: dict[str, list[str]] = {}
    for kind, row in found:
        below = kind == "no better" and _value(row, card) > score_of(card, test)[0]
        by_word.setdefault("below" if below else kind, []).append(_named(row, card))
    said = [
        f"{words[one]} {' and '.join(by_word[one])}{', perhaps by chance' if one == 'below' else ''}."
        for one in words
        if one in by_word
    ]
    return worst, " ".join(said)


def _value(row: Comparison, card: Card) -> float:
    return row.balanced_accuracy if by_class(card) else row.accuracy


def _useless(card: Card, test: HeldOutScores) -> str:
    """Return why the model should not be used at all; an empty string if it beats always saying the same class."""
    value, ends = score_of(card, test)
    blind = 1 / len(test.recall_intervals or card.classes) if by_class(card) else test.majority
    if value > blind and (ends is None or ends[0] > blind):
        return ""
    how = "Worse than" if value < blind else "Not shown to be better than"
    return f"{how} always saying {_largest(card, test)}: do not use it."


def _largest(card: Card, test: HeldOutScores) -> str:
    """Name the most frequent class, and the score that always predicting it would reach."""
    supports = {name: row["support"] for name in card.classes if isinstance(row := test.report.get(name), dict)}
    name = max(supports, key=lambda one: supports[one], default="the most frequent class")
    each = f", balanced {percent(1 / len(test.recall_intervals or card.classes))}" if by_class(card) else ""
    return f"{name} (accuracy {percent(test.majority)}{each})"


def _compared(row: Comparison, by_class: bool) -> Kind:
    """Compare the model with another one, by the paired interval of their difference."""
    ends = row.balanced_difference_interval if by_class else row.difference_interval
    if ends is None or ends[0] <= 0 <= ends[1]:
        return "no better"
    return "better" if ends[0] > 0 else "worse"


def _named(row: Comparison, card: Card) -> str:
    """Describe another model by its name, its score, and the interval of the difference."""
    names = {"trees": "trees on colours and edges", "from scratch": "the best network from scratch"}
    name = names.get(row.name, f"a {row.name}")
    value = _value(row, card)
    ends = row.balanced_difference_interval if by_class(card) else row.difference_interval
    if ends is None:
        return f"{name} ({percent(value)}; too few groups to tell)"
    low, high = (f"{100 * end:+.1f}" for end in ends)
    return f"{name} ({percent(value)}; the difference is {low} to {high} points)"


BEST = "the best selection score"


def choice(study: Origin) -> str:
    """Say which trial was shipped, and why."""
    which = f"It is trial {study.trial} ({_count(study.trials, 'trial')} {'was' if study.trials == 1 else 'were'} made)"
    if study.no_complete_trial:
        return f"It is trial {study.trial}, the one that was trained longest."
    if study.trial != study.chosen:
        return f"{which}, as asked for; the study's own choice is trial {study.chosen}."
    if not study.confirmed and study.leader is not None:
        return (
            f"{which}. Trial {study.leader} had a better selection score, but trains a new last layer alone, which "
            "gains nothing from a longer training."
        )
    best = f"had the best selection score, as had {_count(study.tied, 'other')}" if study.tied else f"had {BEST}"
    if study.leader is not None:
        best = f"ranked first (trial {study.leader} had a better selection score, but trains a new last layer alone)"
    if not study.confirmed:
        return f"{which}, which {best}."
    if study.chosen == study.winner:
        again = [one.mean for one in study.confirmed]
        first = "was the best" if len(again) < 2 or again[0] > again[1] else "shared the best score"
        return f"{which}, which {best}, and {first} when trained again (confirmation)."
    return f"{which}, chosen by confirmation; trial {study.winner} {best}."


def _notes(card: Card, test: HeldOutScores) -> list[str]:
    notes = []
    if by_class(card) and test.accuracy < test.majority:
        notes.append(
            f"Of all images it names {percent(test.accuracy)} rightly; always saying the most frequent class would "
            f"name {percent(test.majority)}."
        )
    if card.study and card.study.no_complete_trial:
        notes.append(INCOMPLETE)
    if card.test_opening and (card.test_openings or 1) > 1:
        notes.append(
            f"The test part was opened {card.test_openings} times, and this score is from opening "
            f"{card.test_opening.number}: it is likely too high."
        )
    if card.synthetic_data:
        notes.append("The images are synthetic: the score says nothing about real ones.")
    if card.sibling_sha256:
        notes.append(
            "This network has learned from all images, those of the test part too: the score is its sibling's, which "
            f"was trained alike without them (weights {card.sibling_sha256[:12]}), and nobody knows its own."
        )
    if card.smaller:
        one = card.smaller
        notes.append(
            f"Trial {one.trial} is far smaller and scored the same within the interval ({percent(one.score)} on "
            f"validation; {one.milliseconds:.3g} ms an image, this one {one.shipped_milliseconds:.3g} ms): "
            f"{one.command}"
        )
    return notes
