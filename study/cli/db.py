"""`study db`: the database as a whole."""

import sys
from typing import Annotated

import typer

from data import counted
from study import StudyError
from study.cli.console import err, quiet_optuna
from study.cli.options import StudyName, group
from study.storage.names import DEFAULT_URL, check_name

app = group("Copy the database of studies, bring it up to date, or delete a study.")

Place = Annotated[str, typer.Argument(help="A SQLite file, sqlite:///FILE, or postgresql+psycopg://...")]


@app.command(epilog="Example: study db copy optuna.db postgresql+psycopg://me@host/studies")
def copy(source: Place, target: Place) -> None:
    """Copy a SQLite file, or all studies to or from PostgreSQL, also while workers write; the copy is checked."""
    from sqlalchemy.engine import URL

    from study.history import views
    from study.storage.address import masked, parse_url
    from study.storage.backend import backend_of
    from study.storage.door import open_storage
    from study.storage.sqlite.copies import copy_file
    from study.storage.transfer import transfer
    from study.storage.trouble import storage_trouble

    quiet_optuna()
    places = [
        parse_url(place) if "://" in place else URL.create("sqlite", database=place) for place in (source, target)
    ]
    first, second = (backend_of(place).file(place) for place in places)
    if first and second:
        copy_file(first, second)
        sys.stdout.write(f"{second}\n")
        return
    addresses = [place if "://" in place else f"sqlite:///{place}" for place in (source, target)]
    for place, address in zip(places, addresses, strict=True):
        if parse_url(address) != place:
            raise StudyError(f"{place.database}: the name of this file cannot stand in an address (rename it)")
    with storage_trouble(addresses[0]):
        origin = open_storage(addresses[0], create=False, write=False)
    with storage_trouble(addresses[1]):
        made = open_storage(addresses[1], create=True)
        copied = transfer(origin, made)
        views.refresh(made.engine)
    for name, trials in copied:
        err.print(f"{name}: {counted(trials, 'trial')}", markup=False, soft_wrap=True)
    sys.stdout.write(f"{masked(addresses[1])}\n")


@app.command(epilog="Example: study db upgrade --storage sqlite:///old.db")
def upgrade(storage: Annotated[str, typer.Option(help="Database of studies.")] = DEFAULT_URL) -> None:
    """Bring the tables of an older Optuna up to this one's; a SQLite file is copied first."""
    from study.history import views
    from study.storage.address import masked
    from study.storage.door import open_storage
    from study.storage.trouble import storage_trouble
    from study.storage.upgrade import upgrade as bring_up

    quiet_optuna()
    with storage_trouble(storage):
        done = bring_up(storage)
        if done.before != done.after:
            views.refresh(open_storage(storage, create=False).engine)
    if done.before == done.after:
        err.print(f"{masked(storage)} is up to date ({done.after})", markup=False, soft_wrap=True)
        return
    kept = f"; as it was: {done.copy}" if done.copy else ""
    err.print(f"{masked(storage)}: from {done.before} to {done.after}{kept}", markup=False, soft_wrap=True)


@app.command(epilog="Example: study db delete quick-digits")
def delete(
    name: StudyName,
    storage: Annotated[str, typer.Option(help="Database of studies.")] = DEFAULT_URL,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a study: its trials, and its files in runs/."""
    from study.search.contract import files_of
    from study.search.deletion import delete as delete_study
    from study.storage.door import load_study, open_storage

    quiet_optuna()
    study = load_study(open_storage(storage, create=False, write=False), check_name(name))
    trials = len(study.get_trials(deepcopy=False))
    folder = files_of(study, storage)
    what = f"{name}: {counted(trials, 'trial')}, and all files in {folder}"
    if not yes:
        if not sys.stdin.isatty():
            raise StudyError(f"this deletes {what} (add --yes to do so)")
        if not typer.confirm(f"Delete {what}?", err=True):
            return
    if delete_study(name, storage):
        err.print(f"deleted {what}", markup=False)
    else:
        err.print(
            f"deleted {name}: {counted(trials, 'trial')}; {folder} stays, since it is not this study's for certain "
            "(see owner.json in it; remove it yourself where you know better)",
            markup=False,
            soft_wrap=True,
        )
