"""One open study: Optuna's study, its database, what defines it, and whose trials count."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import JsonValue

from study import StudyError
from study.attributes import ASKED, BASELINE, CONFIG, CONTRACT, FOUND_BY, PLANNED, STAGES, kept
from study.budget.plan import ENDS, Planned, Stage, taken
from study.config.resolve import Asked
from study.config.schema import StudyConfig
from study.config.space import distributions
from study.search.contract import Contract, Images, compare, contract_of, files_of, stored_config
from study.search.members import Membership
from study.search.sampling import make_pruner, make_sampler
from study.storage import views
from study.storage.clock import Clock
from study.storage.door import load_study, shown, study_names
from study.storage.lean import LeanStorage


@dataclass(frozen=True, kw_only=True)
class OpenStudy:
    """A study of this program in its database."""

    study: optuna.Study
    storage: LeanStorage
    config: StudyConfig
    contract: Contract  # as it is stored
    members: Membership
    folder: Path  # runs/<study name>
    clock: Clock

    @property
    def name(self) -> str:
        """Of the study, and of its folder."""
        return self.study.study_name

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials, or those in some states; not to be changed."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def own_trials(self) -> list[FrozenTrial]:
        """The finished trials that are the study's own."""
        return self.members.own(self.trials())

    def attribute(self, key: str, kind: Any) -> Any:
        """An attribute of the study, as `kind`; None where it has none, StudyError where it is something else."""
        return kept(self.study.user_attrs, key, kind)

    def remember(self, key: str, value: JsonValue) -> None:
        """Write an attribute of the study, unless it is there already."""
        if self.study.user_attrs.get(key) != value:
            self.study.set_user_attr(key, value)

    def planned(self) -> Planned | None:
        """What was expected of each stage; None where nothing was planned."""
        found: Planned | None = self.attribute(PLANNED, Planned)
        return found

    def left_to_plan(self) -> tuple[str, ...]:
        """The fields that were asked for as "auto"."""
        return Asked(self.attribute(ASKED, dict[str, JsonValue]) or {}).autos

    def hours(self) -> float | None:
        """As they were last given, by whatever command."""
        return stored_config(self.study).hours

    def times(self) -> dict[str, tuple[float, float | None]]:
        """Seconds of each stage as planned, and by the clock; None for one that has not ended. None without hours."""
        planned, ended = self.planned(), taken(self._ends())
        return {} if planned is None else {name: (wanted, ended.get(name)) for name, wanted in planned.stages.items()}

    def has_ended(self, stage: Stage) -> bool:
        """Whether the end of a stage was noted."""
        return stage in self._ends()

    def stage_ends(self, stage: Stage, at: float | None = None) -> None:
        """Note what the clock says, or said `at` the end of a stage; of one that comes again the last end counts."""
        if self.planned():
            at = self.clock.spent() if at is None else at
            self.remember(STAGES, dict[str, JsonValue]({**self._ends(), stage: round(at, 1)}.items()))

    def _ends(self) -> dict[Stage, float]:
        return self.attribute(STAGES, ENDS) or {}

    def search_seconds_left(self) -> float:
        """Until the search must end; infinite without hours."""
        hours = self.hours()
        if hours is None:
            return math.inf
        planned = self.planned()
        return 3600 * hours - (planned.after_search if planned else 0.0) - self.clock.spent()

    def has_trained(self) -> bool:
        """Whether a trial has an epoch behind it: a study without one has no model, whatever its hours say."""
        return any(trial.intermediate_values for trial in self.trials())

    def is_there(self) -> bool:
        """Whether it is still in its database, as far as one can see; another one may have got its number or name."""
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
        """Turn what goes wrong because somebody else has deleted the study into StudyError."""
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
    asked: Asked | None = None,
    planned: Planned | None = None,
    *,
    found_by: str | None = None,
    pixels: str = "",
    weights: Mapping[str, str] = MappingProxyType({}),
    contents: Mapping[str, str] = MappingProxyType({}),
    update: bool = True,
) -> OpenStudy:
    """Create the study, or open it after comparing its contract with this one.

    Raises StudyError that names the fields that differ. found_by: the version that found the groups from pixels;
    pixels: how images of more than 8 bits are read; weights: those of pretrained networks, by their hashes; contents:
    the hash of each file, to say which have changed.
    Without `update` the stored configuration stays as it was last given.
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
    new = CONTRACT not in study.user_attrs  # or killed just here before
    opened.remember(FOUND_BY, found_by)
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
    opened.remember(CONTRACT, contract)  # last: a study that has it is whole
    return _handle(study, storage, config, folder)


def existing(storage: LeanStorage, name: str, url: str) -> OpenStudy:
    """A study as it was last run, for reading. Raises StudyError where there is none of this program."""
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
    """Raise StudyError where a study of that name is another one."""
    name, there = found.study_name, kept(found.user_attrs, CONTRACT, Contract)
    if there is None and any(trial.state != TrialState.WAITING for trial in found.get_trials(deepcopy=False)):
        raise StudyError(f"the study {name!r} in this database was not made by this program (choose another --name)")
    if found.direction != StudyDirection.MAXIMIZE:
        raise StudyError(
            f"the study {name!r} in this database looks for the smallest value, an accuracy should be large "
            "(choose another --name, or make it anew with direction='maximize')"
        )
    if there is not None:
        compare(name, there, contract, images)
