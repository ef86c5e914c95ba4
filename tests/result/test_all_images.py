"""A model of all images, for use: its score is its sibling's, and nobody takes it for a candidate."""

import json
from pathlib import Path

import pytest

from models.bundle.card import Card, StudyCard
from models.bundle.folder import is_whole, read_card, seen_images
from models.bundle.verdict import verdict
from tests.conftest import Shell, tiny_options

pytestmark = pytest.mark.slow


def test_a_model_of_all_images_has_its_siblings_score(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    assert shell("retrain", "s", "--on", "all")[0] == 2
    assert shell("run", *tiny_options(small_folder, trials=2), "--name", "s")[0] == 0
    model, every = (tmp_path / "runs" / "s" / name for name in ("model", "model-all"))
    before = (model / "card.json").read_bytes()
    code, out, _ = shell("retrain", "s", "--on", "all")
    assert code == 0
    assert "the score is its sibling's" in " ".join(out.split())
    assert (model / "card.json").read_bytes() == before
    scored, card = read_card(model, StudyCard), read_card(every, StudyCard)
    assert is_whole(every)
    assert card.sibling_sha256 == scored.weights_sha256 != card.weights_sha256
    assert (card.test, card.temperature, card.conformal) == (scored.test, scored.temperature, scored.conformal)
    assert card.final.data == "all images"
    found = verdict(card)
    assert found is not None
    assert "learned from all images" in found.notes[-1]
    assert "learned from all images" in (every / "MODEL_CARD.md").read_text()
    assert len(seen_images(every) or ()) > len(seen_images(model) or ())
    # No opening was added, no candidate, and what is finished stays finished.
    assert read_card(model, Card).test_openings == 1
    assert json.loads(shell("status", "s", "--json")[1])["stage"] == "finished"
    _, out, err = shell("run", *tiny_options(small_folder, trials=2), "--name", "s")
    assert "is finished, and nothing was added" in out + err
    # It is not scored on what it has learned from.
    code, out, err = shell("evaluate", every, small_folder)
    assert (code, out) == (0, "")
    assert "the model was trained on them, so there is no score" in err
    image = next(small_folder.rglob("*.png"))
    assert shell("predict", every, image)[0] == 0
    again = read_card(every, StudyCard).weights_sha256
    assert shell("retrain", "s", "--on", "all")[0] == 0  # it is there
    assert read_card(every, StudyCard).weights_sha256 == again


def test_what_cannot_be_trained_on_all_is_said(shell: Shell, small_folder: Path) -> None:
    assert shell("run", *tiny_options(small_folder, trials=1), "--name", "s")[0] == 0
    for words, said in (
        (["--on", "test"], '--on test: allowed is "all"'),
        (["--on", "all", "--trial", 0], "--on all trains the model that was scored (leave --trial out)"),
    ):
        code, _, err = shell("retrain", "s", *words)
        assert (code, said in err) == (2, True), err


def test_a_schedule_that_needs_a_validation_loss_is_refused(shell: Shell, small_folder: Path) -> None:
    """Without one its learning rate would never fall: another training than the one that was scored."""
    plateau = ["--set", "space.schedule=plateau", "--set", "final_data=train"]
    assert shell("run", *tiny_options(small_folder, trials=1), *plateau, "--name", "s")[0] == 0
    code, _, err = shell("retrain", "s", "--on", "all")
    assert code == 2
    assert "the schedule of trial 0 is plateau, which needs a validation loss" in err
