"""Configuration from what a user gives: a preset, a TOML file, and single fields."""

import tomllib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from pydantic import JsonValue, ValidationError

from data import DataError
from data.images import read_text
from study import StudyError
from study.config.presets import PRESETS
from study.config.schema import StudyConfig, in_one_line
from study.config.space import distributions, misfit, nearest

PLANNED = (
    "image_size",
    "limit",
    "epochs",
    "min_epochs",
    "confirm",
    "confirm_epochs",
    "final_epochs",
    "final_seeds",
    "rivals",
    "trials",
    "starts",
    "metric",
    "class_weights",
)
"""Fields that may say "auto": a plan decides them."""


@dataclass(frozen=True)
class StudyRequest:
    """Study as it was asked for: all fields that were given or that the preset gives, some of them perhaps "auto"."""

    fields: dict[str, JsonValue]
    given: frozenset[str] | None = None  # fields that somebody typed, or a study file has; None: all of them

    @property
    def autos(self) -> tuple[str, ...]:
        """Return the fields that a plan decides."""
        return tuple(name for name in PLANNED if self.fields.get(name) == "auto")

    def plain(self) -> StudyConfig:
        """Return the configuration. Raises StudyError if a field is left to a plan, or not allowed."""
        if self.autos:
            raise StudyError(f"{', '.join(self.autos)} = 'auto' is left to a plan, and there is none here")
        try:
            return StudyConfig.model_validate(self.fields)
        except ValidationError as error:
            raise StudyError(in_one_line(error)) from error


def resolve(file: Path | None, overrides: Mapping[str, JsonValue]) -> StudyConfig:
    """Return the configuration that `ask` gives. Raises StudyError with one line, also if a field is left to a plan."""
    return ask(file, overrides).plain()


def ask(file: Path | None, overrides: Mapping[str, JsonValue]) -> StudyRequest:
    """Make a request from (last wins) a preset, a TOML file, and overrides by field name.

    A table of the file ([space], [augment]) replaces the preset's; overrides may name one field of a table with a
    dot ("space.head"). Where no preset is named, the embedded digits take "quick" and everything else "auto".
    Raises StudyError with one line.
    """
    fields = read_toml(file) if file else {}
    given = frozenset((*fields, *(name.partition(".")[0] for name in overrides)))
    fields.update({name: value for name, value in overrides.items() if "." not in name})
    data = fields.get("data", "digits")
    preset = fields.setdefault("preset", "quick" if data == "digits" else "auto")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise StudyError(f"unknown preset {preset!r}{nearest(str(preset), PRESETS)}")
    for name, value in overrides.items():
        table = name.partition(".")[0]
        if "." in name:  # one field of a table: the rest of it comes from the preset
            usual = PRESETS[preset].get(table, {})
            fields.setdefault(table, deepcopy(usual) if isinstance(usual, dict) else {})
            set_field(fields, name, value)
    planned = PRESETS[preset].get("starts") == "auto"
    without: dict[str, JsonValue] = {"baseline": {}} if planned else {"baseline": {}, "starts": []}
    whole: dict[str, JsonValue] = {**PRESETS[preset], **without, **fields}
    asked = StudyRequest(whole, given)
    try:
        config = StudyConfig.model_validate({**whole, **{name: STANDING_IN[name] for name in asked.autos}})
    except ValidationError as error:
        raise StudyError(in_one_line(error)) from error
    if "without" in fields:
        whole["without"] = list(config.without)
    if "baseline" not in fields:
        whole["baseline"] = dict(_with_preset_baseline(config, PRESETS[preset]).baseline)
    if "starts" not in fields and not planned:
        whole["starts"] = _preset_starts(config, PRESETS[preset])
    return asked


STANDING_IN: dict[str, JsonValue] = {
    "image_size": 128,
    "limit": {},
    "epochs": 27,
    "min_epochs": 1,
    "confirm": 1,
    "confirm_epochs": None,
    "final_epochs": 54,
    "final_seeds": 1,
    "rivals": [],
    "trials": 64,
    "starts": [],
    "metric": "accuracy",
    "class_weights": "none",
}
"""Values of the fields that a plan decides, used only while the other fields are checked."""


def _with_preset_baseline(config: StudyConfig, preset: Mapping[str, JsonValue]) -> StudyConfig:
    """Add the preset's baseline, as far as the user's space still holds it; otherwise add none."""
    searched = distributions(config.space)
    given = preset.get("baseline")
    baseline = {name: value for name, value in given.items() if name in searched} if isinstance(given, dict) else {}
    try:
        return StudyConfig.model_validate({**config.model_dump(), "baseline": baseline})
    except ValidationError:
        return config


def _preset_starts(config: StudyConfig, preset: Mapping[str, JsonValue]) -> list[JsonValue]:
    """Return the preset's starts that the user's space still holds, and its limit allows."""
    searched, given = distributions(config.space), preset.get("starts")
    points = [point for point in given if isinstance(point, dict)] if isinstance(given, list) else []
    return [
        dict(point)
        for point in points
        if point.keys() == searched.keys()
        and misfit(config.space, point) is None  # type: ignore[arg-type]
        and config.above_limit(point) is None  # type: ignore[arg-type]
    ]


def read_toml(file: Path) -> dict[str, JsonValue]:
    """Read the fields of a study file. Raises StudyError when it is missing or does not parse."""
    try:
        return tomllib.loads(read_text(file))
    except FileNotFoundError as error:
        raise StudyError(f"no such study file: {file}") from error
    except IsADirectoryError as error:
        raise StudyError(f"{file} is a folder, not a study file; did you mean --data {quote(str(file))}?") from error
    except (OSError, UnicodeDecodeError, DataError) as error:
        raise StudyError(f"cannot read {file}: {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:  # too many nested brackets; too long numbers
        raise StudyError(f"{file} is not valid TOML: {error}") from error


def parse_setting(text: str) -> tuple[str, JsonValue]:
    """Parse "field=value" into (field, value), a TOML value or else a string. Raises StudyError without a field."""
    name, equals, raw = text.partition("=")
    if not equals or not name.strip():
        raise StudyError(f"--set takes field=value, not {text!r} (for example --set epochs=9)")
    try:
        return name.strip(), tomllib.loads(f"value = {raw}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return name.strip(), raw.strip()


def set_field(fields: dict[str, JsonValue], name: str, value: JsonValue) -> None:
    """Set a field by its dotted name. Raises StudyError when a part of the name is no table."""
    *tables, last = name.split(".")
    for table in tables:
        inner = fields.setdefault(table, {})
        if not isinstance(inner, dict):
            raise StudyError(f"{name}: {table} is not a table of fields")
        fields = inner
    fields[last] = value
