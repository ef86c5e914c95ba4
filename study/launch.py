"""Bring a study to its budget and its result; one process for now."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import torch

from data import DataError, datasets
from data.datasets import ImageSet
from data.known import FETCHED
from data.sources import Progress
from data.splits import Parts, make_parts, random_parts, save_parts
from study import StudyError
from study.config import StudyConfig
from study.contract import open_study, stored_config
from study.final import FinalEpoch, Outcome, finish, winner
from study.leases import only_runner
from study.objective import TrialEnd, TrialEpoch, Workspace, make_workspace
from study.storage import load_study, open_storage, runs_folder
from study.worker import search


@dataclass(frozen=True)
class Opened:
    """News: the images are loaded and the study is open."""

    study: optuna.Study
    dataset: ImageSet
    parts: Parts
    config: StudyConfig


News = Opened | TrialEpoch | TrialEnd | FinalEpoch | Outcome


def default_name(config: StudyConfig) -> str:
    """Preset and data, as in quick-digits."""
    tail = re.sub(r"[^\w.-]+", "-", Path(config.data).expanduser().resolve().name).strip("-") or "data"
    return f"{config.preset}-{tail}"


def check_name(name: str) -> str:
    """A study's name is also a folder's; StudyError when it cannot be."""
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise StudyError(f"not a study name: {name!r} (letters, digits, dots, dashes and underscores, up to 100)")
    return name


def choose_device(name: str) -> torch.device:
    """cuda where there is one, else cpu; StudyError when what was asked for is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise StudyError("--device cuda: no CUDA device was found (use --device cpu, or auto)")
    if name not in ("cpu", "cuda"):
        raise StudyError(f"--device {name}: unknown (use auto, cpu or cuda)")
    return torch.device(name)


def with_absolute_data(config: StudyConfig) -> StudyConfig:
    """The same with absolute paths, so that resuming works from anywhere."""
    changes = {}
    if config.data not in (*datasets.EMBEDDED, *FETCHED):
        changes["data"] = str(Path(config.data).expanduser().resolve())
    if config.groups and config.groups.lower().endswith(".csv"):
        changes["groups"] = str(Path(config.groups).expanduser().resolve())
    return config.model_copy(update=changes)


def load_parts(config: StudyConfig, runs: Path, progress: Progress | None) -> tuple[ImageSet, Parts]:
    """The images of a study and how they are divided. Raises DataError."""
    dataset = datasets.load(
        config.data,
        config.image_size,
        runs / "cache",
        groups=config.groups,
        skip_bad=config.skip_bad,
        progress=progress,
    )
    if config.protocol == "random":
        return dataset, random_parts(len(dataset.labels), dataset.paths, config.seed)
    try:
        return dataset, make_parts(dataset.labels, dataset.groups, dataset.classes, dataset.paths, config.seed)
    except DataError as error:
        raise DataError(f"{error}; groups are from {dataset.groups_from}") from error


def run(
    config: StudyConfig, name: str, url: str, device: torch.device, progress: Progress | None = None
) -> Iterator[News]:
    """Search to the budget, then train, score and export; yields news. Finishes what an earlier run left."""
    config = with_absolute_data(config)
    storage = open_storage(url, create=True)
    runs = runs_folder(url)
    with only_runner(runs / check_name(name), name):
        study, work, opened = _open(config, name, storage, runs, device, progress)
        yield opened
        yield from search(study, work)
        yield from finish(study, work, winner(study), work.folder / "model")


def retrain(
    name: str, url: str, device: torch.device, number: int | None, progress: Progress | None = None
) -> Iterator[News]:
    """Train a trial's architecture again from fresh weights; the winner into model/, another beside it."""
    storage = open_storage(url, create=False)
    config = stored_config(load_study(storage, name))
    runs = runs_folder(url)
    with only_runner(runs / name, name):
        study, work, opened = _open(config, name, storage, runs, device, progress)
        best = winner(study)
        numbers = [trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        if number is not None and number not in numbers:
            raise StudyError(f"no finished trial {number} in {name!r} (there are: {', '.join(map(str, numbers))})")
        yield opened
        trial = best if number is None else study.trials[number]
        folder = "model" if trial.number == best.number else f"model-trial-{trial.number}"
        yield from finish(study, work, trial, work.folder / folder, fresh=True)


def _open(
    config: StudyConfig,
    name: str,
    storage: optuna.storages.RDBStorage,
    runs: Path,
    device: torch.device,
    progress: Progress | None,
) -> tuple[optuna.Study, Workspace, Opened]:
    dataset, parts = load_parts(config, runs, progress)
    study = open_study(storage, name, config, dataset.fingerprint, parts.hash)
    folder = runs / name
    save_parts(parts, dataset.paths, folder / "parts.json")
    work = make_workspace(config, dataset, parts, device, folder)
    return study, work, Opened(study, dataset, parts, config)
