"""Meaning of each field in words: its default, what is allowed, and whether it may change; taken from the schema."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from shlex import quote
from typing import Any

from study import StudyError
from study.config.presets import PRESETS
from study.config.resolve import PLANNED
from study.config.schema import MAY_CHANGE, StudyConfig
from study.config.space import PARAMETERS, nearest

Schema = Mapping[str, Any]
"""JSON schema, as pydantic writes it."""


@dataclass(frozen=True, kw_only=True)
class FieldDescription:
    """Description of a field in words."""

    name: str
    meaning: str
    default: str
    presets: dict[str, str]  # preset -> its value, where it has one of its own
    allowed: str
    changes: bool  # may differ when a study is continued
    example: str  # an argument of study run


def names() -> list[str]:
    """Return every name that `describe` knows: fields, those of tables with a dot, and parameters of the space."""
    return list(_all())


def describe(name: str) -> FieldDescription:
    """Describe a field by its name. Raises StudyError when there is no such field."""
    known = _all()
    found = known.get(name) or known.get(f"space.{name}")
    if found is None:
        raise StudyError(f"no field {name!r}{nearest(name, [*known, *PARAMETERS])}")
    return found


@cache
def _all() -> dict[str, FieldDescription]:
    return {one.name: one for one in (*_fields(), *_parameters())}


def _fields() -> Iterator[FieldDescription]:
    schema = StudyConfig.model_json_schema()
    for name, field in schema["properties"].items():
        tables = schema["$defs"]
        inner = tables[field["$ref"].rpartition("/")[2]]["properties"] if "$ref" in field else {}
        yield _field(
            name, field, f"a table: {', '.join(inner)} (study help {name}.{next(iter(inner))})" if inner else ""
        )
        for key, part in inner.items():
            yield _field(f"{name}.{key}", part, "")


def _field(name: str, field: Schema, table: str) -> FieldDescription:
    top, _, key = name.partition(".")
    given = {preset: _of(fields, top, key) for preset, fields in PRESETS.items()}
    default = _value(field.get("default"))
    allowed = table or _allowed(field)
    if name in PLANNED:
        allowed += ', or "auto": a plan decides'
    return FieldDescription(
        name=name,
        meaning=field.get("description", ""),
        default=default,
        presets={preset: _value(value) for preset, value in given.items() if value is not None},
        allowed=allowed,
        changes=top in MAY_CHANGE,
        example=f"--set {name}={_example(field, default)}",
    )


def _parameters() -> Iterator[FieldDescription]:
    for name, parameter in PARAMETERS.items():
        given = {preset: _of(fields, "space", name) for preset, fields in PRESETS.items()}
        yield FieldDescription(
            name=f"space.{name}",
            meaning=parameter.meaning,
            default=_value(parameter.default),
            presets={preset: _value(value) for preset, value in given.items() if value is not None},
            allowed=f"{parameter.allowed}; a list of these; {{ low = ..., high = ... }} where it is a number",
            changes=False,
            example=f"--set {quote(f'space.{name}={json.dumps(parameter.default)}')}",
        )


def _of(fields: Mapping[str, Any], top: str, key: str) -> Any:
    value = fields.get(top)
    if not key:
        return value
    return value.get(key) if isinstance(value, dict) else None


def _value(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items()) or "nothing"
    if isinstance(value, list | tuple):
        return "[" + ", ".join("{...}" if isinstance(one, dict) else _value(one) for one in value) + "]"
    return str(value)


def _example(field: Schema, default: str) -> str:
    kinds = {field.get("type"), *(one.get("type") for one in field.get("anyOf", ()))}
    if "boolean" in kinds:
        return "false" if default == "true" else "true"
    return default if default not in ("nothing", "[]") and "," not in default else "..."


def _allowed(field: Schema) -> str:
    if "anyOf" in field:
        parts = [_allowed(one) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(parts))
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if "const" in field:
        return f'"{field["const"]}"'
    kind = field.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _between(field)
    if kind == "array":
        return f"a list of: {_allowed(field['items'])}"
    return {"boolean": "true or false", "string": "a text"}.get(
        str(kind), "a table of parameters (study help space.NAME)"
    )


def _between(field: Schema) -> str:
    low, above = field.get("minimum"), field.get("exclusiveMinimum")
    high, below = field.get("maximum"), field.get("exclusiveMaximum")
    words = [f" from {low:,}" if low is not None else "", f" above {above:,}" if above is not None else ""]
    words += [f" to {high:,}" if high is not None else "", f" below {below:,}" if below is not None else ""]
    return "".join(words)
