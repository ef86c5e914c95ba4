"""The only place that opens a database of studies, with the few things that Optuna's API lacks."""

import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import optuna
import sqlalchemy.exc

from study import StudyError
from study.storage.address import masked, parse_url
from study.storage.backend import backend_of
from study.storage.lean import LeanStorage, readable
from study.storage.trouble import repeated


def open_storage(url: str, *, create: bool, write: bool = True, kind: type[LeanStorage] = LeanStorage) -> LeanStorage:
    """Open the database of studies, made first where `create` says so; readers (`write` false) wait for nobody.

    Raises StudyError when it is not there, cannot be written, or is not a database.
    """
    place = parse_url(url)
    try:
        return backend_of(place).open(place, partial(_made, kind, url), create=create, write=write)
    except RuntimeError as error:
        raise OtherSchemaError(url, error) from error


class OtherSchemaError(StudyError):
    """The tables were made by another version of Optuna; `error`: what Optuna says of them."""

    def __init__(self, url: str, error: RuntimeError) -> None:
        what, _, action = str(error).partition(". ")
        self.older = "storage upgrade" in action  # Optuna names this command only for older tables
        upgrade = f"what brings it up to date: study db upgrade --storage {quote(masked(url))}"
        super().__init__(f"{what} ({upgrade if self.older else 'a newer one made it: pip install -U optuna'})")


def wait_for_server(url: str) -> None:
    """Wait until a database that was there before answers. Raises StudyError when it does not for ten minutes."""
    place = parse_url(url)
    backend_of(place).wait(place)


def check_storage(url: str) -> None:
    """Raise StudyError when the database cannot be opened or made, and make nothing."""
    place = parse_url(url)
    if backend_of(place).is_there(place):
        open_storage(url, create=False).close()


def runs_folder(url: str, named: str | None = None) -> Path:
    """Return the studies' folder: runs/ beside a SQLite database, else `named`, or runs/ in the current folder."""
    place = parse_url(url)
    file = backend_of(place).file(place)
    return file.parent / "runs" if file else Path(named or "runs")


@repeated
def _made(kind: type[LeanStorage], url: str, engine: dict[str, Any], tables: bool) -> LeanStorage:
    """Open Optuna's storage; two processes may create the same tables at once, so the one that fails tries again."""
    for pause in (0.1, 0.5) if tables else ():
        with suppress(sqlalchemy.exc.OperationalError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):
            return kind(url, engine_kwargs=engine, skip_table_creation=not tables)
        time.sleep(pause)
    return kind(url, engine_kwargs=engine, skip_table_creation=not tables)


def load_study(storage: LeanStorage, name: str) -> optuna.Study:
    """Load an existing study (without its sampler and pruner). Raises StudyError, which names the studies there are."""
    try:
        with readable(f"the study {name!r}"):
            return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        names = storage.study_names()
        there = f"there are: {', '.join(names)}" if names else "there are none; start one with: study run"
        raise StudyError(f"no study named {name!r} in this database ({there})") from error
