"""`study sql`: questions to the history, answered as a table, JSON or CSV."""

import itertools
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from data import counted
from study import StudyError
from study.cli.console import err, out, print_csv, print_table
from study.cli.options import AsCsv, AsJson, CsvSafe
from study.history.recipes import RECIPES, SECONDS
from study.storage.names import DEFAULT_URL

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

LONGEST_SECONDS = 1_000_000
SHOWN, WIDEST, LARGEST = 1000, 2000, 1 << 20
"""Largest numbers of rows of a table on the screen, of characters of one cell, and of characters of all cells."""


@app.command(epilog="Example: study sql 'SELECT number, value FROM trials_flat ORDER BY value DESC LIMIT 5'")
def sql(
    query: Annotated[
        str | None, typer.Argument(help="One SELECT, the name of a recipe, or - to read it from stdin.")
    ] = None,
    storage: Annotated[
        str, typer.Option(help="Database of studies: sqlite:///FILE or postgresql+psycopg://...")
    ] = DEFAULT_URL,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    csv_safe: CsvSafe = False,
    schema: Annotated[bool, typer.Option("--schema", help="What columns there are, and what they mean.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Largest number of rows; a table on the screen has {SHOWN} unless told.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which the question is given up.")] = SECONDS,
) -> None:
    """Ask the history of trials in SQL; nothing is ever written. Without a query: a list of recipes."""
    from study.history.query import ask, named
    from study.history.views import COLUMNS, INSTEAD
    from study.storage.trouble import storage_trouble

    as_csv = as_csv or csv_safe
    if not 0 < timeout <= LONGEST_SECONDS:
        raise StudyError(f"--timeout {timeout:g}: seconds from 0.1 to {LONGEST_SECONDS:,}")
    if as_json and as_csv:
        raise StudyError("--json and --csv exclude each other")
    write = _json if as_json else partial(print_csv, safe=csv_safe) if as_csv else _table
    if schema:
        head = ("view", "column", "type", "unit", "meaning")
        write(head, [(view, *vars(one).values()) for view, columns in COLUMNS.items() for one in columns])
        if write is _table:
            err.print("trials_flat has a column for each parameter besides")
    elif query is None:
        if write is not _table:
            write(("recipe", "question", "sql"), [(one.name, one.question, one.sql) for one in RECIPES])
        else:
            out.print(
                "\n\n".join(f"-- {one.name}: {one.question}\n{one.sql};" for one in RECIPES),
                markup=False,
                soft_wrap=True,
            )
            err.print(
                "ask one by its name: study sql best-per-depth          your own: study sql 'SELECT ...'",
                soft_wrap=True,
            )
    else:
        text = sys.stdin.read() if query == "-" else query
        recipes = {recipe.name: recipe.sql for recipe in RECIPES}
        if text.strip() not in recipes and re.fullmatch(r"[\w-]+", text.strip()):
            from study.config.space import nearest

            raise StudyError(f"no recipe {text.strip()!r}{nearest(text.strip(), recipes)} (study sql lists them)")
        text = recipes.get(text.strip(), text)
        with storage_trouble(storage), ask(storage, text, timeout) as answer:
            for table in named(text, INSTEAD):
                err.print(f"{table} is a table of Optuna's own; what reads better: {INSTEAD[table]}", soft_wrap=True)
            if write is _table:
                _table(answer.columns, answer.rows(), limit or SHOWN, "" if limit else "; more with --limit")
            else:
                write(answer.columns, itertools.islice(answer.rows(), limit))


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], most: int = SHOWN, advice: str = "") -> None:
    rows = iter(rows)
    shown: list[tuple[str, ...]] = []
    size, cut = 0, False
    while len(shown) < most and size < LARGEST and (row := next(rows, None)) is not None:
        cut |= any(isinstance(value, str | bytes) and len(value) > WIDEST for value in row)
        shown.append(tuple(_short(value) for value in row))
        size += sum(map(len, shown[-1]))
    print_table(head, shown)
    if cut:
        err.print(f"the first {WIDEST} characters of a cell; all of them with --csv or --json")
    if size >= LARGEST and len(shown) < most and next(rows, None) is not None:
        err.print(
            f"the first {counted(len(shown), 'row, which is', 'rows, which are')} large; "
            "all of them with --csv or --json"
        )
    elif next(rows, None) is not None:
        err.print(f"the first {counted(most, 'row')}; all of them with --csv or --json{advice}")


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value[:WIDEST] if isinstance(value, str | bytes) else value)


def _json(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    between, head = "[", _different(head)
    for row in rows:
        fields = {name: _plain(value) for name, value in zip(head, row, strict=True)}
        sys.stdout.write(f"{between}\n{json.dumps(fields, ensure_ascii=sys.stdout.isatty())}")
        between = ","
    sys.stdout.write("[]\n" if between == "[" else "\n]\n")


def _different(names: Sequence[str]) -> list[str]:
    """Return the names, numbered where one occurs again: value, value_2."""
    found: list[str] = []
    for name in names:
        numbered = (name if number == 1 else f"{name}_{number}" for number in itertools.count(1))
        found.append(next(one for one in numbered if one not in found))
    return found


def _plain(value: object) -> object:
    """Return a value as JSON can hold it: JSON has no infinity, no bytes and no time."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, int | float | str | None) else str(value)
