"""`study status`: what the studies of a database have found, and what is left."""

from __future__ import annotations

import json
import sys
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from study import StudyError
from study.cli.complete import studies
from study.cli.console import err, out, quiet_optuna, storage_option
from study.cli.options import AsJson, Storage
from study.storage.names import DEFAULT_URL

if TYPE_CHECKING:
    from study.cli.standing import Row

app = typer.Typer()


@app.command(epilog="Example: study status quick-digits --json")
def status(
    name: Annotated[str | None, typer.Argument(help="Without it: all studies.", autocompletion=studies)] = None,
    storage: Storage = DEFAULT_URL,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Draw it again every two seconds until it has ended.")] = False,
) -> None:
    """What a study has found so far, and what is left."""
    quiet_optuna()
    if watch:
        _watch(name, storage, as_json)
        return
    from study.cli.standing import folder_in_words, rows_of

    rows = rows_of(name, storage)
    if name is not None and rows[0].keys() == {"name", "note"}:
        raise StudyError(str(rows[0]["note"]))
    if as_json:
        sys.stdout.write(json.dumps(rows if name is None else rows[0], indent=2) + "\n")
        return
    _say(rows, storage)
    if not rows:
        err.print("no studies yet; start one with: study run")
    if name is None and (taken := folder_in_words(storage)):
        err.print(taken, markup=False, highlight=False, soft_wrap=True)


def _say(rows: list[Row], storage: str) -> None:
    """Print each study in sentences, with an empty line between two studies."""
    from study.cli.standing import sentences

    text = "\n\n".join("\n".join(sentences(row, storage)) for row in rows)
    if text:
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def _watch(name: str | None, storage: str, as_json: bool) -> None:
    if name is None or as_json:
        raise StudyError("--watch takes the name of one study, and no --json (for example: study status NAME --watch)")
    from study.cli.standing import rows_of
    from study.cli.watch import follow
    from study.signals import StopRequest, stoppable, unmasked
    from study.storage.trouble import storage_trouble

    with storage_trouble(storage), stoppable():
        try:
            with unmasked():
                ended = follow(name, storage, out)
        except StopRequest as stop:
            raise typer.Exit(stop.exit_code) from None
    if ended:
        _say(rows_of(name, storage), storage)
    else:
        go_on = f"study resume {quote(name)}{storage_option(storage)}"
        err.print(f"nobody works on {name}; go on with: {go_on}", markup=False, soft_wrap=True)
