"""From what a user gives to a configuration: a preset, a TOML file, and single fields."""

import tomllib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

from pydantic import JsonValue, ValidationError

from study import StudyError
from study.config.presets import PRESETS
from study.config.schema import StudyConfig, in_one_line
from study.config.space import distributions, nearest


def resolve(file: Path | None, overrides: Mapping[str, JsonValue]) -> StudyConfig:
    """A configuration from (last wins) a preset, a TOML file, and overrides by field name.

    A table of the file ([space], [augment]) replaces the preset's; overrides may name one field of a table with a
    dot ("space.head"). Without any preset named, the embedded digits take "quick" and everything else "full".
    Raises StudyError with one line.
    """
    fields = read_toml(file) if file else {}
    fields.update({name: value for name, value in overrides.items() if "." not in name})
    data = fields.get("data", "digits")
    preset = fields.setdefault("preset", "quick" if data == "digits" else "full")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise StudyError(f"unknown preset {preset!r}{nearest(str(preset), PRESETS)}")
    for name, value in overrides.items():
        table = name.partition(".")[0]
        if "." in name:  # one field of a table: the rest of it comes from the preset
            fields.setdefault(table, deepcopy(PRESETS[preset].get(table, {})))
            set_field(fields, name, value)
    try:
        config = StudyConfig.model_validate({**PRESETS[preset], "baseline": {}, **fields})
        return config if "baseline" in fields else _with_preset_baseline(config, PRESETS[preset])
    except ValidationError as error:
        raise StudyError(in_one_line(error)) from error


def _with_preset_baseline(config: StudyConfig, preset: Mapping[str, JsonValue]) -> StudyConfig:
    """The preset's baseline too, as far as the user's space still holds it; otherwise none."""
    searched = distributions(config.space)
    given = preset.get("baseline")
    baseline = {name: value for name, value in given.items() if name in searched} if isinstance(given, dict) else {}
    try:
        return StudyConfig.model_validate({**config.model_dump(), "baseline": baseline})
    except ValidationError:
        return config


def read_toml(file: Path) -> dict[str, JsonValue]:
    """The fields of a study file; StudyError when it is missing or does not parse."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudyError(f"no such study file: {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"cannot read {file}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{file} is not valid TOML: {error}") from error


def parse_setting(text: str) -> tuple[str, JsonValue]:
    """ "field=value" -> (field, value); the value as in TOML, else taken as a string."""
    name, equals, raw = text.partition("=")
    if not equals or not name.strip():
        raise StudyError(f"--set takes field=value, not {text!r} (for example --set epochs=9)")
    try:
        return name.strip(), tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), raw.strip()


def set_field(fields: dict[str, JsonValue], name: str, value: JsonValue) -> None:
    """Set a field by its dotted name; StudyError when a part of the name is no table."""
    *tables, last = name.split(".")
    for table in tables:
        inner = fields.setdefault(table, {})
        if not isinstance(inner, dict):
            raise StudyError(f"{name}: {table} is not a table of fields")
        fields = inner
    fields[last] = value
