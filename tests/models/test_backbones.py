"""Networks that somebody has trained: the same numbers as theirs, from our own layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import ModelError
from models.architecture import Backbone, BackboneConfig, check_sizes
from models.backbones import NETWORKS, Weights, find_weights, frozen_layers, load_features, make_features
from models.bundle.export import onnx_bytes, program, run_onnx
from models.bundle.predictor import Predictor
from models.bundle.reference import IMAGENET
from models.cnn import build_cnn, fill, fuse_for_prediction
from models.cost import cost
from models.training.learner import make_learner
from models.training.recipe import TrainConfig


def images(side: int, count: int = 4) -> torch.Tensor:
    """Pixels float [N, 3, S, S] from 0 to 1."""
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(IMAGENET[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std


def config(name: Backbone = "resnet18", trained: float = 0.0, side: int = 32) -> BackboneConfig:
    return BackboneConfig(num_classes=3, image_size=side, backbone=name, trained=trained, dropout=0.1)


@pytest.mark.parametrize("side", [32, 64, 224])
def test_efficientnet_lite0_is_the_packages(side: int) -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    weights = find_weights("efficientnet-lite0")
    theirs.load_state_dict(weights.load())
    ours = make_features("efficientnet-lite0", side).eval()
    load_features(ours, "efficientnet-lite0", weights.load())
    pixels = images(side)
    with torch.inference_mode():
        expected = theirs.extract_features((pixels * 255 - 127) / 128)
        found = ours(normalised(pixels))
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=2e-4)


def test_resnet18_is_torchvisions() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18(weights=None).eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    ours = make_features("resnet18", 64).eval()
    load_features(ours, "resnet18", theirs.state_dict())
    theirs.avgpool, theirs.fc = nn.Identity(), nn.Identity()
    found = images(64)
    with torch.inference_mode():
        assert torch.allclose(ours(found).flatten(1), theirs(found), atol=1e-4)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    state = {f"layer.{number}": torch.zeros(2) for number in range(3)}
    save_file(state, file)
    weights = find_weights("resnet18", file)
    features = make_features("resnet18", 32)
    with pytest.raises(ModelError, match=r"these are not the weights of resnet18: conv1.weight is missing"):
        load_features(features, "resnet18", weights.load())
    whole = features.state_dict()
    first = next(iter(whole))
    save_file(whole, tmp_path / "ours.safetensors")
    load_features(features, "resnet18", Weights("resnet18", tmp_path / "ours.safetensors", "").load())
    with pytest.raises(ModelError, match=r"not the weights of resnet18: .* is \(2,\), not \(64, 3, 7, 7\)"):
        load_features(features, "resnet18", {**whole, first: torch.zeros(2)})
    with pytest.raises(ModelError, match="hold numbers that are not finite"):
        load_features(features, "resnet18", {**whole, first: torch.full_like(whole[first], torch.nan)})
    (tmp_path / "torn.pth").write_bytes(b"PK\3\4 torn")
    for name in ("torn.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"torn")
        with pytest.raises(ModelError, match="cannot be read"):
            Weights("resnet18", tmp_path / name, "").load()
    with pytest.raises(ModelError, match="no such file"):
        find_weights("resnet18", tmp_path / "absent.pth")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('hacked', 'w')",)


def test_weights_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="cannot be read"):
        Weights("resnet18", tmp_path / "evil.pth", "").load()
    assert not Path("hacked").exists()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_share_that_is_trained_is_the_last_layers(name: Backbone) -> None:
    layers = len(make_features(name, 32))
    assert [frozen_layers(name, share) for share in (0.0, 0.5, 1.0)] == [layers, layers - round(layers / 2), 0]
    model = build_cnn(config(name, trained=0.5)).train()
    kept = frozen_layers(name, 0.5)
    assert not any(parameter.requires_grad for parameter in model.features[:kept].parameters())
    assert all(parameter.requires_grad for parameter in model.features[kept:].parameters())
    assert not model.features[0].training
    assert model.features[-1].training
    before = {key: value.clone() for key, value in model.state_dict().items()}
    recipe = TrainConfig(epochs=1, learning_rate=0.1, optimizer="sgd")
    learner = make_learner(model, recipe)
    model(images(32)).square().sum().backward()
    learner.optimizer.step()
    after = model.state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert moved
    assert all(key.startswith("classifier") or int(key.split(".")[1]) >= kept for key in moved)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("side", [8, 48])
def test_it_is_exported_filled_and_fused_like_any_network(name: Backbone, side: int) -> None:
    torch.manual_seed(0)
    model = build_cnn(config(name, side=side)).eval()
    again = fill(config(name, side=side), model.state_dict(), 10**9)
    assert again.frozen == 0
    predictor = Predictor(again, IMAGENET["mean"], IMAGENET["std"], 1.0).eval().requires_grad_(False)
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = predictor(torch.from_numpy(pixels)).numpy()
        faster = Predictor(fuse_for_prediction(again), IMAGENET["mean"], IMAGENET["std"], 1.0).eval()(
            torch.from_numpy(pixels)
        )
    assert np.abs(faster.numpy() - expected).max() < 1e-4
    assert np.abs(run_onnx(onnx_bytes(program(predictor, side)))(pixels) - expected).max() < 1e-4


def test_a_depthwise_convolution_costs_what_it_does() -> None:
    # Published for 224 pixels: 407 million multiplications with their additions, 4.7 million parameters with the head.
    found = cost(
        BackboneConfig(num_classes=1000, image_size=224, backbone="efficientnet-lite0", trained=1.0, dropout=0)
    )
    assert found.flops == pytest.approx(2 * 407e6, rel=0.06)
    assert found.params == pytest.approx(4.65e6, rel=0.02)
    assert found.frozen_flops == 0
    frozen = cost(config("efficientnet-lite0", 0.0, 224))
    assert frozen.params == 1280 * 3 + 3
    assert frozen.flops - frozen.frozen_flops == 2 * 1280 * 3
    half = cost(config("efficientnet-lite0", 0.5, 224))
    assert 0 < half.frozen_flops < frozen.frozen_flops


@pytest.mark.parametrize(
    "change", [{"backbone": "vgg"}, {"trained": 1.5}, {"dropout": 1.0}, {"image_size": 0}, {"num_classes": 0}]
)
def test_a_configuration_that_is_none_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="not a network that this program builds"):
        check_sizes(BackboneConfig(**{**vars(config()), **change}))  # type: ignore[arg-type]
