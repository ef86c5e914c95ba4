"""The history in SQL: views that say what Optuna's API says, and questions that can only read."""

import contextlib
import csv
import io
import json
import math
import multiprocessing
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import duckdb_extensions
import optuna
import pandas
import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from study import StudyError
from study.attributes import PRUNED_BECAUSE, WHY, why
from study.history import views
from study.history.query import ask
from study.history.recipes import RECIPES
from study.result.report import rungs_table
from study.search.opening import open_study
from study.storage.backend import VIEWS
from study.storage.door import open_storage
from tests.conftest import Shell, as_reader, new_database, tiny_options

DATABASES = Path(__file__).parents[1] / "storage" / "databases"
NUMBERS = st.floats(allow_nan=False, width=64)
SPACES: list[dict[str, BaseDistribution]] = [
    {
        "rate": FloatDistribution(1e-5, 1e-1, log=True),
        "share": FloatDistribution(0.0, 1.0, step=0.25),
        "blocks": IntDistribution(1, 5),
        "width": IntDistribution(1, 64, log=True),
        "units": CategoricalDistribution(["none", "64", 'it\'s "64"-32 é']),
        "norm": CategoricalDistribution([True, False]),
        "size": CategoricalDistribution([16, 64, 256]),
        "value": CategoricalDistribution([0.5, None]),
    },
    # Another study of the same database, in which names mean other things.
    {"rate": CategoricalDistribution(["low", "high"]), "units": IntDistribution(1, 9), "RATE": FloatDistribution(0, 1)},
]


@st.composite
def trials(draw: st.DrawFn, space: dict[str, BaseDistribution]) -> FrozenTrial:
    params: dict[str, Any] = {}
    for name, kind in space.items():
        if isinstance(kind, CategoricalDistribution):
            params[name] = draw(st.sampled_from(kind.choices))
        elif isinstance(kind, IntDistribution):
            params[name] = draw(st.integers(kind.low, kind.high))
        elif kind.step:  # type: ignore[union-attr]
            params[name] = 0.25 * draw(st.integers(0, 4))
        else:
            params[name] = draw(st.floats(kind.low, kind.high))  # type: ignore[union-attr]
    state = draw(st.sampled_from(list(TrialState)))
    if state == TrialState.WAITING:
        return create_trial(state=state, system_attrs={"fixed_params": {}})
    steps = draw(st.dictionaries(st.integers(1, 20), NUMBERS | st.just(math.nan), max_size=4))
    return create_trial(
        state=state,
        value=draw(NUMBERS) if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        params=params,
        distributions=space,
        intermediate_values=steps,
        user_attrs=draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "seconds": st.floats(0, 1e6) | st.just("a while") | st.just(math.nan),
                    "bracket": st.integers(0, 3) | st.none(),
                    "pruned_because": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
                    "leaky": st.booleans(),
                },
            )
        ),
    )


def rows(engine: sqlalchemy.Engine, query: str, study: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text(f"{query} WHERE study = :study"), {"study": study})
        return [dict(row) for row in found.mappings()]


def same(stored: object, wanted: object) -> bool:
    """As databases keep it: SQLite has no booleans, and what is not a number is NULL."""
    if isinstance(wanted, float) and math.isnan(wanted):
        return stored is None
    return stored == wanted or (isinstance(stored, str) and isinstance(wanted, int | float) and float(stored) == wanted)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=st.sampled_from(SPACES).flatmap(lambda space: st.lists(trials(space), min_size=1, max_size=5)))
