"""Deletion of a study: first its files, then its rows in the database."""

import logging
import shutil
from shlex import quote

import optuna
from optuna.trial import TrialState

from study import StudyError
from study.search.contract import files_of
from study.storage.address import storage_option
from study.storage.door import load_study, open_storage
from study.storage.names import check_name
from study.storage.owners.leases import Leases
from study.storage.owners.locks import FINAL, LOCKS, alone
from study.storage.owners.ownership import identity_of_study, owns_folder
from study.storage.trouble import storage_trouble

logger = logging.getLogger(__name__)


def delete(name: str, url: str) -> bool:
    """Remove a study's files, then its rows. Raises StudyError while a process works on it.

    Files that may not be the study's are left alone. Returns whether the files were removed, or there were none.
    """
    storage = open_storage(url, create=False)
    study = load_study(storage, check_name(name))
    folder = files_of(study, url)

    def refuse() -> None:
        see = f"study status {quote(name)}{storage_option(url)}"
        raise StudyError(f"another process works on {name!r} (stop it first; see: {see})")

    def watching() -> None:
        logger.warning("a process that cannot be seen from here held a trial; watching its heartbeat for a minute")

    with storage_trouble(url), alone(storage, folder, FINAL, refuse), alone(storage, folder, waiting=refuse):
        ids = [trial._trial_id for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
        leases = Leases(storage)
        leases.prepare()
        if leases.somebody_works_on(ids, watching):
            refuse()
        if owns_folder(folder, storage, identity_of_study(study)):
            shutil.rmtree(folder)
        optuna.delete_study(study_name=name, storage=storage)
        leases.prepare()
        # No files are here if the database is PostgreSQL and they are on another machine.
        left = [file for file in folder.glob("*") if file.name not in LOCKS]
        if not left:
            shutil.rmtree(folder, ignore_errors=True)
        return not left
