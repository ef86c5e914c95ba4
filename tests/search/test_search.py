"""Searches in this process: what a trial leaves behind, budgets, adoption, idempotence, and the sealed test part."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from data.datasets import ImageSet
from models.bundle import folder as bundle
from models.scores.conformal import PredictionSets, RefusedLevel
from models.scores.evaluation import predict_logits
from models.training.loop import EpochResult
from study import StudyError
from study.attributes import OPENINGS
from study.config.rungs import brackets
from study.config.schema import StudyConfig
from study.result import final
from study.result.final import Outcome, finish
from study.result.refit import FinalEpoch
from study.search import trial as trial_module
from study.search.open_study import OpenStudy
from study.search.standing import is_start, ranked, winner
from study.search.trial import Step, TrialEpoch, TrialNews, TrialStart, objective
from study.search.worker import MOST_LATE_TRIALS
from study.search.worker import search as run_trials
from study.storage.door import open_storage
from study.training.workspace import Workspace
from tests.conftest import Shell, open_work, tiny_options

MakeWork = Callable[..., Workspace]
MakeConfig = Callable[..., StudyConfig]


def opened(work: Workspace, folder: Path, name: str = "s") -> OpenStudy:
    return open_work(work, f"sqlite:///{folder}/optuna.db", name)


def search(study: OpenStudy, work: Workspace) -> Iterator[TrialNews]:
    return run_trials(study, objective(work))


def drain(news: Iterator[Any]) -> list[Any]:
    return list(news)


def history(study: OpenStudy) -> list[tuple[Any, ...]]:
    """What must not depend on interruptions: the storage's own view, read fresh."""
    fresh = optuna.load_study(study_name=study.name, storage=study.storage)
    return [
        (
            trial.number,
            trial.state.name,
            trial.value,
            trial.params,
            trial.intermediate_values,
            {key: value for key, value in trial.system_attrs.items() if key.startswith("completed_rung")},
        )
        for trial in fresh.get_trials()
    ]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_leaves_a_readable_history(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path, sampler: str
) -> None:
    work = workspace(tiny(sampler=sampler, trials=14))
    study = opened(work, tmp_path)
    drain(search(study, work))
    trials = study.study.get_trials()
    assert len(trials) == 14
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        attributes = trial.user_attrs
        steps = sorted(trial.intermediate_values)
        assert steps == list(range(1, len(steps) + 1))
        assert trial.value == trial.intermediate_values[steps[-1]]
        assert attributes["best_accuracy"] == max(trial.intermediate_values.values())
        assert trial.intermediate_values[attributes["best_epoch"]] == attributes["best_accuracy"]
        assert attributes["num_params"] > 0
        assert attributes["images_per_second"] > 0
        assert 0 <= attributes["train_accuracy"] <= 1
        assert attributes["versions"]["optuna"] == optuna.__version__
        rungs = brackets(1, 4, 2)[attributes["bracket"]]
        assert attributes["bracket"] == work.config.bracket_of("s", trial.number)
        if trial.state == TrialState.PRUNED:
            assert len(steps) in rungs
            assert len(steps) < 4  # never after the last epoch
            assert "bracket after" in attributes["pruned_because"]
        else:
            assert len(steps) == 4
    best = max((trial for trial in trials if trial.state == TrialState.COMPLETE), key=lambda trial: trial.value or 0)
    assert winner(study).value == best.value


def test_without_a_pruner_every_trial_runs_to_its_end(tiny: MakeConfig, workspace: MakeWork, tmp_path: Path) -> None:
    work = workspace(tiny(pruner="none", trials=5, min_epochs=3, epochs=2))
    study = opened(work, tmp_path)
    drain(search(study, work))
    assert [len(trial.intermediate_values) for trial in study.study.trials] == [2] * 5


def test_balanced_accuracy_can_be_the_metric(tiny: MakeConfig, workspace: MakeWork, tmp_path: Path) -> None:
    work = workspace(tiny(metric="balanced_accuracy", trials=1))
    study = opened(work, tmp_path)
    drain(search(study, work))
    assert study.study.trials[0].value is not None


