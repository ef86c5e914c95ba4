"""`study data`: look at a folder of images before anything is trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.public import FETCHED
from study.cli.console import err, print_csv, print_table
from study.cli.options import AsCsv, AsJson, CsvSafe, Groups, LabelsFrom, SkipBad, group

if TYPE_CHECKING:
    from data.datasets import ImageSet
    from data.splits import Parts

app = group("Look at a folder of images, divide it, or fetch a known dataset.")

CACHE = Path("runs/cache")
IMAGE_SIZE = 128

Folder = Annotated[
    str, typer.Argument(metavar="DIR|CSV", help="A folder of class folders, a CSV list, digits, or tissue.")
]
PartsOption = Annotated[
    str | None,
    typer.Option("--parts", help="CSV file (path, part), or none; else what folder or list say, if anything."),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the parts; a study's own is 0 unless set.")]


def _load(
    folder: str, groups: str | None, parts: str | None, labels_from: str, seed: int, skip_bad: bool
) -> tuple[ImageSet, Parts]:
    from data.datasets import load, proposal
    from data.public import known
    from data.splits import crossing, divide
    from study.cli.display import show

    with show(err) as display:
        dataset = load(
            folder,
            IMAGE_SIZE,
            CACHE,
            groups=groups,
            parts=parts,
            labels_from=labels_from,
            skip_bad=skip_bad,
            progress=display.images,
        )
    if recognised := known.recognise(dataset.classes):
        spec = recognised[1]
        err.print(
            f"{spec.title}: {len(dataset.labels):,} of {spec.images:,} images; licence: {spec.licence}", markup=False
        )
        err.print(f"cite: {spec.citation}\nmind: {spec.leak}", markup=False)
    if pairs := crossing(dataset):
        one, other = pairs[0]
        err.print(
            f"leak: {len(pairs)} held-out images share a source with another part, for example {one} with {other}",
            markup=False,
        )
    divided = divide(dataset, seed, allow_leaks=bool(pairs))
    if seen := proposal(dataset):
        err.print(seen.line(study=False), markup=False, highlight=False, soft_wrap=True)
    return dataset, divided


@app.command(epilog="Example: study data audit my_images --html audit.html")
def audit(
    folder: Folder,
    groups: Groups = None,
    parts: PartsOption = None,
    labels_from: LabelsFrom = "first",
    seed: Seed = 0,
    as_json: AsJson = False,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page with thumbnails here.")] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Counts, copies, leaks across the split, and what a score without any network would be."""
    from data.audit import audit as examine  # OpenCV and scikit-learn take seconds to import
    from data.audit import largest_groups
    from study.cli.display import show
    from study.result.audit_page import SUSPECT, audit_page, tables

    dataset, divided = _load(folder, groups, parts, labels_from, seed, skip_bad)
    with err.status("judging the splits") if err.is_terminal else show(err):
        found = examine(dataset, divided, seed)
    if page:
        page.write_text(audit_page(dataset, found, largest_groups(dataset, 8)), encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for title, head, rows in tables(found):
        print_table(head, rows, title)
    err.print(f"groups: {found['groups_from']}", markup=False)
    if found["suspect"]:
        err.print(SUSPECT, markup=False)


@app.command(epilog="Example: study data split my_images --csv > split.csv")
def split(
    folder: Folder,
    groups: Groups = None,
    parts: PartsOption = None,
    labels_from: LabelsFrom = "first",
    seed: Seed = 0,
    as_csv: AsCsv = False,
    csv_safe: CsvSafe = False,
    skip_bad: SkipBad = False,
) -> None:
    """The parts that a study of this folder and seed uses; as CSV: path, label, group and part of every image."""
    from data.audit import part_counts, split_rows

    dataset, divided = _load(folder, groups, parts, labels_from, seed, skip_bad)
    if as_csv or csv_safe:
        print_csv(("path", "label", "group", "part"), split_rows(dataset, divided), safe=csv_safe)
        return
    counts = {name: part_counts(dataset, divided, label) for label, name in enumerate(dataset.classes)}
    print_table(("class", *next(iter(counts.values()))), [(name, *row.values()) for name, row in counts.items()])
    err.print(f"groups: {dataset.groups_from}; split {divided.hash[:12]}", markup=False)


@app.command(epilog="Example: study data bad my_images --csv > bad.csv")
def bad(folder: Folder, labels_from: LabelsFrom = "first", as_csv: AsCsv = False, csv_safe: CsvSafe = False) -> None:
    """The files that cannot be read as images, and why."""
    from data.datasets import unreadable
    from study.cli.display import show

    with show(err) as display:
        found = unreadable(folder, IMAGE_SIZE, CACHE, display.images, labels_from=labels_from)
    if as_csv or csv_safe:
        print_csv(("path", "why"), list(found.items()), safe=csv_safe)
        return
    print_table(("path", "why"), list(found.items()))
    err.print(f"{len(found)} files cannot be read", markup=False)


@app.command(epilog="Example: study data fetch fashion-mnist   (then: study run --data fashion-mnist)")
def fetch(name: Annotated[str, typer.Argument(help=f"One of: {', '.join(FETCHED)}")]) -> None:
    """Download a known dataset into runs/cache; nothing else ever downloads."""
    from data.public import known

    folder = known.fetch(name, CACHE)
    sys.stdout.write(f"{folder}\n")