def test_views_say_what_optuna_says(url: str, some: list[FrozenTrial]) -> None:
    storage = open_storage(url, create=True)
    name = f"s{time.monotonic_ns()}"
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    study.add_trials(some)
    views.refresh(storage.engine)
    flat = {row["number"]: row for row in rows(storage.engine, "SELECT * FROM trials_flat", name)}
    epochs = rows(storage.engine, "SELECT * FROM epochs", name)
    params = rows(storage.engine, "SELECT * FROM params", name)
    wanted = optuna.load_study(study_name=name, storage=url).get_trials()
    assert sorted(flat) == [trial.number for trial in wanted]
    for trial in wanted:
        row = flat[trial.number]
        assert row["state"] == trial.state.name
        assert same(row["value"], trial.value)
        assert row["epochs_trained"] == len(trial.intermediate_values)
        seconds = trial.user_attrs.get("seconds")
        assert row["seconds"] == (seconds if isinstance(seconds, float) and not math.isnan(seconds) else None)
        for key in ("bracket", "pruned_because", "leaky"):
            assert row[key] == trial.user_attrs.get(key)
        assert (row["started"] is None, row["ended"] is None) == (
            trial.datetime_start is None,
            trial.datetime_complete is None,
        )
        steps = {one["epoch"]: one["accuracy"] for one in epochs if one["number"] == trial.number}
        assert steps.keys() == trial.intermediate_values.keys()
        assert all(same(steps[step], value) for step, value in trial.intermediate_values.items())
        mine = {one["name"]: one for one in params if one["number"] == trial.number}
        assert mine.keys() == trial.params.keys()
        for key, value in trial.params.items():
            column = {"value": "param_value"}.get(key, "param_rate" if column_is_second(row, key) else key)
            shown, number = mine[key]["value"], mine[key]["value_number"]
            assert same(row[column], value), (key, row[column], value)
            if isinstance(value, str) or value is None:
                assert (shown, number) == (value, None)
            elif isinstance(value, bool):
                assert (shown, number) == (str(value).lower(), value)
            else:
                assert math.isclose(float(shown), value, rel_tol=1e-14)
                assert number == value
            kind = trial.distributions[key]
            assert bool(mine[key]["log"]) == getattr(kind, "log", False)
            assert mine[key]["distribution"] == type(kind).__name__.removesuffix("Distribution").lower()
    storage.remove_session()
    storage.engine.dispose()


def column_is_second(row: dict[str, Any], name: str) -> bool:
    """Whether a parameter differs from another by capitals alone, which a column's name must not."""
    return name == "rate" and "RATE" in row


ENDS = (
    {WHY: "not_promoted"},
    {PRUNED_BECAUSE: "not among the best 3 of 9"},  # a version that wrote no code
    {PRUNED_BECAUSE: "diverged: the loss is no number"},
    {WHY: "diverged"},
    {},  # by another program
)


