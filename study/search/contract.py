"""What defines a study, kept in the study and compared when it goes on.

Optuna stores neither sampler nor pruner and accepts most changes of a space silently; a study whose definition
changed half-way is no study.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState
from pydantic import ValidationError

from study import StudyError
from study.config.schema import MAY_CHANGE, AugmentConfig, StudyConfig, explain
from study.config.space import distributions
from study.search.sampling import make_pruner, make_sampler
from study.storage import views
from study.storage.door import exists, load_study, parse_url, study_names
from study.storage.lean import LeanStorage

CONTRACT = "contract"
"""Study attribute: what may not change."""
CONFIG = "config"
"""Study attribute: the whole configuration as last given, so that `resume` needs only the name."""


def open_study(storage: LeanStorage, name: str, config: StudyConfig, fingerprint: str, split_hash: str) -> optuna.Study:
    """Create the study, or open it after comparing its contract with this one.

    Raises StudyError that names the fields that differ.
    """
    contract = {**config.contract(), "data content": fingerprint, "parts": split_hash}
    if name in study_names(storage):
        found = load_study(storage, name)
        kept = found.user_attrs.get(CONTRACT)
        if kept is None and any(trial.state != TrialState.WAITING for trial in found.get_trials(deepcopy=False)):
            raise StudyError(
                f"the study {name!r} in this database was not made by this program (choose another --name)"
            )
        if found.direction != StudyDirection.MAXIMIZE:
            raise StudyError(
                f"the study {name!r} in this database looks for the smallest value, an accuracy should be large "
                "(choose another --name, or make it anew with direction='maximize')"
            )
        if kept is not None:
            _compare(name, _with_defaults(kept), contract)
    views.refresh(storage.engine, distributions(config.space))
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=make_sampler(config),
        pruner=make_pruner(config),
        direction="maximize",
        load_if_exists=True,
    )
    if CONTRACT not in study.user_attrs:  # new, or killed just here before
        if config.baseline:
            study.enqueue_trial(config.baseline, user_attrs={"baseline": True}, skip_if_exists=True)
        study.set_user_attr(CONTRACT, contract)
    if study.user_attrs.get(CONFIG) != config.model_dump(mode="json"):
        study.set_user_attr(CONFIG, config.model_dump(mode="json"))
    return study


@contextmanager
def while_it_exists(study: optuna.Study, url: str) -> Iterator[None]:
    """Turn what goes wrong because somebody else has deleted the study into StudyError."""
    contract = study.user_attrs[CONTRACT]
    try:
        yield
    except Exception as error:
        if isinstance(error, StudyError) or is_there(study, contract):
            raise
        there = parse_url(url).render_as_string()
        raise StudyError(f"the study was deleted from the database {there} while it ran") from error


def is_there(study: optuna.Study, contract: dict[str, Any]) -> bool:
    """Whether a study with this contract is still in its database; another one may have got its number or its name."""
    return exists(study) and bool(study.user_attrs.get(CONTRACT) == contract)


def _with_defaults(kept: dict[str, Any]) -> dict[str, Any]:
    """A contract with the fields that its version did not have yet: what they do by default is what it did."""
    fields = StudyConfig.model_fields
    defaults = {key: field.default for key, field in fields.items() if key not in MAY_CHANGE}
    augment = AugmentConfig().model_dump() | kept.get("augment", {})
    return defaults | kept | {"augment": augment}


def _compare(name: str, kept: dict[str, Any], wanted: dict[str, Any]) -> None:
    old, new = flatten(kept), flatten(wanted)
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if not differing:
        return
    if len(differing) > 1 and "parts" in differing:  # a consequence of the others
        differing.remove("parts")
    by_content = {
        "data content": "the images (files were added, removed or altered)",
        "parts": "the parts (other groups put the images elsewhere)",
    }
    shown = [
        by_content.get(key) or f"{key} (was {_short(old.get(key))}, now {_short(new.get(key))})"
        for key in differing[:5]
    ]
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    raise StudyError(
        f"the study {name!r} exists with another definition: {', '.join(shown)}{more} "
        f"(go on with the old one: study resume {name}; or start another with --name)"
    )


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def flatten(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def stored_config(study: optuna.Study) -> StudyConfig:
    """The configuration a study was last run with; StudyError when this program did not make it."""
    fields = study.user_attrs.get(CONFIG)
    if fields is None:
        raise StudyError(f"the study {study.study_name!r} has no configuration: it was not made by this program")
    try:
        return StudyConfig.model_validate(fields)
    except ValidationError as error:
        raise StudyError(f"the study {study.study_name!r} was made by another version: {explain(error)}") from error
