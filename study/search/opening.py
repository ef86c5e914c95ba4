"""Way from a configuration to an open study: images are loaded and divided, the study is created or compared.

`open_all` does everything. `open_study` creates or compares a study whose images are known already.
"""

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from types import MappingProxyType

import optuna
import torch
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import TrialState
from pydantic import JsonValue

from data import Progress, at_home, datasets
from data.datasets import ImageSet
from data.formats.ranges import unusual
from data.grouping.settings import BEFORE
from data.grouping.sources import GroupsGoneError
from data.layout.listing import COLUMN
from data.public import FETCHED
from data.splits import Parts, divide, random_parts, split_as_json
from models.architecture import Backbone
from models.backbones import Weights
from models.bundle.card import Opening
from models.files import write_json
from study import StudyError
from study.attributes import ASKED, BASELINE, CONFIG, CONTRACT, FOUND_BY, OPENINGS, PLANNED, kept
from study.budget.stages import Plan
from study.config.resolve import StudyRequest
from study.config.schema import StudyConfig
from study.config.space import distributions
from study.history import views
from study.search.contract import Contract, Images, compare, contract_of
from study.search.older import earlier_openings
from study.search.open_study import OpenStudy
from study.search.sampling import make_pruner, make_sampler
from study.search.settle import check_positive, stored_study
from study.storage.door import check_storage, load_study, open_storage, runs_folder
from study.storage.lean import LeanStorage
from study.storage.owners.locks import alone
from study.storage.owners.ownership import check_folder, claim_folder, identity_of_study, owns_folder
from study.training.backbone import weights_for
from study.training.workspace import Workspace, make_workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyWithImages:
    """News that the images are loaded and the study is open."""

    study: OpenStudy
    dataset: ImageSet
    parts: Parts
    weights: Mapping[Backbone, Weights] = field(default_factory=dict)

    def workspace(self, device: torch.device) -> Workspace:
        """Move the images to the device."""
        return make_workspace(self.study.config, self.dataset, self.parts, device, self.study.folder, self.weights)


def open_all(
    config: StudyConfig,
    name: str,
    url: str,
    progress: Progress | None = None,
    *,
    create: bool = False,
    asked: StudyRequest | None = None,
    planned: Plan | None = None,
) -> StudyWithImages:
    """Load the images, then create the study or compare it with the existing one.

    Raises DataError and StudyError; then no study has been created.
    """
    runs = runs_folder(url, config.runs)
    check_storage(url)  # before the images are read, which may take minutes
    weights = weights_for(config)
    try:
        dataset, parts = load_parts(config, runs, progress, _found_by(name, url))
    except GroupsGoneError as error:
        raise StudyError(
            f"{error}: new groups would give other parts, and earlier scores could not be compared "
            f"(begin a new study: study run --data {quote(config.data)} --name {quote(f'{name}-2')})"
        ) from error
    storage = open_storage(url, create=create)
    folder = runs / name
    with alone(storage, folder):
        known = load_study(storage, name) if name in storage.study_names() else None
        begun = known is not None and CONTRACT in known.user_attrs
        identity = None if known is None else identity_of_study(known)
        check_folder(name, folder, storage)
        if identity and not owns_folder(folder, storage, identity):
            _tell_of_no_files(name, folder, storage, end=not create)
        study = open_study(
            storage,
            name,
            config,
            dataset.fingerprint,
            parts.hash,
            folder,
            asked,
            planned,
            found_by=dataset.found_by,
            pixels=unusual(dataset.ranges),
            weights={name: one.digest for name, one in weights.items()},
            contents=dict(zip(dataset.paths, dataset.contents, strict=True)),
            looks=[] if begun else earlier_openings(config, url, dataset.fingerprint, dataset.contents),
            update=create,
        )
        claim_folder(study.study, folder, storage)
        write_json(folder / "parts.json", split_as_json(parts, dataset.paths))
    return StudyWithImages(study, dataset, parts, weights)