def test_more_trials_go_on_and_give_what_they_would_have_given(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    work = workspace(tiny(trials=13))
    whole = opened(work, tmp_path / "a")
    drain(search(whole, work))
    for trials in (5, 11, 13):
        work = workspace(tiny(trials=trials))
        pieces = opened(work, tmp_path / "b")
        drain(search(pieces, work))
        assert len(pieces.study.trials) == trials
    assert history(pieces) == history(whole)


def test_a_search_without_time_runs_what_a_model_needs_and_one_with_more_goes_on_under_the_same_number(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path
) -> None:
    """The deadline stops a trial in the middle of an epoch, as a signal does."""
    (tmp_path / "whole").mkdir()
    whole = opened(workspace(tiny(trials=3)), tmp_path / "whole")
    drain(search(whole, workspace(tiny(trials=3))))
    work = workspace(tiny(trials=3, hours=1.0))
    study = opened(work, tmp_path)
    study.study.set_user_attr("clock", {"seconds": 3600.0})
    for started in (1, 0):  # by a worker that began too late, and by the next one
        news = drain(search(study, work))
        assert len([one for one in news if isinstance(one, TrialStart)]) == started
        assert [(trial.state, list(trial.intermediate_values)) for trial in study.trials()] == [
            (TrialState.RUNNING, [1])
        ]
    assert [trial.number for trial in ranked(study)] == [0]
    steps: list[Step] = []

    def watch(step: Step) -> None:
        steps.append(step)
        if len(steps) == 5:
            study.study.set_user_attr("clock", {"seconds": 3600.0})

    study.study.set_user_attr("clock", {"seconds": 0.0})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trial_module, "now", lambda: 1e9 if len(steps) >= 5 else 0.0)
        drain(run_trials(study, objective(work, watch=watch)))
    assert [trial.state for trial in study.trials()] == [TrialState.RUNNING]
    assert len(steps) == 5
    study.study.set_user_attr("clock", {"seconds": 0.0})
    drain(search(opened(work, tmp_path), work))
    assert history(study) == history(whole)


def test_the_baseline_is_tried_first_and_once(tiny: MakeConfig, workspace: MakeWork, tmp_path: Path) -> None:
    baseline = {
        "num_conv_blocks": 1,
        "filters_multiplier": 2,
        "kernel_sizes": "3-3-3",
        "use_batch_norm": False,
        "conv_dropout": 0.0,
        "dense_units": "64",
        "learning_rate": 0.003,
    }
    work = workspace(tiny(baseline=baseline, trials=2))
    for _ in range(2):
        study = opened(work, tmp_path)
        drain(search(study, work))
    assert study.study.trials[0].params == baseline
    assert study.study.trials[0].user_attrs["baseline"] is True
    assert len(study.study.trials) == 2


def test_diverged_trials_are_pruned_with_a_reason(tiny: MakeConfig, workspace: MakeWork, tmp_path: Path) -> None:
    space = {"learning_rate": [9.0, 10.0], "optimizer": "sgd", "use_batch_norm": False, "num_conv_blocks": 2}
    work = workspace(tiny(space={**space, "weight_decay": 1.0}, trials=2))
    study = opened(work, tmp_path)
    drain(search(study, work))
    assert {trial.state for trial in study.study.trials} == {TrialState.PRUNED}
    assert all("diverged" in trial.user_attrs["pruned_because"] for trial in study.study.trials)
    with pytest.raises(StudyError, match="has no trial that ran to its end"):
        winner(study)


def test_a_search_whose_hours_are_over_ends_where_trial_after_trial_fails(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = workspace(tiny(trials=20))
    study = opened(work, tmp_path)
    monkeypatch.setattr(EpochResult, "diverged", property(lambda _: True))
    monkeypatch.setattr(OpenStudy, "search_seconds_left", lambda _: -1.0)
    drain(search(study, work))
    assert len(study.study.trials) == MOST_LATE_TRIALS
    assert not study.has_trained()  # as `winner` says


def test_a_trial_that_diverged_later_is_no_model_yet(tiny: MakeConfig, workspace: MakeWork, tmp_path: Path) -> None:
    """A search whose hours are over goes on until a trial can be shipped, not until one has reported."""
    study = opened(workspace(tiny(trials=2)), tmp_path)
    trial = study.study.ask(study.members.space)
    trial.report(0.5, 1)
    trial.set_user_attr("why", "diverged")
    study.study.tell(trial, state=TrialState.PRUNED)
    assert not study.has_trained()
    with pytest.raises(StudyError, match="has no trial that ran to its end"):
        winner(study)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 8])