@pytest.fixture
def filled(url: str, tiny: Any) -> str:
    """A study of this program with a trial in every state and bracket, one of plain Optuna, and an exported model."""
    storage = open_storage(url, create=True)
    config = tiny(epochs=9, eta=3)
    study = open_study(storage, "s", config, "d", "p", Path("runs/s")).study
    space = dict(optuna.load_study(study_name="s", storage=storage).sampler.infer_relative_search_space(study, None))  # type: ignore[arg-type]
    assert space == {}
    from study.config.space import distributions

    for number in range(18):
        lengths = (1, 3, 9, 2) if number % 3 == 0 else (3, 9) if number % 3 == 1 else (9,)
        trained = lengths[number // 3 % len(lengths)]
        state = TrialState.COMPLETE if trained == 9 else TrialState.RUNNING if trained == 2 else TrialState.PRUNED
        kinds = distributions(config.space)
        study.add_trial(
            create_trial(
                state=state,
                value=None if state == TrialState.RUNNING else number / 20,
                params={name: _first(kind, number) for name, kind in kinds.items()},
                distributions=kinds,
                intermediate_values=dict.fromkeys(range(1, trained + 1), number / 20),
                user_attrs={"bracket": number % 3, "seconds": 1.5 * trained}
                | (ENDS[number % len(ENDS)] if state == TrialState.PRUNED else {}),
            )
        )
    study.set_user_attr(
        "models",
        [
            {"trial": 17, "accuracy": 0.9, "low": 0.8, "high": 0.95, "path": "model"}
            | {"weights_sha256": "ab", "opening": 1, "leaky": False}
        ],
    )
    study.set_user_attr("openings", [{"number": 1, "time": "2026-01-01T00:00:00+00:00", "weights_sha256": ["ab"]}])
    other = optuna.create_study(study_name="other", storage=storage)
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    other.set_user_attr("config", "mine")
    other.set_user_attr("models", "none")
    views.refresh(storage.engine)
    storage.remove_session()
    storage.engine.dispose()
    return url


def _first(kind: BaseDistribution, number: int) -> Any:
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[number % len(kind.choices)]
    return kind.low  # type: ignore[attr-defined]


def test_rungs_and_overview_say_what_the_report_says(filled: str, tiny: Any) -> None:
    engine = sqlalchemy.create_engine(filled)
    study = optuna.load_study(study_name="s", storage=filled)
    config = tiny(epochs=9, eta=3)
    found = rows(engine, "SELECT * FROM rungs", "s")
    wanted = [row for row in rungs_table(study.get_trials(), config) if row[2]]
    shown = sorted((row["bracket"], row["rung"], row["entered"], row["promoted"]) for row in found)
    assert shown == sorted(wanted)
    for row in found:
        went_on = [
            trial.intermediate_values[row["rung"]]
            for trial in study.get_trials()
            if trial.user_attrs["bracket"] == row["bracket"] and len(trial.intermediate_values) > row["rung"]
        ]
        assert row["threshold"] == min(went_on, default=None)
    judged = {(row["number"], row["epoch"]) for row in rows(engine, "SELECT * FROM epochs", "s") if row["rung"]}
    assert judged == {
        (trial.number, rung)
        for trial in study.get_trials()
        for rung in (1, 3)[trial.user_attrs["bracket"] :]
        if rung in trial.intermediate_values
    }
    (row,) = rows(engine, "SELECT * FROM studies_overview", "s")
    counts = {state: sum(trial.state == state for trial in study.get_trials()) for state in TrialState}
    assert row["complete"] == counts[TrialState.COMPLETE]
    assert row["pruned"] == counts[TrialState.PRUNED]
    assert row["running"] == counts[TrialState.RUNNING]
    assert row["trials"] == 18
    assert (row["best_trial"], row["best_value"]) == (study.best_trial.number, study.best_value)
    lengths = [len(trial.intermediate_values) for trial in study.get_trials()]
    assert row["epochs_spent"] == sum(lengths)
    pruned = [trial for trial in study.get_trials() if why(trial.user_attrs) == "not_promoted"]
    assert {trial.user_attrs.get(WHY) for trial in pruned} == {None, "not_promoted"}
    assert row["epochs_saved"] == sum(9 - len(trial.intermediate_values) for trial in pruned)
    assert row["seconds"] == pytest.approx(1.5 * sum(lengths))
    (other,) = rows(engine, "SELECT * FROM studies_overview", "other")
    assert (other["complete"], other["epochs_saved"], other["protocol"]) == (2, None, None)
    assert other["best_value"] == optuna.load_study(study_name="other", storage=filled).best_value
    assert other["wall_seconds"] > 0
    (model,) = rows(engine, "SELECT * FROM models", "s")
    assert (model["accuracy"], model["low"], model["high"], model["openings"]) == (0.9, 0.8, 0.95, 1)
    assert model["opened"] == "2026-01-01T00:00:00+00:00"
    engine.dispose()


STRANGE: list[Any] = [
    "x",
    7,
    None,
    [1],
    ["x"],
    {"a": 1},
    {"seconds": "x", "hours": "1e", "epochs": "1e999", "trial": []},
    {"checkpoint_seconds": math.inf, "epochs": -math.inf, "lists": [math.nan, math.nan, {"a": math.inf}]},
]
STRANGE += [{"number": 10**400, "accuracy": "9" * 400, "opening": -1.5, "hours": "1.2.3"}, [{"trial": "x", "path": 3}]]


@pytest.mark.parametrize("kind", range(len(STRANGE)))
def test_what_another_program_writes_into_a_study_breaks_no_view(url: str, kind: int) -> None:
    study = optuna.create_study(study_name="odd", storage=open_storage(url, create=True))
    trial = study.ask({"width": IntDistribution(1, 9)})
    for key in ("config", "contract", "clock", "models", "openings"):
        study.set_user_attr(key, STRANGE[kind])
    for key in ("seconds", "bracket", "why", "leaky", "best_epoch"):
        trial.set_user_attr(key, STRANGE[kind])
    study.tell(trial, 0.5)
    optuna.create_study(study_name="good", storage=study._storage)
    views.refresh(open_storage(url, create=False).engine)
    for view in views.COLUMNS:
        with ask(as_reader(url), f"SELECT * FROM {view}") as answer:
            found = list(answer.rows())
        assert view not in ("trials_flat", "params") or len(found) == 1
        assert view != "studies_overview" or {row[0] for row in found} == {"odd", "good"}


def test_the_columns_are_the_documented_ones(filled: str) -> None:
    engine = sqlalchemy.create_engine(filled)
    with engine.connect() as connection:
        for name, columns in views.COLUMNS.items():
            found = list(connection.exec_driver_sql(f"SELECT * FROM {name} LIMIT 0").keys())
            documented = [column.name for column in columns]
            assert found[: len(documented)] == documented
            assert len(found) == len(documented) or name == "trials_flat"
    engine.dispose()


def test_a_study_that_has_just_begun_is_in_every_recipe(url: str, tiny: Any) -> None:
    open_study(open_storage(url, create=True), "s", tiny(epochs=9, eta=3), "d", "p", Path("runs/s")).study.ask()
    for recipe in RECIPES:
        with ask(as_reader(url), recipe.sql) as answer:
            list(answer.rows())


def test_a_trial_that_was_closed_before_it_began_costs_no_time(url: str) -> None:
    """As a trial that waited, and that somebody closed in the dashboard."""
    study = optuna.create_study(study_name="s", storage=open_storage(url, create=True))
    study.enqueue_trial({})
    study._storage.set_trial_state_values(study.trials[0]._trial_id, TrialState.FAIL)
    study.optimize(lambda trial: time.sleep(0.2) or 0.5, n_trials=2)
    with ask(as_reader(url), "SELECT wall_seconds FROM studies_overview") as answer:
        ((seconds,),) = answer.rows()
    assert 0.4 <= seconds < 10


def test_long_names_that_begin_alike_are_columns_each(url: str) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(url, create=True))
    kinds: dict[str, BaseDistribution] = {f"{'x' * 70}{number}": IntDistribution(0, 99) for number in range(30)}
    params = {name: number for number, name in enumerate(kinds)}
    study.add_trial(create_trial(value=0.5, params=params, distributions=kinds))
    with ask(as_reader(url), "SELECT * FROM trials_flat") as answer:
        (row,) = answer.rows()
        found = dict(zip(answer.columns, row, strict=True))
    assert sorted(value for name, value in found.items() if "xxx" in name) == list(range(30))


