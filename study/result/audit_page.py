"""A data audit as one offline HTML page with thumbnails."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data import counted
from data.datasets import ImageSet
from data.findings import count_label_conflicts, group_warnings, odd
from data.splits import SHARES
from data.suspicions import BLACK
from models.bundle.card import percent
from study.result.html import document, facts, folded, pictures, table, thumbnail

if TYPE_CHECKING:
    from data.audit import AuditFindings  # the module imports OpenCV and scikit-learn

MOST_LINES, MOST_PICTURES, MOST_STRIPS = 200, 12, 12
"""Largest number of lines of a list, of pictures in a strip, and of strips of a kind."""
SMALL = 0.1
"""Share of the largest class's images below which a class counts as small."""
LEAKY = 0.05
"""Share of held-out images with a copy in training above which a split makes a score too good."""

Finding = tuple[str, str]
"""Sentence, and the anchor of the section that shows it."""

Table = tuple[str, tuple[str, ...], list[tuple[object, ...]]]
"""Title, head and rows of a table."""


def audit_page(dataset: ImageSet, found: AuditFindings, largest: list[NDArray[np.int64]]) -> str:
    """Return a page of the audit `found`, with the images of the largest groups and of label conflicts."""
    index = {path: number for number, path in enumerate(dataset.paths)}
    copies = [(f"{len(paths)} identical files", [index[path] for path in paths]) for paths in _copies(found)]
    clashing = [(f"group of {len(paths)}", [index[path] for path in paths]) for paths in found["label_conflicts"]]
    crossing = [f"{path} shares a source with {other}" for path, other in found["crossing"]]
    groups = [(f"group of {len(group)}", group.tolist()) for group in largest if len(group) > 1]
    classes, about, splits = tables(found)
    first = [
        ("conflicts", "Groups with several classes", _strips(dataset, clashing)),
        ("copies", "Identical files", _strips(dataset, copies)),
        ("leaks", "Leaks across the parts", _lines(crossing)),
        ("unreadable", "Files left out as unreadable", _lines(found["unreadable"])),
        ("classes", *_titled(classes)),
        ("splits", *_titled(splits)),
    ]
    rest = [
        ("facts", *_titled(about)),
        ("account", "What was found in the folder", _lines(found["account"])),
        ("largest", "Largest groups", _strips(dataset, groups)),
        ("edge", "Pairs at the edge of the decision", _near_the_decision(dataset)),
    ]
    body = [
        f"<h1>{html.escape(str(dataset.root))}</h1>",
        f"<p>{counted(found['images'], 'image')} in {counted(len(dataset.classes), 'class', 'classes')}, "
        f"{counted(found['groups'], 'group')}.</p>",
        _found(findings(dataset, found)),
        _worth(found),
        f'<p class="note">Groups: {html.escape(found["groups_from"])}.</p>',
        *(f'<h2 id="{anchor}">{title}</h2>{content}' for anchor, title, content in first if content),
        *(folded(anchor, title, content) for anchor, title, content in rest if content),
    ]
    return document("data audit", "".join(body))


def _titled(shown: Table) -> tuple[str, str]:
    """Return a table's title up to its colon, and the table as HTML below a note with the rest of the title."""
    title, head, rows = shown
    title, _, more = title.partition(": ")
    note = f'<p class="note">{more[0].upper()}{more[1:]}.</p>' if more else ""
    two = len(head) == 2
    return title, note + (facts([(str(name), value) for name, value in rows]) if two else table(head, rows))


