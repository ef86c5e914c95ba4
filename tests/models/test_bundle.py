"""The model folder: every format gives the same probabilities, alone too; and what is missing or altered is noticed."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tifffile
import torch
from packaging.requirements import Requirement
from PIL import Image

from data import batches
from models import ModelError
from models.architecture import CNNConfig, plain_blocks
from models.bundle import folder as bundle
from models.bundle.card import Card, Conformal, FinalTraining, Origin, Preprocessing
from models.bundle.predictor import Predictor
from models.bundle.reference import IMAGENET
from models.cnn import CNN, build_cnn, prepare
from models.files import file_hash
from models.scores.conformal import PredictionSets, RefusedLevel
from models.scores.evaluation import HeldOutScores, score, without_images
from tests.conftest import random_images
from tests.models.test_cnn import Evil, reference_network

ROOT = Path(__file__).resolve().parents[2]

PLAIN = CNNConfig(
    num_classes=3,
    image_size=16,
    blocks=plain_blocks((32, 64), (5, 3)),
    batch_norm=True,
    conv_dropout=0.1,
    dense_units=(8,),
    dense_dropout=0.5,
)

CONFIGS = {
    "plain": PLAIN,
    "without batch norm": replace(PLAIN, batch_norm=False),
    "average pooling": replace(PLAIN, head="gap"),
    "average pooling, no dense layers": replace(PLAIN, head="gap", dense_units=()),
    "no dense layers": replace(PLAIN, dense_units=()),
    "several dense layers": replace(PLAIN, dense_units=(8, 4)),
    "one block": replace(PLAIN, blocks=plain_blocks((8,), (7,))),
    "down to one pixel": replace(PLAIN, blocks=plain_blocks((4, 8, 16, 32), (3, 3, 3, 3)), conv_dropout=0.0),
    "a size that halves unevenly": replace(PLAIN, image_size=27, blocks=plain_blocks((32, 64, 128), (3, 5, 3))),
}


SOME_CONFIGS = [
    name if name in ("plain", "average pooling") else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS
]
"""All of them, two in the quick tests."""


def trained(config: CNNConfig) -> CNN:
    """A network with running statistics of its own."""
    torch.manual_seed(0)
    model = prepare(build_cnn(config), torch.device("cpu"))
    model.classifier[-1].weight.data *= 10  # or all images would look the same to it
    model.train()(torch.randn(8, 3, config.image_size, config.image_size))
    return model.eval()


def normalised(images: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET.values())
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std


def test_training_and_the_model_folder_normalise_alike() -> None:
    """Two forms of one formula: folded into the augmentation, and written out inside the exported program."""
    images = torch.from_numpy(random_images(4, 16))
    predictor = Predictor(trained(PLAIN), *IMAGENET.values(), temperature=1.0)
    ours = batches.normalise(images, batches.Normalisation(**IMAGENET))
    assert torch.allclose(ours, predictor.normalised(images), atol=1e-5)


def make_card(config: CNNConfig, **more: Any) -> Card:
    preprocessing = Preprocessing(size=config.image_size, **IMAGENET)
    return Card(classes=("a", "b", "c"), preprocessing=preprocessing, temperature=1.7, **more)


def save(directory: Path, config: CNNConfig = PLAIN, **more: Any) -> Card:
    images = random_images(20, config.image_size)
    return bundle.save(directory, trained(config), config, make_card(config, **more), images, ["ab" * 32])


@pytest.mark.parametrize("name", SOME_CONFIGS)
def test_every_format_gives_the_same_probabilities(tmp_path: Path, name: str) -> None:
    config = CONFIGS[name]
    card = save(tmp_path, config)
    loaded = bundle.load(tmp_path)
    program = torch.export.load(tmp_path / "model.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for count in (1, 3, 100):
        images = random_images(count, config.image_size, seed=count)
        with torch.no_grad():
            expected = torch.softmax(trained(config)(normalised(images)) / 1.7, dim=1).numpy()
            assert np.abs(program(torch.from_numpy(images)).numpy() - expected).max() < 1e-5
        assert np.abs(session.run(None, {"images": images})[0] - expected).max() < 1e-5
        assert np.abs(loaded.predict(images) - expected).max() < 1e-5
    assert expected.std(axis=0).max() > 1e-3  # the images make a difference
    assert all(one.max_difference < 1e-5 for one in card.formats.values())
    assert [row.batch for row in card.formats["model.onnx"].speed_cpu] == [1, 16, 64]


def test_the_files_name_no_folder_of_this_machine(saved: Path) -> None:
    for name in ("model.pt2", "model.onnx"):
        content = (saved / name).read_bytes()
        assert str(ROOT).encode() not in content
        assert b"bundle.py" not in content


@pytest.mark.parametrize("name", SOME_CONFIGS)
def test_the_reference_layout_is_written_where_it_can_describe_the_network(tmp_path: Path, name: str) -> None:
    config = CONFIGS[name]
    origin = Origin(name="s", trial=0, winner=0, params={}, metric="accuracy", selection_score=0.5, trials=1, config={})
    final = FinalTraining(data="train", epochs=2, trainings=1, seconds=3.0, epoch_seconds=[1.0, 2.0], num_params=None)
    save(tmp_path, config, study=origin, final=final)
    describable = config.blocks[0].filters == 32 and config.head == "flatten" and config.image_size == 16
    assert (tmp_path / "model.pth").exists() == describable
    if not describable:
        return
    images = random_images(5, 16)
    expected = bundle.load(tmp_path).predict(images)
    assert np.abs(bundle.load(tmp_path / "model.pth").predict(images) - expected).max() < 1e-5
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    theirs = reference_network(content["config"], num_classes=3, image_size=16)
    theirs.load_state_dict(content["model_state_dict"])
    theirs.eval()
    with torch.no_grad():
        found = torch.softmax(theirs.classifier(theirs.features(normalised(images)).flatten(1)), dim=1).numpy()
    assert np.abs(found - expected).max() < 1e-5
    assert (content["val_accuracy"], content["epoch_times"]) == (50.0, [1.0, 2.0])
    assert content["class_names"] == ["a", "b", "c"]


def test_a_later_model_in_the_same_folder_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    save(tmp_path)
    card = save(tmp_path, CONFIGS["average pooling"])
    assert "model.pth" not in card.files
    assert not (tmp_path / "model.pth").exists()
    assert bundle.load(tmp_path).predictor.model.head == "gap"


@pytest.mark.parametrize("name", [*bundle.FILES, bundle.CARD])
def test_a_missing_or_altered_file_is_noticed(copied: tuple[Path, dict[str, Any]], name: str) -> None:
    folder, _ = copied
    assert bundle.is_whole(folder)
    content = (folder / name).read_bytes()
    changed = content.replace(b"1.7", b"1.8") if name == bundle.CARD else content[:-1] + b"!"
    assert changed != content
    (folder / name).write_bytes(changed)
    with pytest.raises(ModelError, match=rf"{name} (is not the file that card\.json describes|was altered since)"):
        bundle.load(folder)
    assert not bundle.is_whole(folder)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=rf"no model in .*: {name} is missing"):
        bundle.load(folder)


def test_a_foreign_file_that_could_be_taken_for_the_model_is_noticed(copied: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = copied
    (folder / "notes.txt").write_text("anybody may write notes here")
    bundle.load(folder)
    (folder / "best.pt2").write_bytes(b"")
    with pytest.raises(ModelError, match=r"holds best\.pt2, which card\.json does not list"):
        bundle.load(folder)


def test_a_file_of_another_model_is_noticed(copied: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = copied
    save(tmp_path / "b", CONFIGS["without batch norm"])
    shutil.copy(tmp_path / "b" / "model.onnx", folder / "model.onnx")
    with pytest.raises(ModelError, match=r"model\.onnx is not the file that card\.json describes"):
        bundle.load(folder)


def test_a_folder_of_the_version_without_formats_still_loads(copied: tuple[Path, dict[str, Any]]) -> None:
    folder, card = copied
    for name in ("model.pt2", "model.onnx", "model.pth", "example.py", "MODEL_CARD.md"):
        (folder / name).unlink()
    old = {key: value for key, value in card.items() if key not in ("files", "formats", "card_sha256")}
    (folder / "card.json").write_text(json.dumps(old))
    assert bundle.load(folder).predict(random_images(2, 16)).shape == (2, 3)
    assert not bundle.is_whole(folder)  # the next run of its study exports it anew


@pytest.mark.parametrize(
    ("change", "said"),
    [({"format": 2}, "has format 2, this version reads 1"), ({"temperature": "warm"}, "does not fit: temperature")],
)
def test_a_card_of_another_version_says_what_to_do(
    copied: tuple[Path, dict[str, Any]], change: dict[str, Any], said: str
) -> None:
    folder, card = copied
    other = {**card, **change}
    (folder / "card.json").write_text(json.dumps({**other, "card_sha256": bundle.card_hash(other)}))
    with pytest.raises(ModelError, match=rf"{said}.*study retrain NAME"):
        bundle.load(folder)


@pytest.mark.parametrize("name", ["card.json", "config.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"files": 3}'])
def test_a_folder_that_is_none_of_ours_is_one_line(
    copied: tuple[Path, dict[str, Any]], name: str, content: bytes
) -> None:
    folder, card = copied
    (folder / name).write_bytes(content)
    if name == "config.json":
        card = {key: value for key, value in card.items() if key != "files"}
        (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"is not a model folder of this program|was altered"):
        bundle.load(folder)


def test_code_in_the_place_of_weights_is_never_run(
    copied: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, card = copied
    monkeypatch.chdir(folder)
    torch.save(Evil(), folder / "model.safetensors")
    old = {key: value for key, value in card.items() if key != "files"}  # hashes that fit prove nothing
    old["weights_sha256"] = file_hash(folder / "model.safetensors")
    (folder / "card.json").write_text(json.dumps(old))
    with pytest.raises(ModelError, match="does not fit its architecture"):
        bundle.load(folder)
    assert not Path("hacked").exists()


def test_the_readable_card_shows_what_is_there_and_needs_nothing(tmp_path: Path) -> None:
    save(tmp_path)
    page = (tmp_path / "MODEL_CARD.md").read_text()
    assert "Research use only; not a medical device." in page
    assert "model.onnx" in page
    assert "## Scores" not in page
    labels, groups = np.array([0, 0, 1, 2]), np.array([0, 1, 2, 3])
    logits = np.eye(3)[[0, 1, 1, 2]]
    scores = score(logits, labels, groups, ["a", "b", "c"], 1.0)
    test = HeldOutScores(**vars(scores), by_group=without_images(scores), reliability=[])
    levels = {"0.1": PredictionSets(threshold=0.8, calibration_groups=30, coverage=1, mean_size=1, abstained=0)}
    refused = {"0.01": RefusedLevel(refused="too few groups")}
    save(tmp_path, test=test, leaky=True, conformal=Conformal(levels={**levels, **refused}))
    page = (tmp_path / "MODEL_CARD.md").read_text()
    low, high = (f"{100 * end:.1f} %" for end in scores.accuracy_interval)
    assert f"leaky accuracy | **75.0 %** (95 % interval {low} to {high})" in page
    assert page.index("**Leaky accuracy 75.0 %") < page.index("**LEAKY: ") < page.index("Research use only")
    assert "| a | 1.000 | 0.500 | 0.667 | 2 |" in page
    assert "refused: too few groups" in page


# The example, in the model folder alone.


def strange_images(folder: Path) -> list[Path]:
    """One of each mode and format that decoding treats on its own."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)).resize((200, 300))
    grey16 = Image.fromarray(rng.integers(0, 65536, (40, 40), dtype=np.uint16))
    alpha = small.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(small.size))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    made = {
        "colour.png": (small, {}),
        "grey.png": (small.convert("L"), {}),
        "palette.gif": (small.convert("P"), {}),
        "bits.tif": (small.convert("1"), {}),
        "grey16.png": (grey16, {}),
        "alpha.png": (alpha, {}),
        "large.jpg": (small.resize((900, 700)), {"quality": 90}),
        "turned.jpg": (small, {"exif": exif}),
        "turned.tif": (small.convert("L"), {"exif": exif}),
        "cmyk.jpg": (small.convert("CMYK"), {}),
        "lossy.webp": (small, {}),
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    return [folder / name for name in made]


def example(python: Path, model: Path, images: list[Path], elsewhere: Path) -> np.ndarray:
    """What example.py prints, run by a Python that cannot import this project."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(elsewhere)}
    command = [python, "-I", model / "example.py", *images]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in images]
    return np.array([[row["probabilities"][name] for name in "abc"] for row in rows])


@pytest.fixture
def alone(saved: Path, tmp_path: Path) -> tuple[Path, list[Path], np.ndarray, Path]:
    """A copy of a model folder, images, what this program makes of them, and an empty folder."""
    from study.use.predict import predict_files

    for name in ("images", "empty"):
        (tmp_path / name).mkdir()
    shutil.copytree(saved, tmp_path / "model")
    images = strange_images(tmp_path / "images")
    rows = list(predict_files(bundle.load(saved), images))
    expected = np.array([list(row["probabilities"].values()) for row in rows])
    return tmp_path / "model", images, expected, tmp_path / "empty"


def test_the_example_decodes_as_this_program_does(alone: tuple[Path, list[Path], np.ndarray, Path]) -> None:
    model, images, expected, empty = alone
    assert np.abs(example(Path(sys.executable), model, images, empty) - expected).max() < 1e-4
    assert len(np.unique(expected.round(4), axis=0)) > 5


def test_the_example_opens_no_other_format_in_disguise(
    alone: tuple[Path, list[Path], np.ndarray, Path], tmp_path: Path
) -> None:
    """An EPS would start Ghostscript."""
    model, _, _, empty = alone
    (tmp_path / "photo.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with Image.open(tmp_path / "photo.png") as image:  # or the test would notice nothing
        assert image.format == "EPS"
    command = [sys.executable, "-I", model / "example.py", tmp_path / "photo.png"]
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot identify image file" in json.loads(done.stdout)["error"]


def test_the_example_refuses_in_one_line(alone: tuple[Path, list[Path], np.ndarray, Path], tmp_path: Path) -> None:
    model, images, _, empty = alone
    (tmp_path / "broken.png").write_bytes(images[0].read_bytes()[:200])
    planes = np.zeros((3, 8, 8), np.uint16)
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate", compression="zlib")

    def example(folder: Path, *given: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", folder / "example.py", *map(str, given)]
        return subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)

    done = example(model, "nowhere.png", images[0], empty, tmp_path / "broken.png", tmp_path / "planes.tif")
    assert (done.returncode, done.stderr) == (1, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row.get("error", "")[:52] for row in rows] == [
        "cannot be read as an image: No such file or director",
        "",
        "cannot be read as an image: Is a directory",
        rows[3]["error"][:52],
        "cannot be read as an image: 16 bits with transparenc",
    ]
    assert sum(rows[1]["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    for name, content in (("a", None), ("b", b"no model")):  # missing, damaged: the other file does
        shutil.copytree(model, tmp_path / name)
        (tmp_path / name / "model.onnx").unlink()
        if content:
            (tmp_path / name / "model.onnx").write_bytes(content)
        again = json.loads(example(tmp_path / name, images[0]).stdout)["probabilities"]
        assert again == pytest.approx(rows[1]["probabilities"], abs=1e-3)
    (tmp_path / "a" / "model.pt2").unlink()
    (tmp_path / "b" / "card.json").unlink()
    for done, line in (
        (example(model), "no image was named (type: python example.py IMAGE...)"),
        (example(tmp_path / "a", images[0]), "model.onnx cannot be used ("),
        (example(tmp_path / "b", images[0]), f"{tmp_path / 'b' / 'card.json'} cannot be read: "),
    ):
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.startswith(line)


def run_quietly(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=240)


def cannot_import(python: Path, *names: str) -> bool:
    codes = [subprocess.run([python, "-I", "-c", f"import {n}"], capture_output=True, check=False) for n in names]
    return all(done.returncode for done in codes)


@pytest.mark.slow
def test_the_example_runs_with_onnxruntime_alone(
    alone: tuple[Path, list[Path], np.ndarray, Path], tmp_path: Path
) -> None:
    model, images, expected, empty = alone
    python = tmp_path / "venv" / "bin" / "python"
    run_quietly(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    uv = Path(sys.executable).with_name("uv")
    try:
        run_quietly(
            uv,
            "pip",
            "install",
            "--python",
            python,
            "-c",
            ROOT / "constraints.txt",
            *["onnxruntime", "numpy", "Pillow"],
        )
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no package index is reachable: {error.stderr.strip().splitlines()[-1]}")
    assert cannot_import(python, "torch", "models", "study", "data")
    assert np.abs(example(python, model, images, empty) - expected).max() < 1e-4


def closure(*roots: str) -> Iterator[importlib.metadata.Distribution]:
    """These packages and all they need, as installed here."""
    waiting, seen = list(roots), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # needed on other machines only
        yield distribution
        needed = [Requirement(text) for text in distribution.requires or []]
        waiting += [one.name for one in needed if not one.marker or one.marker.evaluate({"extra": ""})]


@pytest.mark.slow
def test_the_example_runs_with_torch_alone(alone: tuple[Path, list[Path], np.ndarray, Path], tmp_path: Path) -> None:
    """A fresh environment that borrows torch, numpy and Pillow: installing torch again would take minutes."""
    model, images, expected, empty = alone
    run_quietly(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    (site,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    for distribution in closure("torch", "numpy", "pillow"):
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            source = Path(str(distribution.locate_file(top)))
            if not (site / top).exists():
                (site / top).symlink_to(source)
    python = tmp_path / "venv" / "bin" / "python"
    assert cannot_import(python, "onnxruntime", "onnx", "models", "study", "data")
    assert np.abs(example(python, model, images, empty) - expected).max() < 1e-4
