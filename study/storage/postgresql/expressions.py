"""The expressions of the views in PostgreSQL's SQL."""

from typing import ClassVar

from typing_extensions import override

from study.storage.backend import Expressions

# json.dumps writes NaN and Infinity, which are not JSON: such choices become NULL.
SERVER_TEXT = """CASE
    WHEN p.distribution_json ~ '[:,[] *(NaN|-?Infinity) *[],}]' THEN NULL
    WHEN p.distribution_json::jsonb ->> 'name' = 'CategoricalDistribution'
      THEN p.distribution_json::jsonb -> 'attributes' -> 'choices' ->> p.param_value::int
    WHEN p.distribution_json::jsonb ->> 'name' LIKE 'Int%' THEN p.param_value::bigint::text
    ELSE p.param_value::text END"""
SERVER_NUMBER = """CASE
    WHEN p.distribution_json ~ '[:,[] *(NaN|-?Infinity) *[],}]' THEN NULL
    WHEN p.distribution_json::jsonb ->> 'name' = 'CategoricalDistribution'
      THEN CASE jsonb_typeof(p.distribution_json::jsonb -> 'attributes' -> 'choices' -> p.param_value::int)
        WHEN 'number'
          THEN (p.distribution_json::jsonb -> 'attributes' -> 'choices' ->> p.param_value::int)::double precision
        WHEN 'boolean'
          THEN (p.distribution_json::jsonb -> 'attributes' -> 'choices' ->> p.param_value::int)::boolean::int
        END
    ELSE p.param_value END"""


def _as_json(text: str) -> str:
    """Return a text of Python's json as jsonb: NaN and Infinity, which are not JSON, become null.

    So do they within a string after a comma or a bracket, as in "a, NaN, b".
    """
    return f"regexp_replace({text}::text, '([:,[] *)(NaN|-?Infinity)(?= *[],}}])', '\\1null', 'g')::jsonb"


class PostgresqlExpressions(Expressions):
    """Expressions in PostgreSQL's SQL."""

    param_text, param_number = SERVER_TEXT, SERVER_NUMBER
    types: ClassVar = {"int": "bigint", "real": "double precision", "text": "text", "bool": "boolean"}
    looks: ClassVar = {
        "int": "^-?[0-9]{1,18}$",
        "real": "^-?[0-9]+([.][0-9]+)?([eE][+-]?[0-9]{1,4})?$",
        "text": '^"([^"\\\\]|\\\\.)*"$',
        "bool": "^(true|false)$",
    }

    def _cast(self, found: str, kind: str) -> str:
        """Return a text as a number or a boolean; NULL where it is none, or the type cannot hold it."""
        cast = f"{found}::{self.types[kind]}"
        if kind == "real":
            size = f"abs({found}::numeric)"
            cast = f"CASE WHEN {size} = 0 OR {size} BETWEEN 5e-324 AND 1.7976931348623157e308 THEN {cast} END"
        return f"CASE WHEN {found} ~ '{self.looks[kind]}' THEN {cast} END"

    @override
    def param(self, kind: str) -> str:
        if kind in ("text", "boolean"):
            return f"({SERVER_TEXT})::{kind}"
        return f"({SERVER_NUMBER})::{kind}"

    @override
    def user(self, key: str, kind: str) -> str:
        if kind == "text":
            found = f"CASE WHEN u.value_json ~ '{self.looks[kind]}' THEN u.value_json::jsonb #>> '{{}}' END"
        else:
            found = self._cast("u.value_json", kind)
        return f"(SELECT {found} FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = '{key}')"

    @override
    def field(self, place: str, key: str, kind: str) -> str:
        found = f"({_as_json(place)} ->> '{key}')"
        return found if kind == "text" else self._cast(found, kind)

    @override
    def each(self, place: str) -> str:
        json = _as_json(place)
        return f"jsonb_array_elements(CASE jsonb_typeof({json}) WHEN 'array' THEN {json} ELSE '[]' END)"

    @override
    def value(self, number: str, kind: str) -> str:
        return (
            f"CASE {kind}::text WHEN 'INF_POS' THEN 'Infinity'::double precision "
            f"WHEN 'INF_NEG' THEN '-Infinity'::double precision ELSE {number} END"
        )

    @override
    def between(self, start: str, end: str) -> str:
        return f"extract(epoch FROM {end} - {start})::double precision"
