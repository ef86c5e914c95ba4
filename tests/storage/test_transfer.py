"""Studies from SQLite to PostgreSQL and back: the same rows, and a study that goes on as the original does."""

import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from study import StudyError
from study.storage.door import open_storage
from study.storage.lean import TRIALS
from study.storage.transfer import OF_STUDIES, OF_TRIALS, STUDIES, transfer
from tests.conftest import Shell, as_reader, new_database, tiny_options


def rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All of Optuna's rows in their order, without the keys that a database numbers them by."""
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        names = {row.study_id: row.study_name for row in connection.execute(sqlalchemy.select(STUDIES))}
        every = connection.execute(sqlalchemy.select(TRIALS))
        trials = {row.trial_id: (names[row.study_id], row.number) for row in every}
        known = {"study_id": names, "trial_id": trials}
        found = {}
        for table in (STUDIES, TRIALS, *OF_STUDIES, *OF_TRIALS):
            (key,) = table.primary_key
            keep = [column for column in table.columns if column is not key or column.name in known]
            query = sqlalchemy.select(*keep).order_by(key)
            found[table.name] = [
                tuple(known[name][value] if name in known else value for name, value in row._mapping.items())
                for row in connection.execute(query)
            ]
    engine.dispose()
    return found


def told(trial: FrozenTrial) -> tuple[Any, ...]:
    return trial.state, trial.values, trial.params, trial.intermediate_values


@pytest.mark.slow
def test_there_and_back_and_on(shell: Shell, small_folder: Path, postgres: str, tmp_path: Path) -> None:
    """Two studies; one of them goes on in each of the three databases, to the same trials."""
    server = new_database(postgres)
    for name, trials in (("s", 7), ("other", 2)):
        assert shell("run", *tiny_options(small_folder, trials=trials), "--name", name)[0] == 0
    code, out, err = shell("db", "copy", "optuna.db", server)
    assert (code, err) == (0, "s: 7 trials\nother: 2 trials\n")
    assert "***" in out or "postgresql+psycopg://" in out
    (tmp_path / "back").mkdir()
    back = f"sqlite:///{tmp_path}/back/optuna.db"
    assert shell("db", "copy", server, back)[0] == 0
    first = rows(f"sqlite:///{tmp_path}/optuna.db")
    assert first == rows(server) == rows(back)
    assert len(first["trials"]) == 9
    assert len(first["trial_intermediate_values"]) > 9
    # The views are there, too.
    for storage in (server, back):
        assert shell("sql", "SELECT count(*) FROM trials_flat", "--csv", "--storage", as_reader(storage))[1].endswith(
            "9\n"
        )
    # The files belong to the study of the first database; told, and then taken over.
    code, _, err = shell("resume", "s", "--storage", server)
    assert (code, "belongs to the study 's' of optuna.db" in err) == (2, True)
    (tmp_path / "runs").rename(tmp_path / "before")
    found = []
    for storage in (f"sqlite:///{tmp_path}/optuna.db", server, back):
        assert shell("resume", "s", "--trials", "14", "--storage", storage)[0] == 0
        study = optuna.load_study(study_name="s", storage=open_storage(storage, create=False))
        found.append([(*told(trial), trial.number, trial.user_attrs["bracket"]) for trial in study.trials])
        if storage != back:
            (tmp_path / "runs").rename(tmp_path / f"runs-{len(found)}")
    assert len(found[0]) == 14
    assert found[0] == found[1] == found[2]


def test_nothing_is_copied_where_a_name_is_taken_or_a_row_cannot_be_kept(postgres: str, tmp_path: Path) -> None:
    server = new_database(postgres)
    source = f"sqlite:///{tmp_path}/optuna.db"
    first = optuna.create_study(study_name="s", storage=open_storage(source, create=True))
    first.set_user_attr("note", "a\0b")
    before = rows(source)
    target = open_storage(server, create=True)
    transfer(open_storage(source, create=False, write=False), target)  # JSON says \\u0000
    optuna.create_study(study_name="t", storage=open_storage(source, create=False))
    with pytest.raises(StudyError, match="there are studies of these names already: s"):
        transfer(open_storage(source, create=False, write=False), target)
    assert rows(server) == before
    optuna.delete_study(study_name="s", storage=target)
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.execute("UPDATE study_user_attributes SET value_json = 'a' || char(0) || 'b'")
    with pytest.raises(StudyError, match=r"a row cannot be copied: .*NUL"):
        transfer(open_storage(source, create=False, write=False), target)
    assert target.study_names() == []