def open_study(
    storage: LeanStorage,
    name: str,
    config: StudyConfig,
    fingerprint: str,
    split_hash: str,
    folder: Path,
    asked: StudyRequest | None = None,
    planned: Plan | None = None,
    *,
    found_by: str | None = None,
    pixels: str = "",
    weights: Mapping[str, str] = MappingProxyType({}),
    contents: Mapping[str, str] = MappingProxyType({}),
    looks: Sequence[Opening] = (),
    update: bool = True,
) -> OpenStudy:
    """Create the study, or open it if its stored contract is the one that these arguments give.

    Raises StudyError that names the fields that differ. `found_by`: version that found the groups from pixels;
    `pixels`: how images of more than 8 bits are read; `weights`: hashes of the weights of pretrained networks;
    `contents`: path -> hash of the file, to say which have changed; `looks`: an older study's openings of the test
    part, for a new study. Without `update` the stored configuration stays as it was last given.
    """
    contract = contract_of(config, fingerprint, split_hash, pixels, weights)
    if name in storage.study_names():
        _check(load_study(storage, name), storage.url, contract, Images(folder, config.data, contents))
    views.refresh(storage.engine, distributions(config.space))
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=make_sampler(config),
        pruner=make_pruner(config),
        direction="maximize",
        load_if_exists=True,
    )
    opened = OpenStudy.of(study, storage, config, folder)
    new = CONTRACT not in study.user_attrs  # or the process that made it was killed before it was complete
    opened.remember(FOUND_BY, found_by)
    if new and looks:
        opened.remember(OPENINGS, [one.model_dump(mode="json") for one in looks])
    if planned and (new or opened.planned() is None):
        opened.remember(PLANNED, planned.model_dump(mode="json"))
    if new and asked and asked.autos:
        opened.remember(ASKED, asked.fields)
    if new or update:
        opened.remember(CONFIG, config.model_dump(mode="json"))
    if not new:
        return opened
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Without a name the dashboard would show "Objective 0".
        study.set_metric_names([f"selection score ({config.metric.replace('_', ' ')} on val)"])
    if config.baseline:
        study.enqueue_trial(config.baseline, user_attrs={BASELINE: True}, skip_if_exists=True)
    for point in config.starts:
        study.enqueue_trial(point, skip_if_exists=True)
    opened.remember(CONTRACT, contract)  # last, so that a study that has it is complete
    return OpenStudy.of(study, storage, config, folder)


def _check(found: optuna.Study, url: str, contract: Contract, images: Images) -> None:
    """Raise StudyError if an existing study does not have this contract."""
    name, there = found.study_name, kept(found.user_attrs, CONTRACT, Contract)
    if there is None and any(trial.state != TrialState.WAITING for trial in found.get_trials(deepcopy=False)):
        raise StudyError(f"the study {name!r} in this database was not made by this program (choose another --name)")
    if len(found.directions) > 1:
        raise StudyError(
            f"the study {name!r} in this database has several objectives, and one of this program has only one, an "
            "accuracy (choose another --name)"
        )
    if found.direction != StudyDirection.MAXIMIZE:
        raise StudyError(
            f"the study {name!r} in this database minimises its value, but an accuracy must be maximised "
            "(choose another --name, or make it anew with direction='maximize')"
        )
    if there is not None:
        compare(name, url, there, contract, images)


def _tell_of_no_files(name: str, folder: Path, storage: LeanStorage, *, end: bool) -> None:
    """Warn that a study's files are elsewhere or were removed; raise StudyError instead if `end`.

    Where the database is a file nothing is said, since the files of such a study are never elsewhere.
    """
    if storage.backend.file(storage.engine.url):
        return
    where = (
        f"the files of {name!r} are not in {folder.absolute()}: where others work on it, begin in the same folder, "
        "or name one that all machines can read (study run ... --set runs=FOLDER)"
    )
    if end:
        raise StudyError(where)
    logger.warning(where)


def default_name(asked: StudyRequest) -> str:
    """Return a name made of preset and data, such as quick-digits."""
    data = str(asked.fields.get("data", "digits"))
    place = at_home(data).resolve()
    named = place.stem if place.suffix.lower() == ".csv" else place.name
    tail = re.sub(r"[^\w.-]+", "-", named).strip("-") or "data"
    return f"{asked.fields['preset']}-{tail}"


def with_absolute_data(asked: StudyRequest) -> StudyRequest:
    """Return the request with absolute paths, so that resuming works from any folder."""
    data, runs = (asked.fields.get(key) for key in ("data", "runs"))
    changes: dict[str, JsonValue] = {}
    if isinstance(data, str) and data not in (*datasets.EMBEDDED, *FETCHED):
        place = at_home(data)  # a list may be a link: its paths are relative to the link's folder
        changes["data"] = str(place.parent.resolve() / place.name if place.is_file() else place.resolve())
    for key in ("groups", "parts", "weights"):
        given = asked.fields.get(key)
        is_file = key == "weights" or str(given).lower().endswith(".csv")
        if isinstance(given, str) and is_file and not given.startswith(COLUMN):
            changes[key] = str(at_home(given).resolve())
    if isinstance(runs, str):
        changes["runs"] = str(at_home(runs).resolve())
    return replace(asked, fields={**asked.fields, **changes})


def _found_by(name: str, url: str) -> str | None:
    """Return the version that found the groups of a study, since they must stay the same; None for a new study."""
    known = stored_study(name, url)
    return None if known is None else known.found_by or BEFORE


def load_parts(
    config: StudyConfig, runs: Path, progress: Progress | None, found_by: str | None = None
) -> tuple[ImageSet, Parts]:
    """Load a study's images and divide them. `found_by`: see data.grouping.sources. Raises DataError, StudyError."""
    dataset = datasets.load(
        config.data,
        config.image_size,
        runs / "cache",
        groups=config.groups,
        parts=config.parts,
        found_by=found_by,
        labels_from=config.labels_from,
        without=config.without,
        only=config.only,
        skip_bad=config.skip_bad,
        max_megapixels=config.max_megapixels,
        progress=progress,
    )
    check_positive(config.positive, dataset.classes)
    if config.protocol == "random":
        return dataset, random_parts(len(dataset.labels), dataset.paths, config.seed)
    return dataset, divide(dataset, config.seed, allow_leaks=config.allow_leaks)
