"""A data audit as one offline HTML page with thumbnails."""

import html
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.datasets import ImageSet
from models.bundle.card import percent
from study.result.html import document, picture, table

THUMB = 72
"""Pixels."""
MOST_LINES = 200


def audit_page(dataset: ImageSet, found: dict[str, Any], largest: list[NDArray[np.int64]]) -> str:
    """The audit `found`, with the images of the largest groups and of label conflicts."""
    index = {path: number for number, path in enumerate(dataset.paths)}
    shown = [(f"group of {len(group)}", group.tolist()) for group in largest]
    clashing = [
        (", ".join(sorted({dataset.classes[dataset.labels[index[path]]] for path in paths})), [index[p] for p in paths])
        for paths in found["label_conflicts"][:12]
    ]
    crossing = [f"{path} shares a source with {other}" for path, other in found["crossing"]]
    body = [
        f"<h1>{html.escape(str(dataset.root))}</h1>",
        f"<p>{found['images']} images, {found['groups']} groups ({html.escape(found['groups_from'])}).</p>",
        *([f'<p class="warn">{html.escape(found["leak_note"])}</p>'] if found["leak_note"] else []),
        *([f'<p class="warn">{SUSPECT}</p>'] if found["suspect"] else []),
        _lines(found["account"]),
        *(f"<h2>{title}</h2>{table(head, rows)}" for title, head, rows in tables(found)),
        *([f"<h2>Unreadable files left out</h2>{_lines(found['unreadable'])}"] if found["unreadable"] else []),
        *([f"<h2>Leaks across the parts</h2>{_lines(crossing)}"] if crossing else []),
        "<h2>Largest groups</h2>",
        *(_strip(dataset, name, images) for name, images in shown),
        "<h2>Groups with several classes</h2>",
        *(_strip(dataset, name, images) for name, images in clashing),
        "" if clashing else "<p>None.</p>",
        *_near_the_decision(dataset),
    ]
    return document("data audit", "".join(body))


def _near_the_decision(dataset: ImageSet) -> list[str]:
    """The pairs that were only just joined, and those that were only just not."""
    if not dataset.close:
        return []
    shown = ["<h2>Pairs at the edge of the decision</h2>"]
    for joined, title in ((True, "joined"), (False, "kept apart")):
        pairs = [pair for pair in dataset.close if pair.joined == joined]
        shown += [f"<h3>{title}</h3>"] if pairs else []
        shown += [_strip(dataset, f"likeness {pair.likeness:.2f}", [pair.one, pair.other]) for pair in pairs]
    return shown


def _lines(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines[:MOST_LINES])}</ul>" + (
        f"<p>and {len(lines) - MOST_LINES} more</p>" if len(lines) > MOST_LINES else ""
    )


SUSPECT = (
    "The largest group is suspiciously large. A stamp, frame or scale bar that stands on many images can join them; "
    "look at its thumbnails, and give the groups yourself if they are wrong."
)

Table = tuple[str, tuple[str, ...], list[tuple[object, ...]]]


def tables(found: dict[str, Any]) -> list[Table]:
    """The audit's tables as (title, head, rows), for the shell and the page."""
    first = next(iter(found["classes"].values()))
    leaks, scores = found["held_out_with_sibling"], found["baselines"]
    facts: list[tuple[object, ...]] = [
        ("largest class / smallest class", found["imbalance"]),
        ("image sizes", ", ".join(f"{size}: {count}" for size, count in found["pixels"].items())),
        ("unreadable files left out", len(found["unreadable"])),
        ("sets of identical files", len(found["exact_duplicates"])),
        ("near-duplicate pairs", found["near_duplicate_pairs"]),
        *([("held-out images with a source in another part", len(found["crossing"]))] if found["parts_from"] else []),
        ("groups with several classes", len(found["label_conflicts"])),
        ("groups", found["groups"]),
        ("images in the largest group", found["largest_group"]),
    ]
    ours = "grouped" if found["parts_from"] is None else f"as it came: {found['parts_from']}"
    splits: list[tuple[object, ...]] = [
        (
            name if name == "random" else ours,
            percent(leaks[name]["by_groups"]),
            _told(leaks[name]["by_second_detector"]),
            percent(scores[name]["majority"]),
            percent(scores[name]["trees"]),
        )
        for name in leaks
    ]
    return [
        (
            "Classes and parts",
            ("class", *first),
            [(name, *counts.values()) for name, counts in found["classes"].items()],
        ),
        ("Facts", ("what", "value"), facts),
        (
            "What a score is worth: held-out images with a copy in training, and accuracy without any network",
            ("split", "copies (by groups)", "copies (second detector)", "majority class", "trees on histograms"),
            splits,
        ),
    ]


def _told(share: float | None) -> str:
    return "cannot tell: all look alike" if share is None else percent(share)


def _strip(dataset: ImageSet, name: str, images: list[int]) -> str:
    """A row of thumbnails."""
    pictures = "".join(
        f'<img src="{picture(dataset.images[i], "JPEG", THUMB)}" title="{html.escape(dataset.paths[i])}"> '
        for i in images[:12]
    )
    return f"<p>{html.escape(name)}<br>{pictures}</p>"
