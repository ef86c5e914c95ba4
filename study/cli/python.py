"""Studies from Python: `study.run(data="photos", hours=2)`, as the command line does it, with exceptions for errors."""

import json
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from models.bundle.card import StudyCard, percent
from models.bundle.folder import load, read_card
from models.bundle.verdict import verdict
from study import launch
from study.cli.console import err, quiet_optuna
from study.cli.display import Display, show
from study.cli.options import choose_devices
from study.config.resolve import StudyRequest, ask
from study.result.final import Outcome
from study.search.contract import check_images, files_of, stored_config
from study.search.opening import default_name
from study.signals import stoppable
from study.storage.door import load_study, open_storage
from study.storage.names import DEFAULT_URL, check_name
from study.storage.owners.processes import now
from study.use.history import History, Model


@dataclass(frozen=True)
class Result:
    """A finished study: its model, its card, what it is worth in words, and its history."""

    name: str
    folder: Path  # folder of the model's files
    card: StudyCard
    storage: str = field(default=DEFAULT_URL, repr=False)

    @property
    def model(self) -> Model:
        """The exported model: call it on files, pictures or arrays."""
        return load_model(self.folder)

    @property
    def history(self) -> History:
        """The history of the study: its trials as pandas frames and figures."""
        return History(self.name, self.storage)

    @property
    def verdict(self) -> str:
        """The first sentences of the report, one per line."""
        found = verdict(self.card)
        return "\n".join(found.lines) if found else ""

    def __repr__(self) -> str:
        test = self.card.test
        return f"<{self.name}: test accuracy {percent(test.accuracy)}, {self.folder / 'report.html'}>"


def run(
    data: str | Path | None = None,
    *,
    name: str | None = None,
    hours: float | None = None,
    trials: int | None = None,
    preset: str | None = None,
    workers: int | None = None,
    begin_from: str | None = None,
    storage: str = DEFAULT_URL,
    device: str = "auto",
    quiet: bool = False,
    **fields: Any,
) -> Result:
    """Search until the budget is reached, then train, score and export the winner; called again, go on.

    `fields`: any other field of a study (`study help` lists them), tables as dictionaries: `space={"head": ["gap"]}`;
    `set={"space.head": "gap"}` changes one entry of a table. Raises StudyError, DataError and ModelError with a line
    that says what is wrong; Ctrl-C raises KeyboardInterrupt, and nothing is lost.
    """
    single = fields.pop("set", {})
    given = {"data": data, "hours": hours, "trials": trials, "preset": preset, "workers": workers}
    given |= {"begin_from": begin_from, **fields, **single}
    asked = ask(None, _plain({key: value for key, value in given.items() if value is not None}))
    return _followed(asked, name or default_name(asked), storage, device, quiet=quiet)


def resume(
    name: str,
    *,
    hours: float | None = None,
    trials: int | None = None,
    workers: int | None = None,
    storage: str = DEFAULT_URL,
    device: str = "auto",
    quiet: bool = False,
) -> Result:
    """Go on with a study, with more trials or hours if they are given. Raises what `run` raises."""
    there = load_study(open_storage(storage, create=False, write=False), check_name(name))
    config = stored_config(there)
    check_images(config, name, files_of(there, storage))
    asked = StudyRequest(config.changed(trials=trials, hours=hours, workers=workers).model_dump(mode="json"))
    return _followed(asked, name, storage, device, quiet=quiet)


def load_model(folder: str | Path) -> Model:
    """Open an exported model, whatever machine it was made on. Raises ModelError."""
    return Model(load(Path(folder)))


def _followed(asked: StudyRequest, name: str, storage: str, device: str, *, quiet: bool) -> Result:
    """Run a study to its end while showing its progress on stderr."""
    quiet_optuna()
    began, devices = now(), choose_devices(device)
    check_name(name)
    folders: list[Path] = []

    def going_on(display: Display) -> Iterator[launch.News]:
        work = partial(launch.run, since=began, watch=display.watch)
        for item in work(asked, name, storage, devices, display.images):
            if isinstance(item, launch.AlreadyFinished | Outcome):
                folders.append(item.directory)
            if not isinstance(item, launch.AlreadyFinished):
                yield item

    in_main = threading.current_thread() is threading.main_thread()  # only the main thread can handle signals
    with stoppable() if in_main else nullcontext(), show(err, quiet=quiet) as display:
        display.follow(going_on(display))
    return Result(name, folders[-1], read_card(folders[-1], StudyCard), storage)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert fields to what a study file would give: paths as text, tuples as lists."""
    plain: dict[str, Any] = json.loads(json.dumps(fields, default=str))
    return plain
