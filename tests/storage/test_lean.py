"""Our storage and Optuna's own read and write the same tables, in every kind of database."""

import math
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event

from study.storage.door import open_storage
from study.storage.lean import AT_ONCE, LeanStorage

SPACE = {
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "blocks": IntDistribution(1, 5),
    "units": CategoricalDistribution(["none", "64", "64-32"]),
}
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)  # PostgreSQL takes no NUL
NUMBERS = st.floats(allow_nan=False, width=64)


Both = tuple[LeanStorage, RDBStorage]


@pytest.fixture
def both(url: str) -> Iterator[Both]:
    """Ours and Optuna's, on one database."""
    ours, theirs = open_storage(url, create=True), RDBStorage(url)
    yield ours, theirs
    for storage in (ours, theirs):
        storage.remove_session()
        storage.engine.dispose()


@st.composite
def trials(draw: st.DrawFn) -> FrozenTrial:
    """A trial as some program may have left it."""
    state = draw(st.sampled_from(list(TrialState)))
    params = {
        "rate": draw(st.floats(1e-5, 1e-1)),
        "blocks": draw(st.integers(1, 5)),
        "units": draw(st.sampled_from(["none", "64", "64-32"])),
    }
    return create_trial(
        state=state,
        value=draw(NUMBERS) if state == TrialState.COMPLETE else None,
        params=params,
        distributions=SPACE,
        intermediate_values=draw(st.dictionaries(st.integers(0, 20), st.floats(width=64), max_size=4)),
        user_attrs=draw(st.dictionaries(TEXT, st.none() | st.lists(st.integers()), max_size=3)),
        system_attrs=draw(st.dictionaries(st.sampled_from(["completed_rung_0", "fixed_params"]), NUMBERS, max_size=2)),
    )


def content(trial: FrozenTrial) -> str:
    """Everything, NaN included (it equals itself here), with the parameters in their order."""
    fields = {
        key: sorted(map(repr, value.items())) if isinstance(value, dict) else value
        for key, value in vars(trial).items()
    }
    return repr((sorted(fields.items()), list(trial.params), list(trial.distributions)))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(trials(), max_size=6))
def test_reads_what_optuna_reads(both: Both, history: list[FrozenTrial]) -> None:
    ours, theirs = both
    study = optuna.create_study(storage=theirs)
    study.add_trials(history)
    number = study._study_id
    for states in (None, (TrialState.WAITING, TrialState.RUNNING), (TrialState.COMPLETE,)):
        read, expected = ours.get_all_trials(number, states=states), theirs.get_all_trials(number, states=states)
        assert list(map(content, read)) == list(map(content, expected))
    for trial in theirs.get_all_trials(number):
        assert content(ours.get_trial(trial._trial_id)) == content(trial)


def test_writes_what_optuna_writes(both: Both) -> None:
    ours, theirs = both
    study = optuna.create_study(study_name="s", storage=theirs)
    one, other = study.ask(), study.ask()
    for storage, trial in ((ours, one), (theirs, other)):
        number = trial._trial_id
        for step, value in enumerate((0.25, math.nan, math.inf, -math.inf, 1 / 3)):
            storage.set_trial_intermediate_value(number, step, value)
        storage.set_trial_intermediate_value(number, 0, 0.5)
        storage.set_trial_user_attr(number, "ä", {"b": [1, None]})
        storage.set_trial_user_attr(number, "ä", {"b": [2, None]})
        storage.set_trial_system_attr(number, "completed_rung_0", 0.5)
    for name, kind, value in (("rate", SPACE["rate"], 0.01), ("units", SPACE["units"], "64-32")):
        theirs.set_trial_param(other._trial_id, name, kind.to_internal_repr(value), kind)
    ours.set_params(one._trial_id, {"rate": 0.01, "units": "64-32"}, SPACE)
    ours.set_attributes(one._trial_id, {"many": 1, "ä": {"b": [3, None]}})
    theirs.set_trial_user_attr(other._trial_id, "ä", {"b": [3, None]})
    theirs.set_trial_user_attr(other._trial_id, "many", 1)
    fields = ("params", "distributions", "user_attrs", "system_attrs", "state")
    written, expected = theirs.get_trial(one._trial_id), theirs.get_trial(other._trial_id)
    assert [getattr(written, field) for field in fields] == [getattr(expected, field) for field in fields]
    assert repr(written.intermediate_values) == repr(expected.intermediate_values)
    ours.forget_rung(one._trial_id, 0)
    assert theirs.get_trial(one._trial_id).system_attrs == {}


