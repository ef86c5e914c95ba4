"""`study data`: look at a folder of images before anything is trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data import DataError, counted
from data.public import FETCHED
from study.cli.console import err, print_csv, print_table
from study.cli.options import (
    AsCsv,
    AsJson,
    CsvSafe,
    Groups,
    LabelsFrom,
    MaxMegapixels,
    Only,
    SkipBad,
    Storage,
    Without,
    group,
)
from study.storage.names import CACHE, DEFAULT_URL

if TYPE_CHECKING:
    from data.datasets import ImageSet
    from data.splits import Parts

app = group("Look at a folder of images, divide it, or fetch a known dataset.")

IMAGE_SIZE = 128

Folder = Annotated[
    str, typer.Argument(metavar="DIR|CSV", help="A folder of class folders, a CSV list, digits, or tissue.")
]
PartsOption = Annotated[
    str | None,
    typer.Option("--parts", help="CSV file (path, part), or none; else what folder or list say, if anything."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the split; a study's own is 0 unless set.")]


def _load(
    folder: str,
    groups: str | None,
    parts: str | None,
    labels_from: str,
    without: list[str] | None,
    only: str | None,
    skip_bad: bool,
    max_megapixels: float | None,
) -> ImageSet:
    """Load the images, and print the first messages about them."""
    from data.datasets import load
    from data.findings import odd, proposal
    from data.images import MOST_MEGAPIXELS, source_size
    from data.public import known
    from study.cli.display import show

    with show(err) as display:
        dataset = load(
            folder,
            IMAGE_SIZE,
            CACHE,
            groups=groups,
            parts=parts,
            labels_from=labels_from,
            without=without or (),
            only=only,
            skip_bad=skip_bad,
            max_megapixels=max_megapixels or MOST_MEGAPIXELS,
            progress=display.images,
        )
    _say(*dataset.account, *(one.line(study=False) for one in odd(dataset)))
    size = source_size([dataset.root / path for path in dataset.paths])
    if recognised := known.recognise(dataset.classes, len(dataset.paths), size):
        spec = recognised[1]
        _say(f"{spec.title}: {len(dataset.labels):,} of {spec.images:,} images; licence: {spec.licence}")
        _say(f"cite: {spec.citation}", f"mind: {spec.leak}")
    if seen := proposal(dataset):
        _say(seen.line(study=False))
    return dataset


def _say(*lines: str) -> None:
    for line in lines:
        err.print(line, markup=False, highlight=False, soft_wrap=True)


def _divided(dataset: ImageSet, seed: int) -> Parts:
    from data.splits import crossing, divide

    if pairs := crossing(dataset):
        one, other = pairs[0]
        _say(
            f"leak: {counted(len(pairs), 'held-out image shares', 'held-out images share')} a source with another "
            f"part, for example {one} with {other}"
        )
    return divide(dataset, seed, allow_leaks=bool(pairs))


@app.command(epilog="Example: study data audit my_images --html audit.html")
def audit(
    folder: Folder,
    groups: Groups = None,
    parts: PartsOption = None,
    labels_from: LabelsFrom = "first",
    without: Without = None,
    only: Only = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page with thumbnails here.")] = None,
    skip_bad: SkipBad = False,
    max_megapixels: MaxMegapixels = None,
) -> None:
    """Counts, copies, leaks across the split, and what a score without any network would be."""
    from data.audit import audit as examine  # OpenCV and scikit-learn take seconds to import
    from data.audit import largest_groups
    from data.findings import group_warnings
    from study.cli.display import show
    from study.result.audit_page import SUSPECT, audit_page, clashes, tables

    dataset, divided = _load(folder, groups, parts, labels_from, without, only, skip_bad, max_megapixels), None
    try:
        divided = _divided(dataset, seed)
    except DataError as error:  # an audit comes before a study, and is shown all the same
        _say(f"a study would be refused: {error}")
    with err.status("judging the splits") if err.is_terminal else show(err):
        found = examine(dataset, divided, seed)
    if page:
        page.write_text(audit_page(dataset, found, largest_groups(dataset, 8)), encoding="utf-8")
        _say(f"the page is {page}")
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    named = clashes(found)
    for title, head, rows in [*tables(found), *([named] if named else [])]:
        print_table(head, rows, title)
    err.print(f"groups: {found['groups_from']}", markup=False)
    for line in [*group_warnings(dataset), *([SUSPECT] if found["suspect"] else [])]:
        err.print(line, markup=False)


@app.command(epilog="Example: study data split my_images --csv > split.csv")
def split(
    folder: Folder,
    groups: Groups = None,
    parts: PartsOption = None,
    labels_from: LabelsFrom = "first",
    without: Without = None,
    only: Only = None,
    seed: Seed = 0,
    as_csv: AsCsv = False,
    csv_safe: CsvSafe = False,
    skip_bad: SkipBad = False,
    max_megapixels: MaxMegapixels = None,
) -> None:
    """The parts that a study of this folder and seed uses; as CSV: path, label, group and part of every image."""
    from data.audit import part_counts, split_rows

    dataset = _load(folder, groups, parts, labels_from, without, only, skip_bad, max_megapixels)
    divided = _divided(dataset, seed)
    if as_csv or csv_safe:
        print_csv(("path", "label", "group", "part"), split_rows(dataset, divided), safe=csv_safe)
        return
    counts = {name: part_counts(dataset, divided, label) for label, name in enumerate(dataset.classes)}
    print_table(("class", *next(iter(counts.values()))), [(name, *row.values()) for name, row in counts.items()])
    err.print(f"groups: {dataset.groups_from}; split {divided.hash[:12]}", markup=False)


@app.command(epilog="Example: study data tiles slides/ --out tiles --um 128   (then: study run --data tiles)")
def tiles(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of whole slides.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder to make.")],
    um: Annotated[float, typer.Option(min=1, max=100_000, help="Side of a tile, in micrometres.")] = 128.0,
    most: Annotated[int, typer.Option(min=1, help="Most tiles of a slide.")] = 500,
    table: Annotated[
        Path | None,
        typer.Option("--table", metavar="CSV", help="Columns slide, class, patient; else slides.csv in DIR, if there."),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(min=0.01, max=100, help="Micrometres of a pixel, where a slide says none.")
    ] = None,
) -> None:
    """Cut whole slides into labelled tiles: by a table, or by QuPath's annotations beside them (SLIDE.geojson)."""
    from data.processes import usable_cpus
    from data.slides.dataset import KEY, cut, find_rows
    from data.slides.readers import readers
    from study.cli.display import show

    with show(err) as display, readers(usable_cpus()) as crew:
        rows = find_rows(folder, table, crew)
        found = cut(rows, out, crew, um=um, most=most, mpp=mpp, progress=display.images)
    lines = []
    for one in found:
        made = ", ".join(f"{name} {count}" for name, count in sorted(one.tiles.items()))
        left = ", ".join(f"{count} {why}" for why, count in one.left_out.items())
        lines.append((one.slide, made, left, one.error))
    print_table(("slide", "tiles", "left out", "error"), lines)
    named = sum(one.patient in one.slide.name for one in rows)
    if named and any(one.patient != one.slide.name for one in rows):
        _say(f"the file names of {counted(named, 'slide')} hold the patient's number: those names are not copied")
    _say(f"names of slides and patients are hashes; their key is in {out / KEY}: keep it to yourself, or remove it")
    if any(one.error for one in found):
        raise typer.Exit(1)


