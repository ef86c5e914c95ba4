"""The card as a page for people to read, MODEL_CARD.md (Mitchell et al. 2019, Model Cards for Model Reporting)."""

import re
from collections.abc import Iterable
from typing import Literal

from models.bundle.card import Card, Data, Speed, percent
from models.bundle.verdict import score_of, verdict
from models.scores.conformal import PredictionSets
from models.scores.evaluation import HeldOutScores

Lines = list[str | None]
"""Lines of a section; None stands for a line for which the card has no information."""

Cell = str | int | float | None
"""A cell of a table; None if the card has no value for it."""

SHOWN: tuple[Literal["precision", "recall", "f1-score"], ...] = ("precision", "recall", "f1-score")
"""Scores of each class that are shown."""


def markdown(card: Card) -> str:
    """Return the text of MODEL_CARD.md; information that the card lacks is left out."""
    sections = [
        (f"Model card: {in_markdown(card.study.name if card.study else 'image classifier')}", _head(card)),
        ("Use", _use()),
        ("Scores", _scores(card, card.test) if card.test else []),
        ("Data", _data(card, card.data) if card.data else []),
        ("Protocol", _protocol(card)),
        ("Prediction sets", _sets(card)),
        ("Formats", _formats(card)),
        ("Limits", _limits()),
    ]
    first, *others = [(title, [line for line in lines if line is not None]) for title, lines in sections]
    text = f"# {first[0]}\n\n" + "\n\n".join(first[1])
    for title, lines in others:
        if lines:
            text += f"\n\n## {title}\n\n" + "\n".join(lines)
    return text + "\n"


def _head(card: Card) -> Lines:
    size = card.preprocessing.size
    worth = verdict(card)
    return [
        *(f"**{in_markdown(line)}**" for line in (worth.lines if worth else [])),
        f"**{card.notice}**",
        f"A convolutional network that sorts images of {size} x {size} pixels into {len(card.classes)} classes: "
        f"{', '.join(map(in_markdown, card.classes))}. It always names one of them, also for an image that shows "
        "something else.",
        f"**{card.mark}**" if card.mark and not worth else None,
        f"Made {card.made}; the machine-readable twin of this page is `card.json`." if card.made else None,
    ]


def _use() -> Lines:
    return [
        "`python example.py IMAGE...` prints the probabilities; it needs numpy, Pillow, and onnxruntime or torch. "
        "`model.onnx` and `model.pt2` take uint8 RGB images [N, S, S, 3], any N, and give probabilities "
        "[N, K]: normalisation and temperature are inside. Decode and resize as `example.py` does: other software "
        "resizes differently.",
        "The hashes in `card.json` show damage, not malice: who can alter this folder can alter them too.",
    ]


def _scores(card: Card, test: HeldOutScores) -> Lines:
    seeds = card.test_accuracy_of_seeds
    value, ends = score_of(card, test)
    interval = f"95 % interval {percent(ends[0])} to {percent(ends[1])}" if ends else f"no interval: {test.no_interval}"
    facts: list[tuple[str, Cell]] = [
        (card.score_name, f"**{percent(value)}** ({interval})"),
        ("on", f"{test.images} images of {test.groups} groups"),
        ("always the most frequent class", percent(test.majority)),
        ("accuracy", percent(test.accuracy)),
        ("balanced accuracy", percent(test.balanced_accuracy)),
        ("macro F1", f"{test.macro_f1:.3f}"),
        ("negative log likelihood", f"{test.nll:.3f}"),
        ("accuracy of all seeds", ", ".join(map(percent, seeds)) if len(seeds) > 1 else None),
        ("openings of the test part", _openings(card)),
    ]
    rows: list[tuple[Cell, ...]] = [
        (in_markdown(name), *(f"{row[key]:.3f}" for key in SHOWN), int(row["support"]))
        for name, row in ((name, test.of_class(name)) for name in card.classes)
    ]
    classes = _table(("class", "precision", "recall", "F1", "images"), rows)
    return [*_table(("score", "value"), _known(facts)), "", *classes]


def _openings(card: Card) -> Cell:
    """Return how often the test part had been opened, and from which opening the scores are."""
    if card.test_opening is None or card.test_openings == 1:
        return card.test_openings
    return f"{card.test_openings}; these scores are from opening {card.test_opening.number}"


def _data(card: Card, data: Data) -> Lines:
    size, ranges = data.source_size, card.preprocessing.ranges
    facts: list[tuple[str, Cell]] = [
        ("source", in_markdown(data.source)),
        ("images", data.images),
        ("median size of the files, pixels", f"{size[0]} x {size[1]}" if size else None),
        ("groups (images of one source)", data.groups),
        ("how the groups are known", in_markdown(data.groups_from)),
        ("parts, images", ", ".join(f"{part} {count}" for part, count in data.parts.items())),
        (
            "of 16 or 32 bits, black to white",
            ", ".join(f"{kind} numbers {low:.6g} to {high:.6g}" for kind, (low, high) in ranges.items()) or None,
        ),
        ("unreadable, left out", len(data.skipped) or None),
        ("synthetic", "yes: no score here says anything about real images" if card.synthetic_data else None),
    ]
    return _table(("", ""), _known(facts))


