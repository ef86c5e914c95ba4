"""Every space gives working networks; the reference's checkpoints load and agree."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import optuna
import pytest
import torch
from torch import nn

from models import ModelError
from models.architecture import Block, CNNConfig, Kind
from models.bundle.folder import load
from models.cnn import Residual, build_cnn, count_parameters, fuse_for_prediction, last_maps
from study.config.draw import draw_uniform
from study.config.presets import PRESETS, REFERENCE_BEST
from study.config.resolve import STANDING_IN, ask
from study.config.schema import StudyConfig
from study.config.space import Entry, Range, distributions, full_point, network_config

SHAPE = (
    *("num_conv_blocks", "filters_multiplier", "kernel_sizes", "use_batch_norm", "head", "dense_units"),
    *("block", "stem_stride", "base_filters"),
)
"""The parameters that decide which tensors there are."""

SIDES = {"quick": 32, "reference": 32, "full": 32, "auto": 64}
"""Pixels, for each preset."""


def preset(name: str) -> StudyConfig:
    asked = ask(None, {"preset": name})
    return StudyConfig.model_validate({**asked.fields, **{field: STANDING_IN[field] for field in asked.autos}})


def ends(entry: Entry) -> list[Any]:
    if isinstance(entry, Range):
        return [entry.low, entry.high]
    return [entry[0], entry[-1]] if isinstance(entry, list) else [entry]


def corners(space: dict[str, Entry]) -> list[dict[str, Any]]:
    """All corners of the parameters that decide the shape; the others at their upper end."""
    searched = distributions(space)
    choices = [ends(space[name]) if name in SHAPE else ends(space[name])[-1:] for name in searched]
    return [dict(zip(searched, values, strict=True)) for values in itertools.product(*choices)]


def check_network(config: CNNConfig) -> None:
    """Right output shape, finite numbers, a finite gradient for every parameter."""
    model = build_cnn(config)
    images = torch.randn(2, 3, config.image_size, config.image_size)
    logits = model.train()(images)
    assert logits.shape == (2, config.num_classes)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.eval()(images).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_all_corners_of_each_space(name: str) -> None:
    config = preset(name)
    for params in corners(config.space):
        check_network(network_config(full_point(config.space, params), 5, image_size=SIDES[name]))


@pytest.mark.parametrize("name", PRESETS)
def test_drawn_points_of_each_space(name: str) -> None:
    config = preset(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    small = 0
    for _ in range(40):
        params = study.ask(distributions(config.space)).params
        architecture = network_config(full_point(config.space, params), 5, image_size=SIDES[name])
        if max(block.filters for block in architecture.blocks) <= 512:  # the largest are among the corners
            check_network(architecture)
            small += 1
    assert small >= 8


@pytest.mark.slow
def test_200_points_of_the_space_of_auto_work() -> None:
    config = preset("auto")
    kinds = distributions(config.space)
    rng = np.random.default_rng(0)
    for _ in range(200):
        params = {**draw_uniform(kinds, rng), "base_filters": int(rng.integers(12, 25))}  # the wide ones are corners
        check_network(network_config(full_point(config.space, params), 5, image_size=64))


def test_a_residual_block_adds_its_input_and_needs_no_bias() -> None:
    block = Residual(4, 8, stride=1)
    assert all(layer.bias is None for layer in block.modules() if isinstance(layer, nn.Conv2d))
    nn.init.zeros_(block.residual[-1].weight)
    images = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(images), block.skip(images))
    assert not torch.equal(block(2 * images), block.skip(images))


def test_a_stem_stride_halves_the_image_at_once() -> None:
    point = {**full_point(preset("auto").space, {**POINT, "stem_stride": 2}), "num_conv_blocks": 3}
    for kind in get_args(Kind):
        model = build_cnn(network_config({**point, "block": kind}, 5, 64))
        assert model.features(torch.zeros(1, 3, 64, 64)).shape[2:] == (4, 4)
        assert (
            build_cnn(network_config({**point, "block": kind}, 5, 27)).features(torch.zeros(1, 3, 27, 27)).shape[2] == 1
        )


POINT = {
    **{"block": "residual", "stem_stride": 1, "num_conv_blocks": 4, "base_filters": 12, "dense_units": "none"},
    **{"conv_dropout": 0.0, "dense_dropout": 0.0, "learning_rate": 1e-3, "weight_decay": 0.01},
    **{"schedule": "cosine", "label_smoothing": 0.0, "augment_strength": 1.0, "augment_turns": False},
}


@pytest.mark.parametrize("kind", get_args(Kind))
def test_where_a_network_looked_is_seen_in_what_its_last_block_gives(kind: Kind) -> None:
    config = network_config(full_point(preset("auto").space, {**POINT, "block": kind}), 5, 64)
    model = build_cnn(config)
    maps: list[torch.Tensor] = []
    last_maps(model).register_forward_hook(lambda layer, inputs, output: maps.append(output))
    model(torch.zeros(1, 3, 64, 64))
    assert maps[0].shape == (1, 12 * 8, 8, 8)


def test_the_reference_space_has_9720_points() -> None:
    entries = [entry for entry in preset("reference").space.values() if isinstance(entry, list)]
    assert np.prod([len(entry) for entry in entries]) == 9720


def test_the_reference_best_has_its_published_size() -> None:
    config = preset("reference")
    model = build_cnn(network_config(full_point(config.space, REFERENCE_BEST), 5, image_size=128))
    assert 25.0e6 < count_parameters(model) < 25.2e6


@pytest.mark.parametrize(
    ("kernels", "blocks", "expected"),
    [("3-5-3", 4, (3, 5, 3, 3)), ("3-5-5-3", 3, (3, 5, 5)), ("5-3-5", 3, (5, 3, 5))],
)
def test_kernel_sizes_are_padded_with_3_and_cut(kernels: str, blocks: int, expected: tuple[int, ...]) -> None:
    config = preset("reference")
    point = {**full_point(config.space, REFERENCE_BEST), "kernel_sizes": kernels, "num_conv_blocks": blocks}
    assert tuple(block.kernel_size for block in network_config(point, 5, 64).blocks) == expected


def test_an_image_too_small_for_its_blocks_is_refused() -> None:
    config = preset("reference")
    with pytest.raises(ModelError, match="4 blocks halve an image of 8 pixels to nothing"):
        build_cnn(network_config(full_point(config.space, REFERENCE_BEST), 5, 8))


# The reference's checkpoint layout, written again plainly from its description: this is the other side of the test.


def reference_network(config: dict[str, Any], num_classes: int, image_size: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for block in range(config["num_conv_blocks"]):
        width = (32, 64, 128, 256, 512)[block] * config["filters_multiplier"]
        kernel = config["kernel_sizes"][block] if block < len(config["kernel_sizes"]) else 3
        layers.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2))
        if config["use_batch_norm"]:
            layers.append(nn.BatchNorm2d(width))
        layers += [nn.ReLU(), nn.MaxPool2d(2, 2), nn.Dropout2d(config["conv_dropout"])]
        channels = width
    features = channels * (image_size // 2 ** config["num_conv_blocks"]) ** 2
    dense: list[nn.Module] = []
    for units in config["dense_units"]:
        dense += [nn.Linear(features, units), nn.ReLU(), nn.Dropout(config["dense_dropout"])]
        features = units
    network = nn.Module()
    network.features = nn.Sequential(*layers)
    network.classifier = nn.Sequential(*dense, nn.Linear(features, num_classes))
    return network


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("blocks", [3, 5])
def test_a_reference_checkpoint_loads_and_its_logits_agree(tmp_path: Path, batch_norm: bool, blocks: int) -> None:
    config = {
        "num_conv_blocks": blocks,
        "filters_multiplier": 1,
        "kernel_sizes": [3, 3, 5, 3],
        "use_batch_norm": batch_norm,
        "conv_dropout": 0.1,
        "dense_units": [256, 128],
        "dense_dropout": 0.5,
        "learning_rate": 1e-4,
    }
    torch.manual_seed(0)
    theirs = reference_network(config, num_classes=5, image_size=64)
    images = torch.randn(4, 3, 64, 64)
    theirs.features(images)  # moves the running statistics of batch norm
    content = {
        "model_state_dict": theirs.state_dict(),
        "config": config,
        "val_accuracy": 99.72,
        "class_names": ["a", "b", "c", "d", "e"],
        "training_time": 1.0,
        "epoch_times": [0.5, 0.5],
    }
    torch.save(content, tmp_path / "reference.pth")
    bundle = load(tmp_path / "reference.pth")
    theirs.eval()
    with torch.no_grad():
        expected = theirs.classifier(theirs.features(images).flatten(1))
        assert torch.allclose(bundle.predictor.model(images), expected, atol=1e-5)
    assert bundle.image_size == 64
    assert bundle.classes == ("a", "b", "c", "d", "e")
    assert list(bundle.predictor.model.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("content", [b"not a checkpoint", b"", b"PK\x03\x04 broken zip"])
def test_a_foreign_pth_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.pth is not a checkpoint in the reference's layout"):
        load(tmp_path / "x.pth")


class Evil:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch hacked",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": Evil(), "config": {}, "class_names": ["a"]}, "evil.pth")
    with pytest.raises(ModelError, match="not a checkpoint"):
        load(Path("evil.pth"))
    assert not Path("hacked").exists()


STEPS = """
import torch
from models.cnn import Residual
torch.manual_seed(0)
block = Residual(3, 12, 2).to(memory_format=torch.channels_last)
for _ in range(40):
    block(torch.randn(32, 3, 64, 64).to(memory_format=torch.channels_last)).sum().backward()
"""


def test_a_narrow_stem_with_a_stride_is_trained_within_its_memory() -> None:
    """A strided 1x1 convolution of three channels is not, on many processors: the process would die sooner or later."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("side", [16, 23])
def test_a_fused_network_says_the_same(kind: Any, batch_norm: bool, side: int) -> None:
    blocks = tuple(Block(filters=filters, kernel_size=3, kind=kind) for filters in (4, 8))
    config = CNNConfig(
        num_classes=3,
        image_size=side,
        blocks=blocks,
        batch_norm=batch_norm,
        conv_dropout=0.1,
        dense_units=(8,),
        dense_dropout=0.1,
        head="gap",
    )
    torch.manual_seed(0)
    model = build_cnn(config)
    images = torch.randn(8, 3, side, side).contiguous(memory_format=torch.channels_last)
    for _ in range(3):  # running statistics that are not those of a new layer
        model(images * 2 + 1)
    model.eval()
    copy = fuse_for_prediction(model)
    assert torch.allclose(copy(images), model(images), atol=1e-5)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in copy.modules())
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules()) or not batch_norm