def test_no_list_of_rows_is_left_to_the_driver(both: Both) -> None:
    """As psycopg's pipeline mode, it can leave a connection that is cut off unusable without a word."""
    ours, _ = both
    trial = optuna.create_study(study_name="s", storage=ours).ask()._trial_id
    sent: list[tuple[str, bool]] = []

    @event.listens_for(ours.engine, "before_cursor_execute")
    def _note(*call: Any) -> None:
        sent.append((call[2], call[5]))

    ours.set_params(trial, {"rate": 0.01, "units": "64-32"}, SPACE)
    ours.set_attributes(trial, {"one": 1, "two": 2})
    assert [text for text, many in sent if many] == []
    assert sum("INSERT" in text for text, _ in sent) == 2


def test_states_and_values_as_optuna_writes_them(both: Both) -> None:
    ours, theirs = both
    study = optuna.create_study(study_name="s", storage=theirs, directions=["maximize", "maximize"])
    ends = [
        (TrialState.COMPLETE, (0.5, math.inf)),
        (TrialState.COMPLETE, (-math.inf, 1e-300)),
        (TrialState.PRUNED, None),
        (TrialState.FAIL, None),
        (TrialState.WAITING, None),
    ]
    for state, values in ends:
        trials = []
        for storage in both:
            number = study.ask()._trial_id
            assert storage.set_trial_state_values(number, TrialState.RUNNING) is False
            assert storage.set_trial_state_values(number, state, values) is True
            trials.append(theirs.get_trial(number))
        written, expected = trials
        assert (written.state, written.values) == (expected.state, expected.values)
        for field in ("datetime_start", "datetime_complete"):
            apart = [getattr(trial, field).timestamp() if getattr(trial, field) else 0.0 for trial in trials]
            assert abs(apart[0] - apart[1]) < 5
    study.enqueue_trial({"a": 1})
    number = study.get_trials()[-1]._trial_id
    assert ours.set_trial_state_values(number, TrialState.RUNNING) is True
    assert ours.set_trial_state_values(number, TrialState.RUNNING) is False
    assert theirs.get_trial(number).datetime_start is not None
    ours.set_trial_state_values(number, TrialState.COMPLETE, (1.0, 2.0))
    with pytest.raises(UpdateFinishedTrialError):
        ours.set_trial_state_values(number, TrialState.COMPLETE, (3.0, 4.0))


def test_what_has_ended_or_is_not_there(both: Both) -> None:
    ours, _ = both
    study = optuna.create_study(study_name="s", storage=ours)
    number = study.ask()._trial_id
    study.tell(0, 1.0)
    for act in (
        lambda one: ours.set_trial_intermediate_value(one, 1, 0.5),
        lambda one: ours.set_attributes(one, {"a": 1}),
        lambda one: ours.set_params(one, {"blocks": 1}, SPACE),
        lambda one: ours.forget_rung(one, 0),
    ):
        with pytest.raises(UpdateFinishedTrialError):
            act(number)
        with pytest.raises(KeyError):
            act(number + 1)
    for look in (ours.get_trial, ours.get_all_trials, ours.get_study_user_attrs):
        with pytest.raises(KeyError):
            look(number + 1)


def test_a_long_history(both: Both) -> None:
    ours, theirs = both
    study = optuna.create_study(study_name="s", storage=theirs)
    study.add_trials(create_trial(value=float(number)) for number in range(AT_ONCE + 3))
    assert [trial.value for trial in ours.get_all_trials(study._study_id)] == list(range(AT_ONCE + 3))


def test_a_reader_waits_for_nobody(both: Both, url: str) -> None:
    ours, _ = both
    study = optuna.create_study(study_name="s", storage=ours)
    number = study.ask()._trial_id
    other = open_storage(url, create=False)
    with other._updating(number):
        assert ours.get_trial(number).number == 0
        assert len(ours.get_all_trials(study._study_id)) == 1
