"""`study predict` and `study evaluate`: a saved model on images."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from data import counted
from data.slides import ENDINGS
from study import StudyError
from study.cli.console import err, one_line, print_csv, print_table
from study.cli.found import model_at
from study.cli.options import (
    AsCsv,
    AsJson,
    CsvSafe,
    Groups,
    LabelsFrom,
    MaxMegapixels,
    OneDevice,
    Only,
    SkipBad,
    Without,
    choose_device,
)
from study.storage.names import CACHE

if TYPE_CHECKING:
    from models.bundle.card import Card
    from models.scores.evaluation import Scores
    from study.use.evaluate import Evaluation, TrainingOverlap
    from study.use.predict import Row

app = typer.Typer()


Model = Annotated[Path, typer.Argument(help="A model folder, a study's name, or a .pth in the reference's layout.")]


@app.command(epilog="Example: study predict runs/quick-digits/model photos/ --csv > predictions.csv")
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and folders; - reads names on stdin.")],
    as_json: AsJson = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="A line of JSON for each image, as they come.")] = False,
    as_csv: AsCsv = False,
    csv_safe: CsvSafe = False,
    top: Annotated[
        int | None, typer.Option(min=1, help="Show only this many classes, the most probable first.")
    ] = None,
    explain: Annotated[Path | None, typer.Option(metavar="DIR", help="Write Grad-CAM overlays here.")] = None,
    set_level: Annotated[
        float | None, typer.Option(metavar="ALPHA", help="Error level of prediction sets; 0.1 where the model has it.")
    ] = None,
    device: OneDevice = "auto",
    skip_bad: SkipBad = False,
    max_megapixels: MaxMegapixels = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The files are whole slides: write a map of each here.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(min=0.01, max=100, help="Slides: micrometres of a pixel, where a slide says none.")
    ] = None,
    um: Annotated[
        float | None, typer.Option(min=1, max=100_000, help="Slides: micrometres that an image of the training shows.")
    ] = None,
) -> None:
    """Class and probabilities of each image. A file that cannot be read has an error in its row: exit code 1.

    For whole slides it writes maps: a table of tiles, a picture and outlines.
    """
    from models.bundle.folder import load
    from study.cli.display import show
    from study.use.predict import find_images, predict_files, refused_sets, threshold_of, unlike_training

    as_csv = as_csv or csv_safe
    if out_folder is not None:
        from study.cli.slides import predict_slides

        refused = {"--jsonl": as_jsonl, "--csv": as_csv, "--top": top, "--explain": explain, "--skip-bad": skip_bad}
        if given := [name for name, value in refused.items() if value]:
            raise StudyError(f"{given[0]} is not for slides: with --out their tables are files in that folder")
        predict_slides(model_at(model), images, out_folder, mpp, um, set_level, choose_device(device), as_json=as_json)
        return
    if mpp is not None or um is not None:
        raise StudyError("--mpp and --um are for slides (name a folder for their maps: --out DIR)")
    if slides := [one for one in images if one.suffix.lower() in ENDINGS]:
        raise StudyError(f"{slides[0]} is a whole slide: name a folder for its map (--out DIR)")
    if as_json + as_jsonl + as_csv > 1:
        raise StudyError("--json, --jsonl and --csv exclude each other")
    if isinstance(sys.stdin, io.TextIOWrapper):  # names of files need not be UTF-8
        sys.stdin.reconfigure(errors="surrogateescape")
    bundle = replace(load(model_at(model)), allowed=max_megapixels).to(choose_device(device))
    conformal = bundle.card.conformal if bundle.card else None
    threshold = threshold_of(conformal, set_level)
    files = find_images(images, lambda: sys.stdin)
    if warning := unlike_training(bundle, files):
        err.print(warning, markup=False, soft_wrap=True)
    bad = 0

    def followed() -> Iterator[Row]:
        nonlocal bad
        for number, row in enumerate(predict_files(bundle, files, threshold=threshold, explain=explain), 1):
            display.images("predicting", number, len(files))
            bad += "error" in row
            if "error" in row and skip_bad:
                err.print(one_line(f"left out {row['path']}: {row['error']}"), markup=False, soft_wrap=True)
            else:
                yield _shortened(row, top)

    out = sys.stdout  # while the progress is shown, rich replaces sys.stdout
    with show(err, quiet=out.isatty()) as display:
        rows = followed()
        if as_json:
            _write_json(rows, out)
        elif as_jsonl:
            for row in rows:
                out.write(json.dumps(row) + "\n")
                out.flush()
        elif as_csv:
            best = range(1, min(top or 0, len(bundle.classes)) + 1)
            shown = [f"{what}_{place}" for place in best for what in ("label", "probability")]
            shown = shown or list(map(_column, bundle.classes))
            sets = ["set", "abstain"] if threshold is not None else []
            cells = (_cells(row, len(shown), bool(top), bool(sets)) for row in rows)
            print_csv(["path", "label", *shown, *sets, "error"], cells, safe=csv_safe, to=out)
        else:
            table = list(rows)
    if not (as_json or as_jsonl or as_csv):
        _show_table(table, top, None if threshold is None else set_level or 0.1)
        if threshold is None and (why := refused_sets(conformal)):
            err.print(why, markup=False, soft_wrap=True)
    if bad and not skip_bad:
        why = "its row says why" if bad == 1 else "their rows say why"
        err.print(f"{bad} of {counted(len(files), 'file')} could not be read ({why})", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _column(name: str) -> str:
    """Return the column name of a class, marked if it equals the name of a column that every row has."""
    return f"{name} (class)" if name in ("path", "label", "set", "abstain", "error") else name


def _shortened(row: Row, top: int | None) -> Row:
    """Return the row with only its `top` most probable classes; with all of them if `top` is None."""
    if top is None or "error" in row:
        return row
    best = sorted(row["probabilities"].items(), key=lambda pair: -pair[1])[:top]
    return {**row, "probabilities": dict(best)}


def _write_json(rows: Iterator[Row], out: IO[str]) -> None:
    """Write a list with one line for each row, as the rows come."""
    before = "[\n"
    for row in rows:
        out.write(before + json.dumps(row))
        before = ",\n"
    out.write("[]\n" if before == "[\n" else "\n]\n")


def _cells(row: Row, count: int, ranked: bool, sets: bool) -> list[str]:
    """Return a line of the CSV: `count` cells of probabilities, with the names before them if they are ranked."""
    pairs = row.get("probabilities", {})
    if ranked:
        cells = [cell for name, value in pairs.items() for cell in (name, f"{value:.6f}")]
    else:
        cells = [f"{value:.6f}" for value in pairs.values()]
    cells = cells or [""] * count
    if sets:
        cells += ["|".join(row.get("set", [])), str(row.get("abstain", "")).lower()]
    return [row["path"], row.get("label", ""), *cells, row.get("error", "")]


def _show_table(rows: list[Row], top: int | None, sets: float | None) -> None:
    """Print a table of the rows; `sets`: error level of the prediction sets, None where there are none."""
    from models.bundle.card import percent

    lines = []
    for row in rows:
        if "error" in row:
            lines.append((one_line(row["path"]), "", one_line(row["error"]), *([""] if sets else [])))
            continue
        pairs = row["probabilities"]
        shown = one_line(", ".join(f"{name} {percent(value)}" for name, value in pairs.items()))
        value = shown if top else percent(pairs[row["label"]])
        inside = "{" + one_line(", ".join(row.get("set", []))) + "}" + (" abstains" if row.get("abstain") else "")
        lines.append((one_line(row["path"]), one_line(row["label"]), value, *([inside] if sets else [])))
    print_table(("path", "label", "probability", *([f"prediction set ({percent(1 - sets)})"] if sets else [])), lines)


@app.command(epilog="Example: study evaluate runs/quick-digits/model other_centre/")
def evaluate(
    model: Model,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of class folders.")],
    groups: Groups = None,
    labels_from: LabelsFrom = "first",
    without: Without = None,
    only: Only = None,
    as_json: AsJson = False,
    device: OneDevice = "auto",
    skip_bad: SkipBad = False,
    max_megapixels: MaxMegapixels = None,
) -> None:
    """Score a model on another labelled folder, as the study scored it on its own."""
    from models.bundle.folder import load
    from study.cli.display import show
    from study.use.evaluate import evaluate as score_folder

    model = model_at(model)
    bundle = replace(load(model), allowed=max_megapixels).to(choose_device(device))
    with show(err) as display:
        found = score_folder(
            bundle,
            folder,
            CACHE,
            home=model,
            groups=groups,
            labels_from=labels_from,
            without=without or (),
            only=only,
            skip_bad=skip_bad,
            progress=display.images,
        )
    for line in found.warnings:
        err.print(line, markup=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps(asdict(found), indent=2) + "\n")
        return
    if found.scores:
        _show_scores(found, found.scores, bundle.card)


def _show_scores(found: Evaluation, scores: Scores, card: Card | None) -> None:
    from models.bundle.card import percent
    from models.bundle.readable import SHOWN
    from models.bundle.verdict import score_of

    low, high = scores.accuracy_interval
    rows = [
        ("accuracy", f"{percent(scores.accuracy)}, 95 % interval {percent(low)} to {percent(high)}"),
        ("on", f"{counted(scores.images, 'image')} of {counted(scores.groups, 'group')}"),
        *([("left out as trained on", _of_seen(found.seen))] if found.seen else []),
        ("most frequent class", percent(scores.majority)),
        ("balanced accuracy", percent(scores.balanced_accuracy)),
        ("macro F1", f"{scores.macro_f1:.3f}"),
        ("negative log likelihood", f"{scores.nll:.3f}"),
    ]
    if card and card.test:
        rows.append((f"{card.score_name} in its study", percent(score_of(card, card.test)[0])))
    print_table(("score", "value"), rows)
    there = [(name, counts) for name, counts in zip(found.classes, scores.confusion, strict=True) if sum(counts)]
    lines = []
    for name, counts in there:
        row = scores.of_class(name)
        lines.append((one_line(name), *(f"{row[key]:.3f}" for key in SHOWN), sum(counts)))
    print_table(("class", "precision", "recall", "F1", "images"), lines)
    print_table(("true \\ predicted", *found.classes), [(one_line(name), *counts) for name, counts in there])
    err.print(f"groups: {found.groups_from}", markup=False, highlight=False, soft_wrap=True)


def _of_seen(seen: TrainingOverlap) -> str:
    """Say how many images were left out because they were trained on: by content, and by pixels, or why not so."""
    near = seen.unknown if seen.by_pixels is None else f"{seen.by_pixels} more by nearly the same pixels"
    return f"{seen.by_content} of {seen.images} by content; {near}"
