"""Whose a folder under runs/ is: one identity, written into the study and into its folder.

A copy of a database has the same studies; without this, deleting one there, or going on with it, would take the
original's files.
"""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import optuna
from pydantic import BaseModel
from sqlalchemy.engine import URL

from models.files import write_json
from study import StudyError
from study.attributes import IDENTITY
from study.storage.door import parse_url, sqlite_file
from study.storage.sqlite import reader

FILE = "owner.json"


class Owner(BaseModel):
    """The study that a folder belongs to."""

    study: str  # its identity
    database: str  # the file's name beside runs/, or an address without a password


def check_folder(name: str, folder: Path, url: str, identity: str | None) -> None:
    """Raise StudyError where the folder belongs to a study of another database."""
    owner = _read(folder)
    if owner and _is_anothers(owner, name, folder, url, identity):
        raise StudyError(
            f"{folder} belongs to the study {name!r} of {owner.database} "
            "(go on with that database, choose another --name, or keep this database in a folder of its own)"
        )


def claim_folder(study: optuna.Study, folder: Path, url: str) -> None:
    """Write the identity into the study, unless it has one, and into its folder."""
    identity = identity_of_study(study) or uuid4().hex
    if identity_of_study(study) is None:
        study.set_user_attr(IDENTITY, identity)
    owner = Owner(study=identity, database=_place(url))
    if _read(folder) != owner:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, owner.model_dump())


def identity_of_study(study: optuna.Study) -> str | None:
    """None for one that was not run since there are identities."""
    found = study.user_attrs.get(IDENTITY)
    return found if isinstance(found, str) else None


def owns_folder(name: str, folder: Path, url: str, identity: str | None) -> bool:
    """Whether the folder is this study's for certain."""
    owner = _read(folder)
    return owner is not None and owner.study == identity and not _is_anothers(owner, name, folder, url, identity)


def _is_anothers(owner: Owner, name: str, folder: Path, url: str, identity: str | None) -> bool:
    """A database that is gone, or has lost that study, owns nothing any more: it was moved or replaced.

    One that cannot be asked keeps what it has.
    """
    if owner.database == _place(url) or (identity == owner.study and "://" in _place(url)):
        return False  # the same server may have several addresses
    file = folder.parent.parent / owner.database
    if "://" in owner.database or Path(owner.database).name != owner.database:
        return True
    if not file.exists():
        return False
    try:
        with closing(reader(file)()) as connection:
            rows = connection.execute(ASKED_OF, {"name": name, "key": IDENTITY, "value": json.dumps(owner.study)})
            return rows.fetchone() is not None
    except (StudyError, sqlite3.Error) as error:
        return "no such table" not in str(error)


ASKED_OF = """SELECT 1 FROM studies JOIN study_user_attributes USING (study_id)
WHERE study_name = :name AND key = :key AND value_json = :value"""
"""Whether a database has a study of that name and identity; in plain SQLite, since it may be another schema's."""


def _place(url: str) -> str:
    """Of a SQLite database its name, since runs/ lies beside it; else an address without what is secret.

    What was rescued of a database that was taken away from a running study is that database.
    """
    place = parse_url(url)
    if place.get_backend_name() == "sqlite":
        return re.sub(r"\.rescued(-\d+)?$", "", sqlite_file(place).name)
    return URL.create("postgresql", host=place.host, port=place.port, database=place.database).render_as_string()


def _read(folder: Path) -> Owner | None:
    try:
        return Owner.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None
