"""The expressions of the views in SQLite's SQL."""

from typing import ClassVar

# The readable value of p, a row of trial_params. json.dumps writes NaN and Infinity, which are not JSON: such choices
# become NULL.
LITE_VALUE = """CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END"""
LITE_TEXT = (
    """CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_type(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
      IN ('true', 'false')
      THEN json_type(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    ELSE CAST("""
    + LITE_VALUE
    + """ AS TEXT) END"""
)
LITE_NUMBER = "CASE WHEN typeof(" + LITE_VALUE + ") IN ('integer', 'real') THEN CAST(" + LITE_VALUE + " AS REAL) END"


class SqliteExpressions:
    """Expressions in SQLite's SQL; see `backend.Expressions`."""

    param_text, param_number = LITE_TEXT, LITE_NUMBER
    types: ClassVar = {"int": "INTEGER", "real": "REAL", "text": "TEXT", "bool": "INTEGER"}

    def param(self, kind: str) -> str:
        """Return the readable value of p; `kind` is not used, since SQLite's columns have no type of their own."""
        return LITE_VALUE

    def user(self, key: str, kind: str) -> str:
        """Return a user attribute of the trial t; NULL where it is missing or of another kind."""
        kinds = {"int": "'integer', 'real'", "real": "'integer', 'real'", "text": "'text'", "bool": "'true', 'false'"}
        return (
            f"(SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ({kinds[kind]}) "
            f"THEN CAST(json_extract(u.value_json, '$') AS {self.types[kind]}) END END "
            f"FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = '{key}')"
        )

    def field(self, place: str, key: str, kind: str) -> str:
        """Return one field of the JSON object in `place`; NULL where that is not JSON."""
        found = f"json_extract({place}, '$.{key}')"
        return f"CASE WHEN json_valid({place}) THEN CAST({found} AS {self.types[kind]}) END"

    def each(self, place: str) -> str:
        """Return the items of the JSON list in `place`, as rows with a column `value`."""
        return f"json_each(CASE WHEN json_valid({place}) THEN {place} ELSE '[]' END)"

    def value(self, number: str, kind: str) -> str:
        """Return the value that Optuna stores as a number and its type; NULL for what is not a number."""
        return f"CASE {kind} WHEN 'INF_POS' THEN 9e999 WHEN 'INF_NEG' THEN -9e999 ELSE {number} END"

    def between(self, start: str, end: str) -> str:
        """Return the seconds between two times."""
        return f"(julianday({end}) - julianday({start})) * 86400.0"
