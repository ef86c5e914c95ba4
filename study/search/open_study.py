"""Open study: Optuna's study, its database, what defines it, and which trials count."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import JsonValue

from study import StudyError
from study.attributes import ASKED, BASELINE, CONFIG, CONTRACT, FOUND_BY, OPENINGS, PLANNED, STAGES, kept
from study.budget.plan import ENDS, Plan, Stage, taken
from study.config.resolve import StudyRequest
from study.config.schema import StudyConfig
from study.config.space import distributions
from study.search.contract import Contract, Images, compare, contract_of, files_of, stored_config
from study.search.members import Membership
from study.search.sampling import make_pruner, make_sampler
from study.storage import views
from study.storage.clock import Clock
from study.storage.door import load_study, shown, study_names
from study.storage.lean import LeanStorage

T = TypeVar("T")

if TYPE_CHECKING:  # the card's module imports torch
    from models.bundle.card import Opening


@dataclass(frozen=True, kw_only=True)
class OpenStudy:
    """Study of this program in its database."""

    study: optuna.Study
    storage: LeanStorage
    config: StudyConfig
    contract: Contract  # as it is stored
    members: Membership
    folder: Path  # runs/<study name>
    clock: Clock

    @property
    def name(self) -> str:
        """Name of the study, and of its folder."""
        return self.study.study_name

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return all trials, or those in some states; the caller must not change them."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def own_trials(self) -> list[FrozenTrial]:
        """Return the finished trials that are the study's own."""
        return self.members.own(self.trials())

    def attribute(self, key: str, kind: type[T]) -> T | None:
        """Return an attribute of the study as `kind`; None if there is none. Raises StudyError if it is no `kind`."""
        return kept(self.study.user_attrs, key, kind)

    def remember(self, key: str, value: JsonValue) -> None:
        """Write an attribute of the study, unless it has this value already."""
        if self.study.user_attrs.get(key) != value:
            self.study.set_user_attr(key, value)

    def planned(self) -> Plan | None:
        """Return the plan of the study; None if nothing was planned."""
        return self.attribute(PLANNED, Plan)

    def left_to_plan(self) -> tuple[str, ...]:
        """Return the fields that were asked for as "auto"."""
        return StudyRequest(self.attribute(ASKED, dict[str, JsonValue]) or {}).autos

    def hours(self) -> float | None:
        """Return the hours as they were last given, by whatever command; None if there are none."""
        return stored_config(self.study).hours

    def times(self) -> dict[str, tuple[float, float | None]]:
        """Return for each stage the seconds as planned, and by the clock; the latter are None if it has not ended.

        Nothing is returned if nothing was planned.
        """
        planned, ended = self.planned(), taken(self._ends())
        return {} if planned is None else {name: (wanted, ended.get(name)) for name, wanted in planned.stages.items()}

    def has_ended(self, stage: Stage) -> bool:
        """Return whether the end of a stage was noted."""
        return stage in self._ends()

    def stage_ends(self, stage: Stage, at: float | None = None) -> None:
        """Note the end of a stage, by the clock or `at`; if a stage is repeated, its last end counts."""
        if self.planned():
            at = self.clock.spent() if at is None else at
            self.remember(STAGES, dict[str, JsonValue]({**self._ends(), stage: round(at, 1)}.items()))

    def _ends(self) -> dict[Stage, float]:
        return self.attribute(STAGES, ENDS) or {}

    def search_seconds_left(self) -> float:
        """Return the seconds until the search must end; infinite without hours."""
        hours = self.hours()
        if hours is None:
            return math.inf
        planned = self.planned()
        return 3600 * hours - (planned.after_search if planned else 0.0) - self.clock.spent()

    def has_trained(self) -> bool:
        """Return whether a trial has finished an epoch; until then there is no model, even if the hours are over."""
        return any(trial.intermediate_values for trial in self.trials())

    def is_there(self) -> bool:
        """Return whether the study, not another of its name, is still in its database, as far as can be seen."""
        try:
            if self.storage.get_study_id_from_name(self.name) != self.study._study_id:
                return False
        except KeyError:
            return False
        except sqlalchemy.exc.SQLAlchemyError:
            return True
        return bool(self.study.user_attrs.get(CONTRACT) == self.contract)

    @contextmanager
    def while_it_exists(self) -> Iterator[None]:
        """Turn an error that occurs because somebody has deleted the study into StudyError."""
        try:
            yield
        except Exception as error:
            if isinstance(error, StudyError) or self.is_there():
                raise
            there = shown(self.storage.engine.url)
            raise StudyError(f"the study was deleted from the database {there} while it ran") from error


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
    looks: Sequence["Opening"] = (),
    update: bool = True,
) -> OpenStudy:
    """Create the study, or open it after comparing its contract with this one.

    Raises StudyError that names the fields that differ. `found_by`: version that found the groups from pixels;
    `pixels`: how images of more than 8 bits are read; `weights`: hashes of the weights of pretrained networks;
    `contents`: hash of each file, to say which have changed; `looks`: looks of an older study at the test part of a
    new one. Without `update` the stored configuration stays as it was last given.
    """
    contract = contract_of(config, fingerprint, split_hash, pixels, weights)
    if name in study_names(storage):
        _check(load_study(storage, name), contract, Images(folder, config.data, contents))
    views.refresh(storage.engine, distributions(config.space))
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=make_sampler(config),
        pruner=make_pruner(config),
        direction="maximize",
        load_if_exists=True,
    )
    opened = _handle(study, storage, config, folder)
    new = CONTRACT not in study.user_attrs  # or a process was killed at this point
    opened.remember(FOUND_BY, found_by)
    if new and looks:
        opened.remember(OPENINGS, [one.model_dump(mode="json") for one in looks])
    if planned and opened.planned() is None:
        opened.remember(PLANNED, planned.model_dump(mode="json"))
    if new and asked and asked.autos:
        opened.remember(ASKED, asked.fields)
    if new or update:
        opened.remember(CONFIG, config.model_dump(mode="json"))
    if not new:
        return opened
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the dashboard would call it "Objective 0"
        study.set_metric_names([f"selection score ({config.metric.replace('_', ' ')} on val)"])
    if config.baseline:
        study.enqueue_trial(config.baseline, user_attrs={BASELINE: True}, skip_if_exists=True)
    for point in config.starts:
        study.enqueue_trial(point, skip_if_exists=True)
    opened.remember(CONTRACT, contract)  # last, so that a study that has it is complete
    return _handle(study, storage, config, folder)


