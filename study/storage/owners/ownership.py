"""Owner of a folder under runs/: one identity, written into the study and into its folder.

A copy of a database has the same studies; without this, deleting one in the copy, or going on with it, would take the
original's files.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import optuna
from pydantic import BaseModel
from sqlalchemy.engine import URL

from data.images import read_file
from models.files import write_json
from study import StudyError
from study.attributes import IDENTITY, kept
from study.storage.lean import LeanStorage
from study.storage.sqlite.file import reader
from study.storage.trouble import repeated

FILE = "owner.json"


class Owner(BaseModel):
    """The study that a folder belongs to."""

    study: str  # the study's identity
    database: str  # the file's name beside runs/, or what tells a server's database from its copies
    address: str = ""  # address of a server's database, for people


def check_folder(name: str, folder: Path, storage: LeanStorage, identity: str | None) -> None:
    """Raise StudyError where the folder belongs to a study of another database, or its owner cannot be told."""
    owner = _read(folder)
    if owner and _is_anothers(owner, name, folder, storage, identity):
        raise StudyError(
            f"{folder} belongs to the study {name!r} of {owner.address or owner.database} "
            "(go on with that database, choose another --name, or keep this database in a folder of its own; where "
            f"that database is this one, moved or restored: remove {folder / FILE})"
        )


def claim_folder(study: optuna.Study, folder: Path, storage: LeanStorage) -> None:
    """Write an identity into the study, unless it has one, and into its folder."""
    identity = identity_of_study(study) or uuid4().hex
    if identity_of_study(study) is None:
        study.set_user_attr(IDENTITY, identity)
    url = storage.engine.url
    address = "" if storage.backend.file(url) else _address(url)
    owner = Owner(study=identity, database=_place(storage), address=address)
    if _read(folder) != owner:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, owner.model_dump())


def identity_of_study(study: optuna.Study) -> str | None:
    """Return the identity of a study; None for one that was last run before there were identities."""
    found = kept(study.user_attrs, IDENTITY, str)
    return found


def owns_folder(name: str, folder: Path, storage: LeanStorage, identity: str | None) -> bool:
    """Return whether the folder is this study's for certain, and no link to another place."""
    try:
        owner = None if folder.is_symlink() else _read(folder)
    except StudyError:
        return False
    return owner is not None and owner.study == identity and not _is_anothers(owner, name, folder, storage, identity)


def _is_anothers(owner: Owner, name: str, folder: Path, storage: LeanStorage, identity: str | None) -> bool:
    """Return whether the owner is a study of another database.

    A database file that is gone, or has lost that study, owns nothing any more: it was moved or replaced. One that
    cannot be read keeps what it owns.
    """
    if owner.database == _place(storage):
        return False
    if "://" in owner.database and identity == owner.study and not storage.backend.file(storage.engine.url):
        return False  # an older version wrote the address here, and a server may have several
    if Path(owner.database).name != owner.database:
        return True
    file = folder.parent.parent / owner.database
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
"""Query for a study of that name and identity; for sqlite3 alone, since the tables may be of another version."""


@repeated
def _place(storage: LeanStorage) -> str:
    """Return what tells a database from its copies."""
    with storage.reading() as connection:
        return storage.backend.identity(connection)


def _address(url: URL) -> str:
    return URL.create(url.get_backend_name(), host=url.host, port=url.port, database=url.database).render_as_string()


def _read(folder: Path) -> Owner | None:
    """Read the owner of a folder; None where it has none. Raises StudyError where its file does not say who it is."""
    try:
        return Owner.model_validate_json(read_file(folder / FILE))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise StudyError(
            f"{folder / FILE} does not say to which study the folder belongs: {reason} "
            "(remove it where the folder is this study's)"
        ) from error
