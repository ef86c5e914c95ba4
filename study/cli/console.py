"""Output on stdout and stderr: plain text, tables, CSV."""

import csv
import itertools
import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data import counted
from study.storage.names import DEFAULT_URL


class _PlainConsole(Console):
    """A console that escapes control characters in what it is given to print."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, but with control characters escaped."""
        super().print(*(plain(one) if isinstance(one, str) else one for one in objects), **options)


class PlainLog(logging.Formatter):
    """A log formatter that escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message alone, with control characters escaped."""
        return plain(super().format(record))


out = _PlainConsole()
err = _PlainConsole(stderr=True)


def plain(text: str) -> str:
    """Escape control characters, which a terminal would obey: names come from folders and databases."""
    return CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Write a text in one line, without control characters: a line feed in a folder's name would forge a row."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Pattern of control characters except line feed and tab, of bidirectional controls, and of surrogates."""


def print_table(head: Sequence[str], rows: Sequence[tuple[Any, ...]], title: str | None = None) -> None:
    """Print a plain table on stdout; nothing in it is cut."""
    shown = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for name in head:
        shown.add_column(escape(one_line(name)), overflow="fold")
    for row in rows:
        shown.add_row(*(escape(one_line(str(value))) for value in row))
    # A pipe has no width to fit into: each row stays on one line.
    (out if out.is_terminal else _PlainConsole(width=10_000)).print(shown)


def print_csv(head: Sequence[str], rows: Iterable[Iterable[Any]], *, safe: bool, to: IO[str] | None = None) -> None:
    """Write rows as CSV as they come, on stdout unless `to` is given; `safe`: without formulas of spreadsheets."""
    to = to or sys.stdout
    shown_as: Callable[[str], str] = _harmless if safe else plain if to.isatty() else str
    writer = csv.writer(to, lineterminator="\n")
    for row in itertools.chain([head], rows):
        writer.writerow([shown_as(cell) if isinstance(cell, str) else cell for cell in row])


def _harmless(cell: str) -> str:
    """Put a quote, as OWASP advises, before what a spreadsheet takes for a formula, also inside a cell."""
    return RUN.sub(r"\1'\2", cell)


RUN = re.compile(r"(^|[;,|\t\r\n])([\s\x00-\x1f\x85\ufeff\u200b-\u200f\u2060]*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20])")
"""Pattern of the beginning of a formula, also after invisible characters or in full-width ones; as in serve.html."""


def storage_option(storage: str) -> str:
    """Return the option that a command needs to go on with a study of this database."""
    if storage == DEFAULT_URL:
        return ""
    from study.storage import address  # imported late: it takes time, and most commands are about the default

    return address.storage_option(storage)


def duration(seconds: float) -> str:
    """Return a duration in words: 3725 -> "1 h 02 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size_in_words(count: int) -> str:
    """Return a size in words: 1234567 bytes -> "1.2 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return counted(count, "byte")


def quiet_optuna() -> None:
    """Let Optuna log only warnings and errors; the rest is what we say ourselves."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
