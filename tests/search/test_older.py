"""A study that begins from an older one: its best points first, and its looks at the test part counted."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from study.search.older import BEST
from study.storage.door import open_storage
from tests.conftest import Shell, new_database, tiny_options


def best_of(url: str, name: str) -> list[dict[str, Any]]:
    study = optuna.load_study(study_name=name, storage=open_storage(url, create=False))
    done = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    done.sort(key=lambda trial: (-(trial.value or 0.0), trial.number))
    found: list[dict[str, Any]] = []
    for trial in done[:BEST]:
        if trial.params not in found:
            found.append(trial.params)
    return found


def card_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs", name, "model", "card.json").read_text())
    return found


@pytest.mark.slow
def test_the_best_points_come_first_and_earlier_looks_count(
    shell: Shell, small_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert shell("run", "--name", "a", *tiny_options(small_folder, trials=4))[0] == 0
    wider = tiny_options(small_folder, trials=6, **{"space.num_conv_blocks": [1, 2, 3]})
    assert shell("run", "--name", "b", "--from", "a", *wider)[0] == 0
    expected = best_of("sqlite:///optuna.db", "a")
    done = optuna.load_study(study_name="b", storage=open_storage("sqlite:///optuna.db", create=False)).trials
    assert [trial.params for trial in done[: len(expected)]] == expected
    assert f"{len(expected)} of the best" in caplog.text
    assert "was opened once: that counts here, too" in caplog.text
    card = card_of("b")
    assert (card["test_opening"]["number"], card["test_openings"]) == (2, 2)
    code, out, _ = shell("sql", "SELECT opening, openings FROM models WHERE study = 'b'", "--csv")
    assert out.splitlines()[1] == "2,2"
    assert shell("run", "--name", "b", "--from", "a", *wider)[0] == 0  # the same again
    code, _, err = shell("run", "--name", "b", *wider)
    assert code == 2
    assert "begin_from" in err


@pytest.mark.slow
def test_other_images_have_openings_of_their_own(shell: Shell, small_folder: Path, tissue_folder: Path) -> None:
    assert shell("run", "--name", "a", *tiny_options(small_folder, trials=2))[0] == 0
    assert shell("run", "--name", "b", "--from", "a", *tiny_options(tissue_folder, trials=2))[0] == 0
    assert card_of("b")["test_openings"] == 1


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_study_of_plain_optuna_in_another_database(
    kind: str,
    shell: Shell,
    small_folder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = f"sqlite:///{tmp_path}/theirs.db"
    if kind == "postgres":
        url = new_database(request.getfixturevalue("postgres"))
    theirs = optuna.create_study(study_name="t", storage=url, direction="minimize")
    kinds = {"num_conv_blocks": CategoricalDistribution([1, 2, 9]), "learning_rate": FloatDistribution(1e-5, 1.0)}
    for value, blocks in ((0.3, 1), (0.1, 2), (0.2, 9)):
        point = {"num_conv_blocks": blocks, "learning_rate": 0.002}
        theirs.add_trial(optuna.trial.create_trial(params=point, distributions=kinds, value=value))
    words = ["run", "--name", "b", "--from", f"{url}#t", *tiny_options(small_folder, trials=1)]
    code, _, err = shell(*words)
    assert code == 0, err
    assert "2 of the best 3 trials of the study 't' fit this study's space" in caplog.text
    first, *_ = optuna.load_study(study_name="b", storage=open_storage("sqlite:///optuna.db", create=False)).trials
    assert (first.params["num_conv_blocks"], first.params["learning_rate"]) == (2, 0.002)


def test_what_cannot_be_begun_from(shell: Shell, small_folder: Path) -> None:
    words = ["run", "--name", "b", *tiny_options(small_folder), "--from"]
    assert shell("run", "--name", "a", *tiny_options(small_folder, trials=1))[0] == 0
    for given, said in (
        ("nobody", "nobody"),
        ("sqlite:///none.db#a", "none.db"),
        ("postgresql+psycopg://u:secret@h/d#a", "PGPASSWORD"),
    ):
        code, _, err = shell(*words, given)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err
        assert "secret" not in err
    several = optuna.create_study(study_name="two", storage="sqlite:///two.db", directions=["maximize", "minimize"])
    assert several.directions
    code, _, err = shell(*words, "sqlite:///two.db#two")
    assert code == 2
    assert "several objectives" in err
