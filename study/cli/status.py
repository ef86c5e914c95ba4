"""`study status`: what the studies of a database have found, and what is left."""

import json
import sys
from shlex import quote
from typing import Annotated

import typer

from study import StudyError
from study.cli.complete import studies
from study.cli.console import err, one_line, out, print_table, quiet_optuna, storage_option
from study.cli.options import AsJson, Storage
from study.storage.names import DEFAULT_URL

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
    from study.cli.standing import folder_in_words, lines, rows_of

    rows = rows_of(name, storage)
    if name is not None and rows[0].keys() == {"name", "note"}:
        raise StudyError(str(rows[0]["note"]))
    if as_json:
        sys.stdout.write(json.dumps(rows if name is None else rows[0], indent=2) + "\n")
        return
    for row in rows:
        print_table(
            ("", str(row["name"])), [(one_line(key), lines(value)) for key, value in row.items() if key != "name"]
        )
    if not rows:
        err.print("no studies yet; start one with: study run")
    if name is None and (taken := folder_in_words(storage)):
        err.print(taken, markup=False, highlight=False, soft_wrap=True)


def _watch(name: str | None, storage: str, as_json: bool) -> None:
    if name is None or as_json:
        raise StudyError("--watch takes the name of one study, and no --json (for example: study status NAME --watch)")
    from study.cli.watch import follow
    from study.signals import Stopped, stoppable
    from study.storage.door import storage_trouble

    with storage_trouble(storage), stoppable():
        try:
            ended = follow(name, storage, out)
        except Stopped as stop:
            raise typer.Exit(stop.exit_code) from None
    if not ended:
        go_on = f"study resume {quote(name)}{storage_option(storage)}"
        err.print(f"nobody works on {name}; go on with: {go_on}", markup=False, soft_wrap=True)
