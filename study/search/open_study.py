"""Open study: Optuna's study, its database, what defines it, and which trials count."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState
from pydantic import JsonValue

from study import StudyError
from study.attributes import ASKED, CONTRACT, INFEASIBLE, PLANNED, STAGES, kept, why
from study.budget.stages import ENDS, Plan, Stage, taken
from study.config.resolve import StudyRequest
from study.config.schema import StudyConfig
from study.search.contract import Contract, files_of, stored_config
from study.search.members import Membership
from study.storage.address import shown
from study.storage.door import load_study
from study.storage.lean import LeanStorage
from study.storage.owners.clock import Clock

T = TypeVar("T")


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

    @classmethod
    def of(cls, study: optuna.Study, storage: LeanStorage, config: StudyConfig, folder: Path) -> Self:
        """Take Optuna's study as one of this program, with its settings and the folder of its files."""
        return cls(
            study=study,
            storage=storage,
            config=config,
            contract=kept(study.user_attrs, CONTRACT, Contract) or {},
            members=Membership(config),
            folder=folder,
            clock=Clock(storage, study._study_id),
        )

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
        """Return stage -> (seconds planned, seconds taken); the latter is None until the stage has ended.

        Empty if nothing was planned.
        """
        planned, ended = self.planned(), taken(self._ends())
        return {} if planned is None else {name: (wanted, ended.get(name)) for name, wanted in planned.stages.items()}

    def has_ended(self, stage: Stage) -> bool:
        """Return whether the end of a stage was noted."""
        return stage in self._ends()

    def stage_ends(self, stage: Stage, at: float | None = None) -> None:
        """Note the end of a planned stage, now or `at` seconds on the clock; if it is repeated, its last end counts."""
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

    def shippable(self) -> list[FrozenTrial]:
        """Return the own trials, also running ones, that finished an epoch and are not INFEASIBLE."""
        trials = self.trials()
        running = [one for one in trials if one.state == TrialState.RUNNING and self.members.stranger(one) is None]
        every = [*self.members.own(trials), *running]
        return [one for one in every if one.intermediate_values and why(one.user_attrs) not in INFEASIBLE]

    def has_trained(self) -> bool:
        """Return whether a trial can become a model; until then there is none, even if the hours are over."""
        return bool(self.shippable())

    def is_there(self) -> bool:
        """Return whether this very study is still in its database; True if the database cannot be asked."""
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


def existing(storage: LeanStorage, name: str, url: str) -> OpenStudy:
    """Open a study as it was last run, for reading. Raises StudyError if there is none that this program made."""
    study = load_study(storage, name)
    return OpenStudy.of(study, storage, stored_config(study), files_of(study, url))