def test_tables_that_cannot_be_read_or_have_odd_names_are_in_no_way(postgres: str, tmp_path: Path) -> None:
    here, there = f"sqlite:///{tmp_path}/optuna.db", new_database(postgres)
    for url in (here, there):
        optuna.create_study(study_name="s", storage=open_storage(url, create=True))
        with sqlalchemy.create_engine(url).begin() as connection:
            connection.exec_driver_sql('CREATE TABLE "a""b" (x INTEGER)')
    role = f"n{time.monotonic_ns()}"
    with sqlalchemy.create_engine(there, isolation_level="AUTOCOMMIT").connect() as database:
        database.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        database.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        database.exec_driver_sql("CREATE TABLE invoices (x INTEGER)")  # which that role may not read
    for url in (here, there.replace("postgres:@", f"{role}:x@")):
        with ask(url, "SELECT study FROM studies_overview") as answer:
            assert list(answer.rows()) == [("s",)]


def test_a_line_feed_in_a_cell_forges_no_row(url: str, shell: Shell) -> None:
    open_storage(url, create=True)
    query = (
        "SELECT 'a' || chr(10) || 'FORGED' AS x" if "postgresql" in url else "SELECT 'a' || char(10) || 'FORGED' AS x"
    )
    out = shell("sql", query, "--storage", as_reader(url))[1]
    assert [line.strip() for line in out.splitlines()] == ["x", "a\\nFORGED"]


def test_columns_of_one_name_all_reach_json(url: str, shell: Shell) -> None:
    open_storage(url, create=True)
    out = shell("sql", "SELECT 1 AS v, 2 AS v, 3 AS v_2", "--json", "--storage", as_reader(url))[1]
    assert json.loads(out) == [{"v": 1, "v_2": 2, "v_2_2": 3}]


