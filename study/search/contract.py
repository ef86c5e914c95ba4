"""What defines a study, kept in the study and compared when it goes on.

Optuna stores neither sampler nor pruner and accepts most changes of a space silently; a study whose definition
changed half-way is no study.
"""

import dataclasses
from pathlib import Path
from shlex import quote

import optuna
from optuna.study._frozen import FrozenStudy
from pydantic import JsonValue, ValidationError
from pydantic_core import to_jsonable_python

from data.augment import Augment
from study import StudyError
from study.attributes import CONFIG
from study.config.schema import MAY_CHANGE, STORED, StudyConfig, in_one_line
from study.config.space import fixed
from study.storage.door import runs_folder

Contract = dict[str, JsonValue]
"""Field -> value, as JSON; a stored one is never rewritten."""

DEFAULTS = "defaults"
"""The parameters that the space does not name, with the values they had when the study was made."""


def contract_of(config: StudyConfig, fingerprint: str, split_hash: str) -> Contract:
    """What defines a study: configuration, images and parts."""
    unnamed = {name: value for name, value in fixed(config.space).items() if name not in config.space}
    return {**config.contract(), DEFAULTS: dict(unnamed), "data content": fingerprint, "parts": split_hash}


def compare(name: str, kept: Contract, wanted: Contract) -> None:
    """Raise StudyError that names the fields in which a stored contract differs from the one that is wanted."""
    old, new = flatten(_completed(kept, wanted)), flatten(wanted)
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
        f"(go on with the old one: study resume {quote(name)}; or start another with --name)"
    )


def _completed(kept: Contract, wanted: Contract) -> Contract:
    """A contract with the fields that its version did not have yet: what they do by default is what it did."""
    fields = StudyConfig.model_fields
    defaults = {key: to_jsonable_python(field.default) for key, field in fields.items() if key not in MAY_CHANGE}
    given = kept.get("augment")
    augment = dataclasses.asdict(Augment()) | (given if isinstance(given, dict) else {})
    # A space that names other parameters leaves others unnamed: the space itself is what differs then.
    same_space = kept.get("space") == wanted["space"]
    new, known = wanted[DEFAULTS], kept.get(DEFAULTS)
    # Parameters that its version did not have do by default what it did.
    unnamed = {**new, **known} if same_space and isinstance(known, dict) and isinstance(new, dict) else new
    return defaults | kept | {"augment": augment, DEFAULTS: unnamed}


def _short(value: JsonValue) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def flatten(fields: Contract, prefix: str = "") -> Contract:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: Contract = {}
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
        return StudyConfig.model_validate(fields, context=STORED)
    except ValidationError as error:
        raise StudyError(f"the study {study.study_name!r} was made by another version: {in_one_line(error)}") from error


def files_of(study: optuna.Study | FrozenStudy, url: str) -> Path:
    """The folder of a study's files, whatever else can be read of it."""
    fields = study.user_attrs.get(CONFIG)
    named = fields.get("runs") if isinstance(fields, dict) else None
    return runs_folder(url, named if isinstance(named, str) and named else None) / study.study_name