def findings(dataset: ImageSet, found: AuditFindings) -> list[Finding]:
    """Return what is odd about the folder, as one sentence each."""
    said = [*_labels(dataset, found), *_files(dataset, found), *_classes(found)]
    if found["crossing"]:
        said.append(
            (
                f"{counted(len(found['crossing']), 'image')} of the held-out parts have a source in another part.",
                "leaks",
            )
        )
    said += [(line, "largest") for line in group_warnings(dataset) if dataset.told]
    if found["suspect"]:
        said.append((SUSPECT, "largest"))
    if not dataset.told:
        said.append(
            (
                "It is not known which images share a source: random images here are as alike as copies would be.",
                "splits",
            )
        )
    said += [(f"{found['leak_note']}", "splits")] if found["leak_note"] else []
    shares = found["held_out_with_sibling"]["random"]
    if (leak := max(shares["by_groups"], shares["by_second_detector"] or 0.0)) > LEAKY:
        said.append((f"Divided at random, {percent(leak)} of the held-out images have a copy in training.", "splits"))
    said += [(one.line(study=False), "classes") for one in odd(dataset) if one.fields]
    return [(f"{sentence[0].upper()}{sentence[1:]}", anchor) for sentence, anchor in said]


def _labels(dataset: ImageSet, found: AuditFindings) -> list[Finding]:
    said: list[Finding] = []
    if count := len(found["label_conflicts"]):
        if dataset.groups_by == "pixels":
            words = "group contradicts its labels", "groups contradict their labels"
            said.append((f"{counted(count, *words)}: images of one source, in several classes.", "conflicts"))
        else:
            words = "group has", "groups have"
            said.append((f"{counted(count, *words)} images of several classes.", "conflicts"))
    if count := count_label_conflicts(dataset):
        words = "image is identical to one", "images are identical to some"
        said.append((f"{counted(count, *words)} of another class: a label is wrong.", "copies"))
    return said


def _files(dataset: ImageSet, found: AuditFindings) -> list[Finding]:
    said: list[Finding] = []
    if sets := _copies(found):
        black = int(dataset.images[dataset.paths.index(sets[0][0])].max()) <= BLACK
        alike = "identical black" if black else "identical"
        if black or len(sets) == 1:
            said.append((f"{len(sets[0]):,} images are {alike}.", "copies"))
        if len(sets) > 1:
            extra = sum(len(paths) - 1 for paths in sets)
            words = "image repeats", "images repeat"
            said.append((f"{counted(extra, *words)} another file ({len(sets):,} sets of identical files).", "copies"))
    if count := len(found["unreadable"]):
        said.append((f"{counted(count, 'image is', 'images are')} left out as unreadable.", "unreadable"))
    return said


def _classes(found: AuditFindings) -> list[Finding]:
    """Return findings on classes that are too small to be divided, or small beside the largest class."""
    most = max(counts["images"] for counts in found["classes"].values())
    said: list[Finding] = []
    for name, counts in found["classes"].items():
        has = f"{counted(counts['images'], 'image')} of {counted(counts['sources'], 'source')}"
        if counts["sources"] < len(SHARES) and not found["parts_from"]:
            said.append((f"class {name} is too small: {has}, and a study needs {len(SHARES)} sources.", "classes"))
        elif counts["images"] < SMALL * most:
            said.append((f"class {name} is small: {has}, where the largest class has {most:,} images.", "classes"))
    return said


def _copies(found: AuditFindings) -> list[list[str]]:
    """Return the sets of identical files, the largest first."""
    return sorted(found["exact_duplicates"], key=len, reverse=True)


def _found(said: list[Finding]) -> str:
    """Return the findings as HTML, each with a link to its section."""
    if not said:
        return '<div class="verdict better"><p class="word">Nothing odd was found.</p></div>'
    shown = "".join(
        f'<li>{html.escape(sentence)} <a href="#{anchor}">look</a></li>' for sentence, anchor in said[:MOST_LINES]
    )
    head = f'<p class="word">{counted(len(said), "thing")} to look at before a study</p>'
    return f'<div class="verdict worse">{head}<ul class="findings">{shown}</ul></div>'


def _worth(found: AuditFindings) -> str:
    """Return the accuracies without a network as HTML; a network must beat them."""
    scores = found["baselines"].get("grouped") or found["baselines"]["random"]
    return (
        f"<p>Without a network, trees on colours and edges name {percent(scores['trees'])} of held-out images rightly, "
        f'and always the most frequent class {percent(scores["majority"])} (<a href="#splits">more</a>).</p>'
    )