VALUES = st.one_of(st.floats(allow_nan=True), st.sampled_from([float("inf"), float("-inf"), 1e-320, -0.0, 0.1 + 0.2]))
CHOICES: tuple[bool | int | float | str | None, ...] = (None, True, 1, 1.5, "a", "ö")
SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "rate": optuna.distributions.FloatDistribution(1e-5, 1.0, log=True),
    "width": optuna.distributions.IntDistribution(1, 1024, log=True),
    "kind": optuna.distributions.CategoricalDistribution(CHOICES),
}


@st.composite
def trials(draw: st.DrawFn) -> FrozenTrial:
    state = draw(st.sampled_from(list(TrialState)))
    point = {
        "rate": draw(st.floats(1e-5, 1.0)),
        "width": draw(st.integers(1, 1024)),
        "kind": draw(st.sampled_from(CHOICES)),
    }
    chosen = draw(st.sets(st.sampled_from(list(SPACE))))
    steps = draw(st.dictionaries(st.integers(0, 40), VALUES, max_size=4))
    value = draw(st.floats(allow_nan=False)) if state == TrialState.COMPLETE else None
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params={name: point[name] for name in chosen},
        distributions={name: SPACE[name] for name in chosen},
        intermediate_values=steps,
        user_attrs=draw(st.dictionaries(st.text("aé'\"\\\n", max_size=5), st.text(max_size=5), max_size=2)),
        system_attrs={"completed_rung_0": draw(st.floats(allow_nan=False))} if draw(st.booleans()) else {},
    )


def test_any_study_reads_the_same(postgres: str, tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/a.db", new_database(postgres), f"sqlite:///{tmp_path}/b.db"]
    source, there, back = (open_storage(url, create=True) for url in urls)

    @settings(max_examples=30, deadline=None)
    @given(st.lists(trials(), max_size=5))
    def check(drawn: list[FrozenTrial]) -> None:
        study = optuna.create_study(study_name="s", storage=source, direction="maximize")
        for trial in drawn:
            study.add_trial(trial)
        transfer(source, there)
        transfer(there, back)
        try:
            assert repr(rows(urls[0])) == repr(rows(urls[1])) == repr(rows(urls[2]))
            for storage in (there, back):
                loaded = optuna.load_study(study_name="s", storage=storage).trials
                assert repr(list(map(told, loaded))) == repr(list(map(told, study.trials)))
        finally:
            for storage in (source, there, back):
                optuna.delete_study(study_name="s", storage=storage)

    check()


def test_a_reader_sees_one_state_whoever_writes_meanwhile(url: str) -> None:
    """A copy that is made while workers write must not hold half of what one of them wrote."""
    writer = open_storage(url, create=True)
    study = optuna.create_study(study_name="s", storage=writer)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    reader = open_storage(url, create=False, write=False)
    count = sqlalchemy.select(sqlalchemy.func.count()).select_from(TRIALS)
    with reader.engine.connect().execution_options(**reader.backend.one_state) as seen:
        first = seen.scalar(count)
        study.add_trial(optuna.trial.create_trial(value=2.0))
        assert (first, seen.scalar(count)) == (1, 1)
    with reader.reading() as seen:
        assert seen.scalar(count) == 2


def test_a_copy_is_the_same_where_sqlite_cannot_return_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("a", "b")]
    source, target = (open_storage(url, create=True) for url in urls)
    optuna.create_study(study_name="other", storage=target)
    study = optuna.create_study(study_name="s", storage=source)
    for value in (1.0, 2.0):
        study.add_trial(optuna.trial.create_trial(value=value, intermediate_values={0: 0.5}, user_attrs={"a": [1]}))
    for one in ("insert_executemany_returning_sort_by_parameter_order", "insert_executemany_returning"):
        monkeypatch.setattr(target.engine.dialect, one, False)  # as before 3.35
    assert transfer(source, target) == [("s", 2)]
    assert list(map(told, optuna.load_study(study_name="s", storage=target).trials)) == list(map(told, study.trials))