def test_a_misspelt_recipe_is_told_from_sql(url: str, shell: Shell) -> None:
    open_storage(url, create=True)
    code, out, err = shell("sql", "best-pr-depth", "--storage", url)
    assert (code, out) == (2, "")
    assert err == "study: no recipe 'best-pr-depth'; did you mean best-per-depth? (study sql lists them)\n"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_recipes_answer_the_same_everywhere(recipe: Any, filled: str) -> None:
    with ask(as_reader(filled), recipe.sql) as answer:
        columns, ours = answer.columns, list(answer.rows())
    assert ours
    engine = sqlalchemy.create_engine(filled)
    with engine.connect() as connection:
        table = pandas.read_sql(sqlalchemy.text(recipe.sql), connection)
    engine.dispose()
    assert list(table.columns) == columns
    assert len(table) == len(ours)
    if not filled.startswith("sqlite"):
        return
    file = filled.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(file)) as plain:
        assert plain.execute(recipe.sql).fetchall() == ours
    duckdb_extensions.import_extension("sqlite_scanner")
    with contextlib.closing(duckdb.connect()) as duck:
        duck.execute(f"LOAD sqlite; ATTACH '{file}' AS history (TYPE sqlite, READ_ONLY)")
        passed_on = duck.execute("SELECT * FROM sqlite_query('history', ?)", [recipe.sql]).fetchall()
        with contextlib.closing(sqlite3.connect(file)) as plain:
            for name in VIEWS:
                duck.register(name, pandas.read_sql(f"SELECT * FROM {name}", plain))
        computed = duck.execute(recipe.sql).fetchall()
    for found in (passed_on, computed):
        assert len(found) == len(ours)
        for mine, its in zip(ours, found, strict=True):
            assert all(alike(a, b) for a, b in zip(mine, its, strict=True)), (mine, its)


def alike(mine: Any, its: Any) -> bool:
    """Return whether two values are the same, as text or as numbers; pandas writes NaN for a number that is absent.

    Each version of SQLite rounds times to whole milliseconds in its own way, and DuckDB brings its own version.
    """
    if mine is None:
        return its is None or math.isnan(its)
    return bool(mine == its) or math.isclose(float(mine), float(its), rel_tol=1e-6, abs_tol=5e-3)


WRITES = [
    "DELETE FROM trials",
    "UPDATE trials SET state = 'FAIL'",
    "INSERT INTO studies VALUES (99, 'x')",
    "INSERT INTO studies (study_name) SELECT 'x'",
    "DROP TABLE trials",
    "DROP VIEW trials_flat",
    "CREATE TABLE t (a INTEGER)",
    "CREATE TEMPORARY TABLE t (a INTEGER)",
    "CREATE VIEW v AS SELECT 1",
    "CREATE INDEX i ON trials (number)",
    "ALTER TABLE trials RENAME TO t",
    "ALTER TABLE trials ADD COLUMN c INTEGER",
    "WITH x AS (SELECT 1) DELETE FROM trials",
    "EXPLAIN ANALYZE DELETE FROM trials",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "VACUUM",
    "ANALYZE",
    "REINDEX trials",
    "SELECT 1; DELETE FROM trials",
    "SELECT 1; SELECT 2",
    "; DELETE FROM trials",
    "-- nothing",
    "/* SELECT */ DELETE FROM trials",
    "CREATE TRIGGER t AFTER INSERT ON trials BEGIN SELECT 1; END",
    "SELECT * INTO t FROM trials",
    "SELEC 1",
    "SELECT * FROM no_such",
    "SELECT no_such FROM trials",
    "SELECT load_extension('x')",
    "",
    "\0",
]
SQLITE = [
    *WRITES,
    "PRAGMA journal_mode = DELETE",
    "PRAGMA user_version = 7",
    "PRAGMA writable_schema = ON",
    "PRAGMA query_only = OFF",
    "SELECT * FROM pragma_user_version",
    "ATTACH 'other.db' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "REPLACE INTO studies VALUES (1, 'x')",
    "VACUUM INTO 'copy.db'",
    "DELETE FROM sqlite_master",
    "UPDATE sqlite_master SET sql = ''",
    "CREATE VIRTUAL TABLE v USING fts5(a)",
    "SELECT writefile('written', 'x')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT zeroblob(2000000000)",
    "SELECT group_concat(hex(zeroblob(9000000))) FROM trials a, trials b, trials c",
    "SELECT printf('%.999999999c', 'x')",
    "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r",
    "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT * FROM r",
    "SELECT count(*) FROM trial_params a, trial_params b, trial_params c, trial_params d, trial_params e",
    "SELECT instr(hex(zeroblob(4000000)), hex(zeroblob(2000000)) || '1')",
]
POSTGRESQL = [
    *WRITES,
    "COPY trials TO '/tmp/never'",
    "COPY (SELECT 1) TO PROGRAM 'touch /tmp/never'",
    "COPY studies FROM '/etc/passwd'",
    "DO $$ BEGIN DELETE FROM trials; END $$",
    "SET TRANSACTION READ WRITE",
    "SET ROLE postgres",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CALL f()",
    "TRUNCATE trials",
    "LOCK TABLE trials",
    "GRANT ALL ON trials TO public",
    "WITH d AS (DELETE FROM trials RETURNING *) SELECT * FROM d",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT nextval('studies_study_id_seq')",
    "SELECT setval('studies_study_id_seq', 9)",
    "SELECT * FROM trials FOR UPDATE",
    "SELECT set_config('role', 'none', true), pg_read_file('/etc/passwd')",
    "SELECT pg_sleep(60)",
    "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r",
    "SELECT * FROM generate_series(1, 2000000000)",
    "SELECT repeat('x', 1000000000), repeat('y', 1000000000)",
]