def existing(storage: LeanStorage, name: str, url: str) -> OpenStudy:
    """Open a study as it was last run, for reading. Raises StudyError if there is none that this program made."""
    study = load_study(storage, name)
    return _handle(study, storage, stored_config(study), files_of(study, url))


def _handle(study: optuna.Study, storage: LeanStorage, config: StudyConfig, folder: Path) -> OpenStudy:
    return OpenStudy(
        study=study,
        storage=storage,
        config=config,
        contract=kept(study.user_attrs, CONTRACT, Contract) or {},
        members=Membership(config),
        folder=folder,
        clock=Clock(storage, study._study_id),
    )


def _check(found: optuna.Study, contract: Contract, images: Images) -> None:
    """Raise StudyError if the study of that name is another one."""
    name, there = found.study_name, kept(found.user_attrs, CONTRACT, Contract)
    if there is None and any(trial.state != TrialState.WAITING for trial in found.get_trials(deepcopy=False)):
        raise StudyError(f"the study {name!r} in this database was not made by this program (choose another --name)")
    if found.direction != StudyDirection.MAXIMIZE:
        raise StudyError(
            f"the study {name!r} in this database minimises its value, but an accuracy must be maximised "
            "(choose another --name, or make it anew with direction='maximize')"
        )
    if there is not None:
        compare(name, there, contract, images)