def _protocol(card: Card) -> Lines:
    if card.protocol == "random":
        return ["- A random split without groups; the held-out images also chose the architecture."]
    study, final, views = card.study, card.final, card.preprocessing.views
    which = ", which was trained longest"
    if study and not study.no_complete_trial:
        which = f" of {study.trials} (winner: {study.winner})"
    parts = "Parts are whole by group, stratified by class."
    if card.protocol == "given":
        found = "sources in several parts were allowed" if card.leaky else "no source was found in two of them"
        given_by = card.data.parts_from if card.data else None
        parts = f"The parts came with the images ({in_markdown(given_by or 'how is not recorded')}); {found}."
    return [
        f"- {parts} The search saw the parts train and val; the test part was opened once the weights were final.",
        f"- Trial {study.trial}{which}, trained from "
        f"{'pretrained' if card.begun else 'fresh'} weights on {final.data} for {final.epochs} epochs, to the last one."
        if study and final
        else None,
        f"- Probabilities: {calibrated(card)}.",
        f"- It began from {card.begun.name} ({card.begun.made_by}; its weights are under {card.begun.licence}, SHA-256 "
        f"{card.begun.weights_sha256[:16]}...); {percent(card.begun.trained)} of its layers were trained, and a new "
        "last layer."
        if card.begun
        else None,
        f"- Each image is seen {len(views)} times (mirrored: {', '.join(view for view in views if view)}), and the "
        "probabilities are averaged; all formats do so but `model.pth`."
        if len(views) > 1
        else None,
        "- The interval is over groups, not images.",
    ]


def calibrated(card: Card) -> str:
    """Say whether the probabilities were calibrated, and on how many sources."""
    if card.conformal is None and card.temperature == 1:
        return "not calibrated: no images were kept for it"
    sources = card.conformal.groups if card.conformal else 0
    on = f"{sources:,} source{'' if sources == 1 else 's'}" if sources else "the part cal"
    if card.temperature == 1:
        few = "is too few" if sources == 1 else "are too few" if sources else "is too small"
        return f"not calibrated: {on} {few} to show that a temperature helps"
    return f"calibrated on {on} (temperature {card.temperature:.3f})"


def _sets(card: Card) -> Lines:
    levels = card.conformal.levels if card.conformal else {}
    rows = [
        (level, f"1 - p <= {one.threshold!r}" if isinstance(one, PredictionSets) else f"refused: {one.refused}")
        for level, one in levels.items()
    ]
    return _table(("error level", "a class is in the set when"), rows) if rows else []


def _formats(card: Card) -> Lines:
    rows = []
    for name, one in card.formats.items():
        shown = _times(one.speed_cpu) + (f" (one view: {_times(one.one_view_cpu)})" if one.one_view_cpu else "")
        rows.append((f"`{name}`", f"{one.max_difference:.1e}", shown or one.note or "not timed"))
    threads = card.versions.get("threads")
    head = ("file", "largest difference of a probability", f"batch: time (processor, {threads} threads)")
    return _table(head, rows) if rows else []


def _times(rows: list[Speed]) -> str:
    return ", ".join(f"{row.batch}: {row.milliseconds:.3g} ms" for row in rows)


def _limits() -> Lines:
    return [
        "- Scores hold for images like those of the test part: same laboratory, scanner, staining, magnification and "
        "preparation. For another centre measure again (`study evaluate MODEL DIR`).",
        "- Groups are only what is known or found; patients or slides that are not named make a score optimistic.",
        "- A selection score (validation) is the best of many and no performance.",
        "- Not for diagnosis or any other clinical decision.",
    ]


def _known(facts: list[tuple[str, Cell]]) -> list[tuple[str, Cell]]:
    return [fact for fact in facts if fact[1] is not None]


def _table(head: tuple[str, ...], rows: Iterable[tuple[Cell, ...]]) -> Lines:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(_flat(str(cell)).replace("|", "\\|") for cell in line) + " |" for line in lines]


def _flat(text: str) -> str:
    """Return a text on one line, with characters that cannot be printed replaced by spaces."""
    return "".join(one if one.isprintable() else " " for one in text)


def in_markdown(text: str) -> str:
    """Escape a name of a class, study or folder for Markdown, so that it makes no HTML, link or other markup."""
    return re.sub(r"[\\`*\[\]<>]", r"\\\g<0>", _flat(text))