def test_a_query_that_is_no_text_gets_a_line(shell: Shell, tmp_path: Path) -> None:
    open_storage(f"sqlite:///{tmp_path}/optuna.db", create=True)
    assert shell("sql", "SELECT '\udcff'") == (2, "", "study: the query is no text in UTF-8\n")


@pytest.mark.slow
def test_hostile_statements_change_nothing_and_end_in_time(filled: str, tmp_path: Path) -> None:
    lite = filled.startswith("sqlite")
    engine = sqlalchemy.create_engine(filled)
    children = set(multiprocessing.active_children())  # a decoder of DICOM may wait for other tests' images
    before = _content(engine)
    hostile, reader = SQLITE if lite else POSTGRESQL, as_reader(filled)
    assert len(hostile) >= 50
    for statement in hostile:
        start = time.monotonic()
        with pytest.raises(StudyError) as refused, ask(reader, statement, seconds=1.0) as answer:
            for _ in answer.rows():
                pass
        assert time.monotonic() - start < 5, statement
        assert len(str(refused.value)) > 15, statement
    assert _content(engine) == before
    assert set(multiprocessing.active_children()) <= children  # nobody goes on answering
    engine.dispose()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("optuna.db")) == []
    assert not Path("/tmp/never").exists()


def _content(engine: sqlalchemy.Engine) -> dict[str, Any]:
    inspector = sqlalchemy.inspect(engine)
    names = [*inspector.get_table_names(), *inspector.get_view_names()]
    with engine.connect() as connection:
        return {name: sorted(map(str, connection.exec_driver_sql(f"SELECT * FROM {name}"))) for name in names}


