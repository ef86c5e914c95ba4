"""The expressions of the views in SQLite's SQL."""

from typing import ClassVar

from typing_extensions import override

from study.storage.backend import Expressions

# The readable value of p, a row of trial_params. json.dumps writes NaN and Infinity, which are not JSON: such choices
# become NULL.
LITE_VALUE = """CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END"""
LITE_TEXT = f"""CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_type(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
      IN ('true', 'false')
      THEN json_type(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    ELSE CAST({LITE_VALUE} AS TEXT) END"""
LITE_NUMBER = f"CASE WHEN typeof({LITE_VALUE}) IN ('integer', 'real') THEN CAST({LITE_VALUE} AS REAL) END"


class SqliteExpressions(Expressions):
    """Expressions in SQLite's SQL."""

    param_text, param_number = LITE_TEXT, LITE_NUMBER
    types: ClassVar = {"int": "INTEGER", "real": "REAL", "text": "TEXT", "bool": "INTEGER"}

    @override
    def param(self, kind: str) -> str:
        return LITE_VALUE

    @override
    def user(self, key: str, kind: str) -> str:
        kinds = {"int": "'integer', 'real'", "real": "'integer', 'real'", "text": "'text'", "bool": "'true', 'false'"}
        return (
            f"(SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ({kinds[kind]}) "
            f"THEN CAST(json_extract(u.value_json, '$') AS {self.types[kind]}) END END "
            f"FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = '{key}')"
        )

    @override
    def field(self, place: str, key: str, kind: str) -> str:
        found = f"json_extract({place}, '$.{key}')"
        return f"CASE WHEN json_valid({place}) THEN CAST({found} AS {self.types[kind]}) END"

    @override
    def each(self, place: str) -> str:
        return f"json_each(CASE WHEN json_valid({place}) THEN {place} ELSE '[]' END)"

    @override
    def value(self, number: str, kind: str) -> str:
        return f"CASE {kind} WHEN 'INF_POS' THEN 9e999 WHEN 'INF_NEG' THEN -9e999 ELSE {number} END"

    @override
    def between(self, start: str, end: str) -> str:
        return f"(julianday({end}) - julianday({start})) * 86400.0"