def _near_the_decision(dataset: ImageSet) -> str:
    """Return the pairs of images that were narrowly joined into a group, or narrowly kept apart, as HTML."""
    shown = []
    for joined, title in ((True, "joined"), (False, "kept apart")):
        pairs = [pair for pair in dataset.close if pair.joined == joined]
        strips = [_strip(dataset, f"likeness {pair.likeness:.2f}", [pair.one, pair.other], "small") for pair in pairs]
        shown += (
            [f'<h3>{title}</h3><div class="pairs">{"".join(map("<div>{}</div>".format, strips))}</div>']
            if pairs
            else []
        )
    return "".join(shown)


def _lines(lines: list[str]) -> str:
    if not lines:
        return ""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines[:MOST_LINES])}</ul>" + (
        f"<p>and {len(lines) - MOST_LINES} more</p>" if len(lines) > MOST_LINES else ""
    )


SUSPECT = (
    "The largest group is suspiciously large. A stamp, frame or scale bar that stands on many images can join them; "
    "look at its thumbnails, and give the groups yourself if they are wrong."
)


def _sizes(found: AuditFindings) -> str:
    """Return the most frequent sizes with their counts, and how many images have others."""
    pixels: dict[str, int] = found["pixels"]
    images: int = found["images"]
    others = images - sum(pixels.values())
    return ", ".join(f"{size}: {count}" for size, count in pixels.items()) + (f", others: {others}" if others else "")


def tables(found: AuditFindings) -> list[Table]:
    """Return the audit's tables as (title, head, rows), for the shell and the page."""
    first = next(iter(found["classes"].values()))
    leaks, scores = found["held_out_with_sibling"], found["baselines"]
    facts: list[tuple[object, ...]] = [
        ("largest class / smallest class", found["imbalance"]),
        ("image sizes", _sizes(found)),
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
            found["held_out"][name],
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
            (
                "split",
                "held out",
                "copies (by groups)",
                "copies (second detector)",
                "majority class",
                "trees on histograms",
            ),
            splits,
        ),
    ]


NAMED = 5
"""Largest number of groups, and of files of a group, that are named in the shell."""


def clashes(found: AuditFindings) -> Table | None:
    """Return a table that names the first groups with several classes, for the shell; None if there are none."""
    groups: list[list[str]] = found["label_conflicts"]
    rows: list[tuple[object, ...]] = [
        (", ".join(paths[:NAMED]) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""),)
        for paths in groups[:NAMED]
    ]
    more = f" (the first {NAMED} of {len(groups)}; --json lists all)" if len(groups) > NAMED else ""
    return (f"Groups with several classes{more}", ("images",), rows) if rows else None


def _told(share: float | None) -> str:
    return "cannot tell: all look alike" if share is None else percent(share)


def _strips(dataset: ImageSet, shown: list[tuple[str, list[int]]]) -> str:
    """Return strips of thumbnails, no more than MOST_STRIPS of them."""
    rest = len(shown) - MOST_STRIPS
    more = f"<p>and {rest:,} more (study data audit --json lists all)</p>" if rest > 0 else ""
    return "".join(_strip(dataset, name, images) for name, images in shown[:MOST_STRIPS]) + more


def _strip(dataset: ImageSet, name: str, images: list[int], kind: str = "") -> str:
    """Return a row of thumbnails, with the class and the file name under each."""
    shown = [
        (thumbnail(np.asarray(dataset.images[i])), dataset.classes[dataset.labels[i]], dataset.paths[i])
        for i in images[:MOST_PICTURES]
    ]
    more = f", the first {MOST_PICTURES}" if len(images) > MOST_PICTURES else ""
    return f'<p class="note">{html.escape(name)}{more}:</p>{pictures(shown, kind)}'