@pytest.mark.slow
def test_sql_from_the_shell(shell: Shell, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shell("sql", "SELECT 1")[2].startswith("study: no database at optuna.db (start a study with: study run")
    assert shell("run", *tiny_options(small_folder, trials=2), "--name", "s")[0] == 0
    code, out, _ = shell("sql", "SELECT number, state, value FROM trials_flat ORDER BY number", "--json")
    best = optuna.load_study(study_name="s", storage="sqlite:///optuna.db").get_trials()
    assert code == 0
    assert json.loads(out) == [
        {"number": trial.number, "state": trial.state.name, "value": trial.value} for trial in best
    ]
    assert json.loads(shell("sql", "SELECT 1 AS a WHERE 0", "--json")[1]) == []
    code, out, _ = shell("sql", "SELECT 'a,\"b' AS text, NULL AS absent", "--csv")
    assert list(csv.reader(io.StringIO(out))) == [["text", "absent"], ['a,"b', ""]]
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT accuracy FROM models"))
    card = json.loads((tmp_path / "runs" / "s" / "model" / "card.json").read_text())
    assert json.loads(shell("sql", "-", "--json")[1]) == [{"accuracy": card["test"]["accuracy"]}]
    for recipe in RECIPES:
        code, out, _ = shell("sql", recipe.name)
        assert (code, out.split()[0]) == (0, "study"), out
    assert all(recipe.sql in shell("sql")[1] for recipe in RECIPES)
    schema = json.loads(shell("sql", "--schema", "--json")[1])
    assert {row["view"] for row in schema} == set(VIEWS)
    code, _, err = shell("sql", "SELECT valu FROM trials_flat")
    assert (code, err.partition("?")[0]) == (2, "study: no column 'valu'; did you mean value")
    code, _, err = shell("sql", "SELECT * FROM trails_flat")
    assert "no table 'trails_flat'; did you mean trials_flat" in err
    code, _, err = shell("sql", "DELETE FROM trials")
    assert (code, err) == (
        2,
        "study: DELETE is refused: only one SELECT at a time is answered, and nothing is ever written\n",
    )
    assert shell("sql", "SELECT 1", "--json", "--csv")[0] == 2


def test_tables_of_optuna_are_answered_with_the_view_that_is_meant(shell: Shell, tmp_path: Path, tiny: Any) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/optuna.db", create=True)
    open_study(storage, "s", tiny(), "d", "p", Path("runs/s"))
    tables = {name for name in sqlalchemy.inspect(storage.engine).get_table_names() if name in views.INSTEAD}
    assert tables == set(views.INSTEAD)
    for table in tables:
        code, out, err = shell("sql", f"SELECT count(*) AS n FROM {table}", "--csv")
        assert (code, out.split()[0], err.count("\n")) == (0, "n", 1)
        assert err == f"{table} is a table of Optuna's own; what reads better: {views.INSTEAD[table]}\n"
    code, _, err = shell("sql", 'SELECT p.valu FROM studies s, "trial_params" AS p')
    assert (code, err.count("\n")) == (2, 1)
    assert "no column 'valu'; did you mean param_value?" in err
    assert "no column 'vlue'; did you mean value?" in shell("sql", "SELECT vlue FROM trials")[2]
    assert shell("sql", "SELECT state, 'from trials' AS t FROM trials_flat -- from studies")[2] == ""
    assert shell("sql", "SELECT params.name FROM params JOIN trials_flat USING (study, number)")[2] == ""
    for query, said in (
        ("SELECT acuracy FROM epochs", "no column 'acuracy'; did you mean accuracy?"),
        ("SELECT accuracy FROM trials_flat", "did you mean best_accuracy? (it stands in epochs and models; all"),
        ("SELECT t.num_param FROM trials_flat t", "no column 'num_param'; did you mean num_params?"),
    ):
        code, _, err = shell("sql", query)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err


def test_a_database_that_may_only_be_read_is_asked_all_the_same(filled: str, tmp_path: Path) -> None:
    """Made by plain Optuna: the views are the question's own, and the file stays as it was."""
    file = tmp_path / "plain.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript((DATABASES / "optuna_4.sql").read_text())
    before = file.read_bytes()
    with ask(f"sqlite:///{file}", "SELECT number, state, value, kernel, norm, rate > 0 FROM trials_flat") as answer:
        found = list(answer.rows())
    assert [row[:2] for row in found] == [
        (0, "COMPLETE"),
        (1, "COMPLETE"),
        (2, "PRUNED"),
        (3, "COMPLETE"),
        (4, "WAITING"),
    ]
    assert found[3][2] == -math.inf
    assert file.read_bytes() == before


@pytest.mark.parametrize("version", [3, 4])
def test_views_are_never_in_the_way_of_a_migration(version: int, tmp_path: Path, shell: Shell, tiny: Any) -> None:
    """Optuna changes its tables from version to version, and fails half-way where a view looks at them."""
    file = tmp_path / "optuna.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript((DATABASES / f"optuna_{version}.sql").read_text())
        for name in VIEWS:
            connection.execute(f"CREATE VIEW {name} AS SELECT state, value, value_type FROM trials JOIN trial_values")
        connection.commit()
    code, _, err = shell("status")
    if version == 3:
        assert code == 2
        assert re.search(r"study db upgrade --storage sqlite:///optuna.db\)$", err.strip())
        command = [
            str(Path(sys.executable).parent / "optuna"),
            "storage",
            "upgrade",
            "--storage",
            "sqlite:///optuna.db",
        ]
        subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
        assert shell("status")[0] == 0
    storage = open_storage(f"sqlite:///{file}", create=False)
    open_study(storage, "new", tiny(), "d", "p", Path("runs/new"))
    assert shell("sql", "SELECT count(*) AS n FROM trials_flat", "--csv")[1] == "n\n5\n"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM trials_flat").fetchone() == (5,)


def test_a_role_that_may_write_is_warned_of(postgres: str, caplog: pytest.LogCaptureFixture) -> None:
    name, role = f"w{time.monotonic_ns()}", f"r{time.monotonic_ns()}"
    url = postgres.replace("/postgres?", f"/{name}?")
    with sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT").connect() as server:
        server.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        optuna.create_study(study_name="s", storage=open_storage(url, create=True))
        server.execute(sqlalchemy.text(f"CREATE ROLE {role} LOGIN PASSWORD 'x'"))
    reader = url.replace("postgres:@", f"{role}:x@")
    for grant, warned in (("SELECT", False), ("INSERT", True)):
        with sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT").connect() as database:
            database.execute(sqlalchemy.text(f"GRANT {grant} ON ALL TABLES IN SCHEMA public TO {role}"))
        with ask(reader, "SELECT study FROM studies_overview") as answer:
            assert list(answer.rows()) == [("s",)]
        assert ("this role may also write" in caplog.text) is warned
        caplog.clear()


def test_a_role_that_reaches_the_servers_files_is_refused_with_the_way_to_another(postgres: str) -> None:
    url, role = new_database(postgres), f"f{time.monotonic_ns()}"
    optuna.create_study(study_name="s", storage=open_storage(url, create=True))
    with sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT").connect() as database:
        for statement in (f"CREATE ROLE {role} LOGIN PASSWORD 'x'", f"GRANT pg_read_server_files TO {role}"):
            database.execute(sqlalchemy.text(statement))
    for address, name in ((url, "postgres"), (url.replace("postgres:@", f"{role}:x@"), role)):
        with pytest.raises(StudyError) as refused, ask(address, "SELECT 1"):
            pass
        assert f"role '{name}' may read and write files of the server" in str(refused.value)
        assert "CREATE ROLE reader LOGIN" in str(refused.value)
    with ask(as_reader(url), "SELECT study FROM studies_overview") as answer:
        assert list(answer.rows()) == [("s",)]


@pytest.mark.parametrize("place", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_large_rows_come_one_by_one(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Whoever wants the first of many large rows waits for one of them, and has memory for one."""
    url = f"sqlite:///{tmp_path}/optuna.db" if place == "sqlite" else new_database(request.getfixturevalue("postgres"))
    optuna.create_study(study_name="s", storage=open_storage(url, create=True))
    large = "zeroblob(15000000)" if place == "sqlite" else "repeat('x', 15000000)"
    rows = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r WHERE x < 300)"
    with ask(as_reader(url), f"{rows} SELECT {large} FROM r") as answer:
        child = answer._child.pid
        assert len(next(answer.rows())[0]) == 15_000_000
        peak = next(line for line in Path(f"/proc/{child}/status").read_text().splitlines() if line.startswith("VmHWM"))
    before = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    assert int(peak.split()[1]) - int(before.split()[1]) < 200_000  # kB; 500 rows at once are 7.5 GB


def test_limit_and_timeout(shell: Shell, tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/optuna.db")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), 5)
    for option, lines in (("--csv", 3), ("--json", 4)):
        assert len(shell("sql", "SELECT number FROM trials_flat", option, "--limit", 2)[1].splitlines()) == lines
    code, out, err = shell("sql", "SELECT number FROM trials_flat", "--limit", 2)
    assert (code, len(out.splitlines()), err) == (0, 3, "the first 2 rows; all of them with --csv or --json\n")
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    code, _, err = shell("sql", endless, "--timeout", 0.5)
    assert (code, "no answer within 0.5 seconds" in err, "--timeout MORE" in err) == (2, True, True)


def test_a_table_on_the_screen_has_an_end(shell: Shell, tmp_path: Path) -> None:
    """A thousand rows of 16 MB are no table; all of them come as CSV."""
    optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/optuna.db")
    rows = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r WHERE x < 900)"
    for large, cut in (("hex(zeroblob(1000000))", True), ("hex(zeroblob(900))", False), ("zeroblob(2000000)", True)):
        code, out, err = shell("sql", f"{rows} SELECT {large} AS x FROM r", "--timeout", 60)
        assert (code, len(out) < 3 << 20) == (0, True)
        assert ("the first 2000 characters of a cell; all of them with --csv or --json" in err) is cut
        assert re.search(r"the first \d+ rows, which are large; all of them with --csv or --json", err)
    assert len(shell("sql", "SELECT hex(zeroblob(100000)) AS x", "--csv")[1]) > 200_000


def test_a_table_of_the_same_name_stays(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/optuna.db", create=True)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE models (mine INTEGER)")
    views.refresh(storage.engine)
    with storage.engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT * FROM models").keys() == ["mine"]
        assert connection.exec_driver_sql("SELECT count(*) FROM trials_flat").scalar() == 0
