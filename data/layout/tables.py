"""Reading lists of images as tables: CSV with a header, or one line of JSON per image."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data import DataError
from data.images import read_text
from data.layout.names import normal, refuse_alike

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
"""What may stand between the cells of a CSV file, in words; the first that the header has is taken. Spreadsheets write
semicolons in countries whose numbers have a comma."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: each row maps the normalised names of the columns to cells; a missing cell is None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str | None]], ...]  # (number of the line, cells) of each row


def read_table(file: Path) -> Table:
    """Read a list: JSON lines if its name ends in .jsonl, else CSV. Raises DataError for a broken one, and OSError."""
    try:
        text = read_text(file)
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read the list {file}: {error} (save it as UTF-8)") from error
    return _of_json(file, text) if file.suffix.lower() == ".jsonl" else _of_csv(file, text)


def _of_csv(file: Path, text: str) -> Table:
    first = text.partition("\n")[0]
    delimiter = next((one for one in DELIMITERS if one in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = []
    try:
        columns = _columns(file, next(reader, []))
        for cells in reader:
            if len(cells) > len(columns):
                raise DataError(
                    f"{file}, line {reader.line_num}: {len(cells)} cells, and the header names {len(columns)} columns "
                    f'(put a cell that holds {DELIMITERS[delimiter]} into quotes: "a{delimiter} b")'
                )
            if cells:
                whole = [*cells, *[None] * (len(columns) - len(cells))]
                rows.append((reader.line_num, dict(zip(columns, whole, strict=True))))
    except csv.Error as error:
        raise DataError(f"cannot read the list {file}: {error}") from error
    if _never_closed(text, delimiter):
        raise DataError(f'cannot read the list {file}: a quote is opened and never closed (write it twice: "")')
    return Table(columns=columns, rows=tuple(rows))


def _never_closed(text: str, delimiter: str) -> bool:
    """Return whether a quote is opened that hides all lines after it."""
    try:
        for _ in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            pass
    except csv.Error as error:
        return "unexpected end" in str(error)  # other things are read as people mean them
    return False


def _columns(file: Path, header: list[str]) -> tuple[str, ...]:
    columns = tuple(map(normal, header))
    if twice := [name for name, count in Counter(columns).items() if count > 1 and name]:
        raise DataError(f"{file} has two columns named {twice[0]} (rename one, or remove it)")
    refuse_alike(columns, "columns", file)
    return columns


def _of_json(file: Path, text: str) -> Table:
    rows = list(_objects(file, text))
    names = dict.fromkeys(name for _, cells in rows for name in cells)
    refuse_alike(names, "columns", file)
    return Table(columns=tuple(names), rows=tuple(rows))


def _objects(file: Path, text: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: not JSON ({error})") from error
        if not isinstance(found, dict):
            raise DataError(f'{file}, line {number}: no object (such as {{"file_name": "1.png", "label": "a"}})')
        yield number, {normal(name): _cell(value) for name, value in found.items()}


def _cell(value: object) -> str | None:
    """Return a JSON value as a cell; a value that is no text (a number, boxes, points) is kept as JSON text."""
    return value if isinstance(value, str) or value is None else json.dumps(value, ensure_ascii=False)
