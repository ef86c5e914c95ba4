"""The card as a page for people, MODEL_CARD.md (Mitchell et al. 2019, Model Cards for Model Reporting)."""

from collections.abc import Iterable
from typing import Any

Lines = list[str | None]
"""None where the card has nothing to say."""

LEAKY = (
    "**LEAKY**: scored with the published random 80/20 split. Copies of one source lie on both sides, and the same "
    "images chose the architecture. Compare this number with published ones; believe neither."
)


def markdown(card: dict[str, Any]) -> str:
    """MODEL_CARD.md from the card; a field that the card lacks is left out."""
    study = card.get("study", {})
    sections = [
        (f"Model card: {study.get('name', 'image classifier')}", _head(card)),
        ("Use", _use(card)),
        ("Scores", _scores(card)),
        ("Data", _data(card)),
        ("Protocol", _protocol(card)),
        ("Prediction sets", _sets(card)),
        ("Formats", _formats(card)),
        ("Limits", _limits(card)),
    ]
    first, *others = [(title, [line for line in lines if line is not None]) for title, lines in sections]
    text = f"# {first[0]}\n\n" + "\n\n".join(first[1])
    for title, lines in others:
        if lines:
            text += f"\n\n## {title}\n\n" + "\n".join(lines)
    return text + "\n"


def _head(card: dict[str, Any]) -> Lines:
    classes = list(map(str, card.get("classes", [])))
    size = card.get("preprocessing", {}).get("size")
    return [
        f"**{card.get('notice', 'Research use only; not a medical device.')}**",
        f"A convolutional network that sorts images of {size} x {size} pixels into {len(classes)} classes: "
        f"{', '.join(classes)}. It always names one of them, also for an image that shows something else.",
        LEAKY if card.get("leaky") else None,
        f"Made {card['made']}; the machine-readable twin of this page is `card.json`." if "made" in card else None,
    ]


def _use(card: dict[str, Any]) -> Lines:
    return [
        "`python example.py IMAGE...` prints the probabilities; it needs numpy, Pillow, and onnxruntime or torch. "
        "`model.onnx` and `model.pt2` take uint8 RGB images [N, S, S, 3], any N, and give calibrated probabilities "
        "[N, K]: normalisation and temperature are inside. Decode and resize as `example.py` does: other software "
        "resizes differently.",
    ]


def _scores(card: dict[str, Any]) -> Lines:
    test = card.get("test", {})
    if "accuracy" not in test:
        return []
    name = "leaky accuracy" if card.get("leaky") else "test accuracy"
    low, high = test.get("accuracy_interval", (None, None))
    interval = f" (95 % interval {_percent(low)} to {_percent(high)})" if low is not None else ""
    seeds = card.get("test_accuracy_of_seeds", [])
    facts = [
        (name, f"**{_percent(test['accuracy'])}**{interval}"),
        ("on", f"{test.get('images')} images of {test.get('groups')} groups"),
        ("always the most frequent class", _percent(test.get("majority"))),
        ("balanced accuracy", _percent(test.get("balanced_accuracy"))),
        ("macro F1", _number(test.get("macro_f1"))),
        ("negative log likelihood", _number(test.get("nll"))),
        ("all seeds", ", ".join(_percent(seed) for seed in seeds) if len(seeds) > 1 else None),
        ("openings of the test part", card.get("test_openings")),
    ]
    rows = [
        (label, *(_number(row.get(key)) for key in ("precision", "recall", "f1-score")), int(row.get("support", 0)))
        for label in card.get("classes", [])
        if isinstance(row := test.get("report", {}).get(label), dict)
    ]
    classes = ["", *_table(("class", "precision", "recall", "F1", "images"), rows)] if rows else []
    return [*_table(("score", "value"), _known(facts)), *classes]


def _data(card: dict[str, Any]) -> Lines:
    data = card.get("data", {})
    size = data.get("source_size")
    parts = ", ".join(f"{part} {count}" for part, count in data.get("parts", {}).items())
    facts = [
        ("source", data.get("source")),
        ("images", data.get("images")),
        ("median size of the files, pixels", f"{size[0]} x {size[1]}" if size else None),
        ("groups (images of one source)", data.get("groups")),
        ("how the groups are known", data.get("groups_from")),
        ("parts, images", parts or None),
        ("unreadable, left out", len(data["skipped"]) if data.get("skipped") else None),
        ("synthetic", "yes: no score here says anything about real images" if card.get("synthetic_data") else None),
    ]
    return _table(("", ""), _known(facts)) if _known(facts) else []


def _protocol(card: dict[str, Any]) -> Lines:
    study, final = card.get("study", {}), card.get("final", {})
    if card.get("leaky"):
        return ["- A random split without groups; the held-out images also chose the architecture."]
    return [
        "- Parts are whole by group, stratified by class. The search saw the parts train and val; the test part was "
        "opened once the weights were final.",
        f"- Trial {study.get('trial')} of {study['trials']} (winner: {study.get('winner')}), trained from fresh "
        f"weights on {final.get('data', 'train')} for {final.get('epochs')} epochs, to the last one."
        if "trials" in study
        else None,
        f"- Temperature {card['temperature']:.3f}, fitted on the part cal." if "temperature" in card else None,
        "- The interval resamples groups, not images.",
    ]


def _sets(card: dict[str, Any]) -> Lines:
    levels = (card.get("conformal") or {}).get("levels") or {}
    rows = [
        (level, f"1 - p <= {one['threshold']:.4f}" if "threshold" in one else f"refused: {one.get('refused', '?')}")
        for level, one in levels.items()
    ]
    return _table(("error level", "a class is in the set when"), rows) if rows else []


def _formats(card: dict[str, Any]) -> Lines:
    rows = []
    for name, one in card.get("formats", {}).items():
        speeds = one.get("speed_cpu", [])
        shown = ", ".join(f"{row['batch']}: {row['milliseconds']:.3g} ms" for row in speeds)
        rows.append((f"`{name}`", f"{one['max_difference']:.1e}", shown or "not timed"))
    threads = card.get("versions", {}).get("threads")
    head = ("file", "largest difference of a probability", f"batch: time (processor, {threads} threads)")
    return _table(head, rows) if rows else []


def _limits(card: dict[str, Any]) -> Lines:
    return [
        "- Scores hold for images like those of the test part: same laboratory, scanner, staining, magnification and "
        "preparation. For another centre measure again (`study evaluate MODEL DIR`).",
        "- Groups are only what is known or found; patients or slides that are not named make a score optimistic.",
        "- A selection score (validation) is the best of many and no performance.",
        "- Not for diagnosis or any other clinical decision.",
    ]


def _known(facts: list[tuple[str, Any]]) -> list[tuple[Any, ...]]:
    return [fact for fact in facts if fact[1] is not None]


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> Lines:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"