def test_an_abandoned_trial_is_adopted_under_its_number(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path, stop_after: int
) -> None:
    """Drop the worker after some epochs, as if it had died; the next goes on as if nothing had happened."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    work = workspace(tiny())
    whole = opened(work, tmp_path / "a")
    drain(search(whole, work))
    news = search(opened(work, tmp_path / "b"), work)
    for _ in range(stop_after):
        next(news)
    news.close()
    study = opened(work, tmp_path / "b")
    drain(search(study, work))
    assert history(study) == history(whole)
    assert not any("replay_differs" in trial.user_attrs for trial in study.study.trials)


def test_a_running_trial_of_plain_optuna_without_parameters_is_adopted(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path
) -> None:
    work = workspace(tiny(trials=2))
    study = opened(work, tmp_path)
    study.study.ask()
    drain(search(opened(work, tmp_path), work))
    assert [trial.state.is_finished() for trial in study.study.get_trials()] == [True, True]


def test_final_training_ships_what_it_scored(tiny: MakeConfig, workspace: MakeWork, tmp_path: Path) -> None:
    work = workspace(tiny(trials=3, final_seeds=2))
    study = opened(work, tmp_path)
    drain(search(study, work))
    outcome = drain(finish(study, work, winner(study), tmp_path / "model"))[-1]
    assert isinstance(outcome, Outcome)
    card = outcome.card
    loaded = bundle.load(tmp_path / "model")
    test = work.parts.test
    predicted = loaded.predict(work.dataset.images[test]).argmax(axis=1)
    assert (predicted == work.dataset.labels[test]).mean() == card.test.accuracy
    assert card.test_accuracy_of_seeds[0] == card.test.accuracy
    assert len(card.test_accuracy_of_seeds) == 2
    assert card.test.by_group.groups == card.test.groups
    (trees,) = card.comparison
    assert trees.name == "trees"
    assert trees.difference == pytest.approx(card.test.accuracy - trees.accuracy)
    assert trees.difference_interval[0] <= trees.difference <= trees.difference_interval[1]
    assert set(card.conformal.levels) == {"0.1", "0.05"}
    for level in card.conformal.levels.values():
        assert isinstance(level, PredictionSets | RefusedLevel)
    assert len(study.study.user_attrs[OPENINGS]) == 1
    logits = predict_logits(loaded.predictor.model, work.eval_batches("test"))
    expected = torch.softmax(torch.from_numpy(logits) / card.temperature, 1).numpy()
    assert np.abs(loaded.predict(work.dataset.images[test]) - expected).max() < 1e-5
    for name in ("report.html", "results.json", "times.json", "classification_report.txt", "confusion_matrix.csv"):
        assert (tmp_path / "model" / name).stat().st_size > 0
    assert "<script src" not in (tmp_path / "model" / "report.html").read_text()


@pytest.mark.slow
def test_finishing_again_does_nothing_and_opens_nothing(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = workspace(tiny(trials=2))
    study = opened(work, tmp_path)
    drain(search(study, work))
    first = drain(finish(study, work, winner(study), tmp_path / "model"))[-1]
    before = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    again = drain(finish(study, work, winner(study), tmp_path / "model"))
    assert again == [first]
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == before
    (tmp_path / "model" / "card.json").unlink()  # half a folder: exported again, the test not opened again
    third = drain(finish(study, work, winner(study), tmp_path / "model"))[-1]
    assert third.card.test == first.card.test
    assert len(study.study.user_attrs[OPENINGS]) == 1
    fresh = drain(finish(study, work, winner(study), tmp_path / "model", fresh=True))[-1]
    assert fresh.card.weights_sha256 == first.card.weights_sha256
    other = study.study.trials[1 - winner(study).number]
    if other.state == TrialState.COMPLETE:
        drain(finish(study, work, other, tmp_path / "other"))
        assert len(study.study.user_attrs[OPENINGS]) == 2


@pytest.mark.slow
def test_files_of_another_study_of_the_same_name_are_not_used(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path
) -> None:
    """The database was deleted, or another one lies beside the same runs/: those weights may have seen our test."""
    folder = tmp_path / "runs" / "s" / "model"
    cards = []
    for seed in (0, 2):
        (tmp_path / f"db{seed}").mkdir()
        work = workspace(tiny(trials=2, seed=seed))
        study = opened(work, tmp_path / f"db{seed}")
        drain(search(study, work))
        cards.append(drain(finish(study, work, winner(study), folder))[-1].card)
    (tmp_path / "alone").mkdir()
    fresh = dataclasses.replace(work, folder=tmp_path / "alone")
    expected = drain(finish(study, fresh, winner(study), tmp_path / "alone" / "model"))[-1].card
    assert cards[1].weights_sha256 == expected.weights_sha256 != cards[0].weights_sha256
    assert cards[1].test == expected.test


@pytest.mark.slow
def test_every_opening_of_the_test_is_counted_in_every_card(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path
) -> None:
    work = workspace(tiny(trials=3, pruner="none"))
    study = opened(work, tmp_path)
    drain(search(study, work))
    best = winner(study)
    first = drain(finish(study, work, best, tmp_path / "model"))[-1].card
    assert first.test_openings == 1
    other = next(trial for trial in study.study.trials if trial.number != best.number)
    second = drain(finish(study, work, other, tmp_path / "other"))[-1].card
    assert (second.test_openings, second.study.winner) == (2, best.number)
    again = drain(finish(study, work, best, tmp_path / "model"))[-1].card
    assert again.test_openings == 2
    assert again.test == first.test
    assert "opened 2 times" in (tmp_path / "model" / "report.html").read_text()


@pytest.mark.slow
def test_the_test_images_change_nothing_before_they_are_opened(
    tiny: MakeConfig, workspace: MakeWork, small_set: ImageSet, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    clean = workspace(tiny(trials=4))
    noisy = small_set.images.copy()
    sealed = np.concatenate([clean.parts.test])
    noisy[sealed] = np.random.default_rng(0).integers(0, 256, noisy[sealed].shape, dtype=np.uint8)
    spoiled = workspace(tiny(trials=4), dataclasses.replace(small_set, images=noisy))
    results = []
    for work, folder in ((clean, tmp_path / "a"), (spoiled, tmp_path / "b")):
        work = dataclasses.replace(work, folder=folder)
        study = opened(work, folder)
        drain(search(study, work))
        card = drain(finish(study, work, winner(study), folder / "model"))[-1].card
        results.append((history(study), winner(study).number, card.weights_sha256, card.temperature))
        last = card.test.accuracy
    assert results[0] == results[1]
    assert last < 0.7  # on noise: the spoiled images were really used for the score


def test_a_replay_that_differs_is_written_down(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = workspace(tiny(trials=1, pruner="none"))
    news = search(opened(work, tmp_path), work)
    next(one for one in news if isinstance(one, TrialEpoch))
    news.close()
    monkeypatch.setattr(trial_module, "derive_seed", lambda *parts: 5)  # as another machine would
    study = opened(work, tmp_path)
    drain(search(study, work))
    trial = study.study.trials[0]
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4]
    assert "replay_differs" in trial.user_attrs


def test_another_definition_is_refused_and_more_budget_is_not(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path
) -> None:
    opened(workspace(tiny()), tmp_path)
    opened(workspace(tiny(trials=99)), tmp_path)
    opened(workspace(tiny(hours=3)), tmp_path)
    differs = r"a different definition: batch_size \(was 32, now 16\), eta \(was 2, now 3\)"
    with pytest.raises(StudyError, match=differs):
        opened(workspace(tiny(batch_size=16, eta=3)), tmp_path)
    with pytest.raises(StudyError, match=r"space\.base_filters \(was 4, now 8\)"):
        opened(workspace(tiny(**{"space.base_filters": 8})), tmp_path)


def test_other_images_are_refused(tiny: MakeConfig, workspace: MakeWork, small_set: ImageSet, tmp_path: Path) -> None:
    opened(workspace(tiny()), tmp_path)
    changed = dataclasses.replace(small_set, fingerprint="0" * 64)
    with pytest.raises(StudyError, match="the images \\(some files were altered, or their labels\\)"):
        opened(workspace(tiny(), changed), tmp_path)


def test_a_moved_list_of_groups_is_the_same_and_other_parts_are_not(
    tiny: MakeConfig, workspace: MakeWork, small_set: ImageSet, tmp_path: Path
) -> None:
    opened(workspace(tiny(groups="/here/groups.csv")), tmp_path)
    opened(workspace(tiny(groups="/there/groups.csv")), tmp_path)
    pairs = dataclasses.replace(small_set, groups=small_set.groups // 2)
    with pytest.raises(
        StudyError,
        match=r"a different definition: the parts \(with other groups the images are divided differently\) \(",
    ):
        opened(workspace(tiny(), pairs), tmp_path)


def test_a_foreign_study_is_refused(tiny: MakeConfig, workspace: MakeWork, tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/optuna.db", create=True)
    study = optuna.create_study(study_name="s", storage=storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError, match="was not made by this program"):
        opened(workspace(tiny()), tmp_path)


def test_the_database_is_in_wal_mode_and_begins_immediately(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/optuna.db", create=True)
    statements: list[str] = []
    with storage.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        raw.set_trace_callback(statements.append)
        connection.exec_driver_sql("SELECT 1")
        raw.set_trace_callback(None)
    assert statements[0] == "BEGIN IMMEDIATE"


@pytest.mark.slow
def test_the_final_stage_compares_what_the_protocol_names(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path
) -> None:
    point = {
        **{"num_conv_blocks": 1, "filters_multiplier": 1, "kernel_sizes": "3-3-3", "use_batch_norm": False},
        **{"conv_dropout": 0.0, "dense_units": "none", "learning_rate": 0.001},
    }
    config = tiny(trials=8, confirm=3, baseline=point, positive=["0", "1"], leaky_score=True, final_seeds=2)
    work = workspace(config)
    study = opened(work, tmp_path)
    drain(search(study, work))
    news = drain(finish(study, work, None, tmp_path / "model"))
    card = news[-1].card
    stages = [(one.stage, one.trial, one.place, one.trainings) for one in news if isinstance(one, FinalEpoch)]
    best = [trial.number for trial in ranked(study)[:3]]
    assert {one[1] for one in stages if one[0] == "confirmation"} == set(best)
    assert len({one[2] for one in stages if one[0] == "confirmation"}) == 6
    rows = study.study.user_attrs["confirmed"]
    assert [row["trial"] for row in rows] == [
        row["trial"] for row in sorted(rows, key=lambda row: (-row["mean"], row["trial"]))
    ]
    assert card.study.trial == rows[0]["trial"]
    assert [one.model_dump() for one in card.study.confirmed] == rows
    compared = {one.name: one.trial for one in card.comparison}
    expected = {"trees": None, "runner-up": rows[1]["trial"], "baseline": 0}
    taken = [rows[0]["trial"], rows[1]["trial"]]
    assert compared == {name: trial for name, trial in expected.items() if name != "baseline" or trial not in taken}
    assert len(card.test_accuracy_of_seeds) == 2
    assert card.test_opening.weights_sha256[0] == card.weights_sha256
    assert len(card.test_opening.weights_sha256) == 2 + len(compared)
    assert card.test.positive.classes == ["0", "1"]
    assert card.test.positive.at_specificity.cutoff_from == "cal"
    assert card.leaky_score.leaky is True
    assert len(study.study.user_attrs[OPENINGS]) == 1
    page = (tmp_path / "model" / "report.html").read_text()
    for words in ("runner-up", "trees", "random 80/20 split", "sensitivity"):
        assert words in page
    # Cut off after the trainings: nothing is trained again, the test not opened again, the same comes out.
    (tmp_path / "model" / "finished.json").unlink()
    again = drain(finish(study, work, None, tmp_path / "model"))
    assert not [one for one in again if isinstance(one, FinalEpoch)]
    assert (again[-1].card.test, again[-1].card.comparison) == (card.test, card.comparison)
    assert len(study.study.user_attrs[OPENINGS]) == 1
    (row,) = study.study.user_attrs["models"]
    assert (row["trial"], row["weights_sha256"]) == (card.study.trial, card.weights_sha256)


def test_starts_are_trained_to_their_end_where_they_are_spared(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path
) -> None:
    """And are compared with at the rungs, as any other trial is."""
    weak = {
        **{"num_conv_blocks": 1, "filters_multiplier": 1, "kernel_sizes": "3-3-3", "use_batch_norm": False},
        **{"conv_dropout": 0.0, "dense_units": "none"},
    }
    rates = (1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4)
    starts = [{**weak, "learning_rate": rate} for rate in rates]
    wide = {"space.learning_rate": {"low": 1e-5, "high": 0.1, "log": True}}
    lengths = {}
    for spared in (True, False):
        config = tiny(trials=12, starts=starts, prune_starts=not spared, **wide)
        work = workspace(config)
        study = opened(work, tmp_path, f"s{spared}")
        drain(search(study, work))
        begun = [one for one in study.own_trials() if is_start(one)]
        assert len(begun) == len(starts)
        lengths[spared] = [len(one.intermediate_values) for one in begun]
        first = min(rung for rungs in config.brackets for rung in rungs)
        judged = [one for one in begun if config.bracket_of(study.name, one.number) == 0]
        assert all("completed_rung_0" in one.system_attrs for one in judged if len(one.intermediate_values) >= first)
    assert lengths[True] == [4] * len(starts)
    assert min(lengths[False]) < 4


@pytest.mark.slow
def test_the_best_start_is_trained_like_a_winner_that_was_drawn(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path
) -> None:
    weak = {
        **{"num_conv_blocks": 1, "filters_multiplier": 1, "kernel_sizes": "3-3-3", "use_batch_norm": False},
        **{"conv_dropout": 0.0, "dense_units": "none", "learning_rate": 0.001},
    }
    work = workspace(tiny(trials=8, starts=[weak], rivals=["best start"]))
    study = opened(work, tmp_path)
    drain(search(study, work))
    own = study.own_trials()
    start, winner = next(one for one in own if is_start(one)), max(own, key=lambda one: one.value or 0.0)
    assert winner.number != start.number
    card = drain(finish(study, work, None, tmp_path / "model"))[-1].card
    assert {one.name: one.trial for one in card.comparison} == {"trees": None, "best start": start.number}
    page = (tmp_path / "model" / "report.html").read_text()
    assert f"The best of the networks that the search began with is trial {start.number} (" in page
    assert "Trained alike, the winner is better by" in page
    # A model of the start itself has nothing to be compared with: it is what the search began with.
    card = drain(finish(study, work, start, tmp_path / "start"))[-1].card
    assert [one.name for one in card.comparison] == ["trees"]
    page = (tmp_path / "start" / "report.html").read_text()
    assert (
        f"This model is trial {start.number}, as asked for; the study&#x27;s own choice is trial {winner.number}"
        in page
    )
    assert "The winner is" not in page


def test_a_rival_or_a_seed_that_cannot_be_trained_does_not_withhold_the_model(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    work = workspace(tiny(trials=4, confirm=2, final_seeds=2))
    study = opened(work, tmp_path)
    drain(search(study, work))
    real = final.train

    def train(study: Any, work: Any, job: Any) -> Any:
        if job.place:
            raise StudyError("it diverged")
        return (yield from real(study, work, job))

    monkeypatch.setattr(final, "train", train)
    card = drain(finish(study, work, None, tmp_path / "model"))[-1].card
    assert [one.name for one in card.comparison] == ["trees"]
    assert "no comparison with the runner-up: it diverged" in caplog.text
    assert card.not_compared["seed 1"] == card.not_compared["runner-up"] == "it diverged"


def test_a_positive_class_must_exist(shell: Shell, small_folder: Path) -> None:
    code, _, err = shell("run", "--preset", "quick", "--data", small_folder, "--set", 'positive=["9"]')
    first, *more = err.splitlines()
    assert first.startswith("archstudy ")
    assert (code, more) == (2, ["study: positive: no class '9' (there are: 0, 1, 2, 3)"])


@pytest.mark.slow
def test_the_study_file_beside_the_report_gives_the_same_weights(
    shell: Shell, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell("run", *tiny_options(small_folder), "--name", "s", "--set", 'positive=["1"]')[0] == 0
    model = tmp_path / "runs" / "s" / "model"
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")
    assert shell("run", model / "study.toml", "--name", "s")[0] == 0
    cards = [json.loads((folder / "card.json").read_text()) for folder in (model, Path("runs/s/model"))]
    assert cards[0]["weights_sha256"] == cards[1]["weights_sha256"]
    assert cards[0]["test"] == cards[1]["test"]