@app.command(epilog="Example: study data bad my_images --csv > bad.csv")
def bad(
    folder: Folder,
    labels_from: LabelsFrom = "first",
    without: Without = None,
    only: Only = None,
    as_csv: AsCsv = False,
    csv_safe: CsvSafe = False,
    max_megapixels: MaxMegapixels = None,
) -> None:
    """The files that cannot be read as images, and why."""
    from data.datasets import unreadable
    from data.images import MOST_MEGAPIXELS
    from study.cli.display import show

    with show(err) as display:
        found = unreadable(
            folder,
            IMAGE_SIZE,
            CACHE,
            display.images,
            labels_from=labels_from,
            without=without or (),
            only=only,
            max_megapixels=max_megapixels or MOST_MEGAPIXELS,
        )
    if as_csv or csv_safe:
        print_csv(("path", "why"), list(found.items()), safe=csv_safe)
        return
    print_table(("path", "why"), list(found.items()))
    err.print(f"{counted(len(found), 'file')} cannot be read", markup=False)


@app.command(epilog="Example: study data fetch fashion-mnist   (then: study run --data fashion-mnist)")
def fetch(name: Annotated[str, typer.Argument(help=f"One of: {', '.join(FETCHED)}")]) -> None:
    """Download a known dataset into runs/cache; nothing else ever downloads."""
    from data.public import known

    folder = known.fetch(name, CACHE)
    sys.stdout.write(f"{folder}\n")


@app.command(epilog="Example: study data clean --dry-run")
def clean(
    storage: Storage = DEFAULT_URL,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
) -> None:
    """Remove from runs/cache what no study of the database needs: decoded images, found groups, leftovers."""
    from study.cli.console import quiet_optuna, size_in_words
    from study.search.unneeded import remove, unneeded
    from study.storage.trouble import storage_trouble

    quiet_optuna()
    with storage_trouble(storage):
        found = unneeded(storage)
    gone = found if dry_run else list(remove(found))
    if gone:
        print_table(("folder", "takes", "what"), [(one.place, size_in_words(one.size), one.what) for one in gone])
    total = size_in_words(sum(one.size for one in gone))
    said = f"{'would remove' if dry_run else 'removed'} {counted(len(gone), 'folder')}, {total}"
    err.print(f"{said}; what studies need stays, and what is less than an hour old", markup=False, soft_wrap=True)
