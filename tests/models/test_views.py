"""Views of an image at test time: each symmetry once, the same in the program, the scores and the temperature."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from models.architecture import Block, CNNConfig
from models.bundle import export
from models.bundle import folder as bundle
from models.bundle.card import Card, Preprocessing
from models.bundle.predictor import Predictor
from models.bundle.reference import IMAGENET
from models.scores.calibration import fit_temperature, softmax
from models.scores.evaluation import predict_logits
from models.scores.transforms import seen
from models.scores.views import AS_IT_IS, views_of
from tests.conftest import random_images
from tests.models.test_bundle import PLAIN, normalised, trained

RESIDUAL = replace(PLAIN, blocks=(Block(kind="residual", filters=8), Block(kind="residual", filters=16)), head="gap")


def test_flips_are_those_that_training_used() -> None:
    assert views_of("none", hflip=True, vflip=True) == AS_IT_IS
    assert views_of("flips", hflip=False, vflip=False) == AS_IT_IS
    assert views_of("flips", hflip=True, vflip=False) == ("", "h")
    assert views_of("flips", hflip=False, vflip=True) == ("", "v")
    assert views_of("flips", hflip=True, vflip=True) == ("", "h", "v", "hv")


def test_the_views_of_a_square_are_its_eight_symmetries() -> None:
    image = torch.arange(3 * 25.0).view(1, 3, 5, 5)
    views = seen(image, views_of("square", hflip=False, vflip=False))
    turned = [torch.rot90(one, times, (2, 3)) for one in (image, image.flip(3)) for times in range(4)]
    assert len(views) == 8
    assert {tuple(view.flatten().tolist()) for view in views} == {tuple(one.flatten().tolist()) for one in turned}
    assert torch.equal(seen(image, ("", "h")), torch.cat([image, image.flip(3)]))


@pytest.mark.parametrize("config", [PLAIN, pytest.param(RESIDUAL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["flips", pytest.param("square", marks=pytest.mark.slow)])
def test_every_format_averages_over_the_views(
    tmp_path: Path, config: CNNConfig, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOO_LONG", math.inf)  # on a busy machine the largest batch is not timed
    views = views_of(kind, hflip=True, vflip=False)  # type: ignore[arg-type]
    preprocessing = Preprocessing(size=16, views=views, **IMAGENET)
    card = Card(classes=("a", "b", "c"), preprocessing=preprocessing, temperature=1.7)
    card = bundle.save(tmp_path, trained(config), config, card, random_images(20, 16))
    images = random_images(7, 16, seed=1)
    with torch.no_grad():
        each = [trained(config)(seen(normalised(images), (view,))) for view in views]
    expected = torch.stack([torch.softmax(one / 1.7, dim=1) for one in each]).mean(dim=0).numpy()
    once = torch.softmax(each[0] / 1.7, dim=1).numpy()
    assert np.abs(expected - once).max() > 1e-3  # or the test would not notice
    program = torch.export.load(tmp_path / "model.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for count in (1, 7):
        some = images[:count]
        with torch.no_grad():
            assert np.abs(program(torch.from_numpy(some)).numpy() - expected[:count]).max() < 1e-5
        assert np.abs(session.run(None, {"images": some})[0] - expected[:count]).max() < 1e-5
        assert np.abs(bundle.load(tmp_path).predict(some) - expected[:count]).max() < 1e-5
    assert all(one.max_difference < 1e-5 for one in card.formats.values())
    timed = card.formats["model.safetensors"]
    assert len(timed.one_view_cpu) == len(timed.speed_cpu) == 3
    page = (tmp_path / "MODEL_CARD.md").read_text()
    assert f"Each image is seen {len(views)} times" in page
    assert ("model.pth" in card.formats) == (config is PLAIN)
    if config is PLAIN:
        assert np.abs(bundle.load(tmp_path / "model.pth").predict(images) - once).max() < 1e-5
        assert "one view only: its layout has no place for several" in page


def test_a_folder_of_an_earlier_version_loads(tmp_path: Path) -> None:
    """Its architecture names filters and kernel sizes, and its card no views."""
    card = Card(classes=("a", "b", "c"), preprocessing=Preprocessing(size=16, **IMAGENET), temperature=1.7)
    bundle.save(tmp_path, trained(PLAIN), PLAIN, card, random_images(20, 16))
    expected = bundle.load(tmp_path).predict(random_images(5, 16))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["blocks"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "filters": [32, 64], "kernel_sizes": [5, 3]}))
    raw = json.loads((tmp_path / "card.json").read_text())
    del raw["preprocessing"]["views"]
    raw["files"]["config.json"] = bundle.files.file_hash(tmp_path / "config.json")
    (tmp_path / "card.json").write_text(json.dumps({**raw, "card_sha256": bundle.card_hash(raw)}))
    assert np.array_equal(bundle.load(tmp_path).predict(random_images(5, 16)), expected)


def test_scores_and_temperature_are_of_the_mean_of_the_views() -> None:
    model = trained(RESIDUAL)
    predictor = Predictor(model, *IMAGENET.values(), temperature=1.3, views=("", "h"))
    images = torch.from_numpy(random_images(9, 16))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    logits = predict_logits(model, [(predictor.normalised(images), labels)], predictor.views)
    assert logits.shape == (2, 9, 3)
    with torch.no_grad():
        assert np.abs(softmax(logits, 1.3) - predictor(images).numpy()).max() < 1e-6

    def loss(temperature: float) -> float:
        return float(F.nll_loss(torch.from_numpy(softmax(logits, temperature)).log(), labels))

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 2000, 3))
    labels = torch.tensor([rng.choice(3, p=row) for row in softmax(logits, 0.7)])
    groups = np.arange(2000)
    best = fit_temperature(logits, labels.numpy(), groups)
    assert 0.5 < best < 0.95
    assert loss(best) <= min(loss(best * 1.05), loss(best / 1.05))
    assert fit_temperature(logits[[0, 0]], labels.numpy(), groups) == pytest.approx(
        fit_temperature(logits[0], labels.numpy(), groups), rel=1e-3
    )
