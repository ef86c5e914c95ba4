"""Owner of a folder under runs/: one identity, written into the study and into its folder.

A copy of a database has the same studies; without this, deleting one in the copy, or going on with it, would take the
original's files.
"""

from pathlib import Path
from uuid import uuid4

import optuna
from pydantic import BaseModel

from data.images import read_file
from models.files import write_json
from study import StudyError
from study.attributes import IDENTITY, kept
from study.storage.lean import LeanStorage
from study.storage.trouble import repeated

FILE = "owner.json"


class Owner(BaseModel):
    """The study that a folder belongs to."""

    study: str  # the study's identity
    database: str  # the file's name beside runs/, or what tells a server's database from its copies
    address: str = ""  # address of a server's database, for people


def check_folder(name: str, folder: Path, storage: LeanStorage) -> None:
    """Raise StudyError where the folder belongs to a study of another database, or its owner cannot be found out."""
    owner = _read(folder)
    if owner and _is_anothers(owner, folder, storage):
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
    place = storage.engine.url
    address = "" if storage.backend.file(place) else f"{place.host or ''}/{place.database}"
    owner = Owner(study=identity, database=_identity(storage), address=address)
    if _read(folder) != owner:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, owner.model_dump())


def identity_of_study(study: optuna.Study) -> str | None:
    """Return the identity of a study; None for one that was last run before there were identities."""
    return kept(study.user_attrs, IDENTITY, str)


def owns_folder(folder: Path, storage: LeanStorage, identity: str | None) -> bool:
    """Return whether the folder is this study's for certain, and no link to another place."""
    try:
        owner = None if folder.is_symlink() else _read(folder)
    except StudyError:
        return False
    return owner is not None and owner.study == identity and not _is_anothers(owner, folder, storage)


def _is_anothers(owner: Owner, folder: Path, storage: LeanStorage) -> bool:
    """Return whether the owner is a study of another database; a file that is gone, or was renamed, owns nothing."""
    if owner.database == _identity(storage):
        return False
    return "/" in owner.database or (folder.parent.parent / owner.database).exists()


@repeated
def _identity(storage: LeanStorage) -> str:
    with storage.reading() as connection:
        return storage.backend.identity(connection)


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
