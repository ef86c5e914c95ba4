"""`study predict` and `study evaluate`: rows, errors, prediction sets, explanations, and scores elsewhere."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data.datasets import load_folder
from data.images import source_size
from data.splits import make_parts
from models.bundle import folder as bundle
from models.bundle.card import Conformal
from models.bundle.explain import grad_cam
from models.files import write_json
from study import StudyError
from study.use.predict import AHEAD, BATCH, predict_files, threshold_of
from tests.conftest import Shell, random_images, shrink, tiny_options
from tests.models import test_bundle
from tests.models.test_cnn import Evil


@pytest.fixture(scope="session")
def made(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a tiny study, made once."""
    from tests import killer

    folder = tmp_path_factory.mktemp("study")
    command = ["run", *tiny_options(small_folder, trials=2), "--name", "s"]
    assert killer.run(command, folder) == 0
    return folder / "runs" / "s" / "model"


def with_card(folder: Path, made: Path, **changes: Any) -> Path:
    """A copy of a model folder whose card says something else, as if it had been written so."""
    shutil.copytree(made, folder)
    card = {**json.loads((made / bundle.CARD).read_text()), **changes}
    write_json(folder / bundle.CARD, {**card, "card_sha256": bundle.card_hash(card)})
    return folder


def test_rows_by_class_name(shell: Shell, made: Path, small_folder: Path) -> None:
    code, out, err = shell("predict", made, small_folder / "0", small_folder / "1" / "0001.png", "--csv")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 41
    assert list(rows[0]) == ["path", "label", "0", "1", "2", "3", "error"]
    for row in rows:
        probabilities = {name: float(row[name]) for name in "0123"}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert probabilities[row["label"]] == max(probabilities.values())
    code, out, _ = shell("predict", made, small_folder / "0", "--json")
    listed = json.loads(out)
    assert len(listed) == 40
    assert set(listed[0]) == {"path", "label", "probabilities"}
    assert sum(row["label"] == "0" for row in listed) > 20
    assert "probability" in shell("predict", made, small_folder / "0")[1]


def test_the_most_probable_classes(shell: Shell, made: Path, small_folder: Path) -> None:
    image = small_folder / "1" / "0001.png"
    every = json.loads(shell("predict", made, image, "--json")[1])[0]["probabilities"]
    best = sorted(every, key=lambda name: -every[name])[:2]
    assert list(json.loads(shell("predict", made, image, "--json", "--top", 2)[1])[0]["probabilities"]) == best
    row = next(csv.DictReader(io.StringIO(shell("predict", made, image, "--csv", "--top", 2)[1])))
    assert [row["label_1"], row["label_2"]] == best
    assert float(row["probability_2"]) == pytest.approx(every[best[1]], abs=1e-6)
    assert len(json.loads(shell("predict", made, image, "--json", "--top", 99)[1])[0]["probabilities"]) == 4
    assert f"{best[0]} {100 * every[best[0]]:.1f} %, {best[1]} " in shell("predict", made, image, "--top", 2)[1]


def test_more_images_than_wait_at_a_time_stay_in_order(made: Path, tmp_path: Path) -> None:
    count = BATCH * (AHEAD * (os.cpu_count() or 1) + 2) + 3
    files = []
    for number, image in enumerate(random_images(count, 8)):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(files[-1])
    files[70].write_bytes(b"broken")
    model = bundle.load(made)
    rows = list(predict_files(model, files))
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert [number for number, row in enumerate(rows) if "error" in row] == [70]
    alone = [next(predict_files(model, [file])) for file in files[60:80]]
    for row, expected in zip(rows[60:80], alone, strict=True):
        assert row.get("error") == expected.get("error")
        assert row.get("probabilities", {}) == pytest.approx(expected.get("probabilities", {}), abs=1e-6)


def test_an_unreadable_file_has_an_error_in_its_row(shell: Shell, made: Path, small_folder: Path) -> None:
    photos = shrink(small_folder, Path("photos").absolute(), classes=2, each=2)
    (photos / "0" / "broken.png").write_bytes(b"nothing")
    code, out, err = shell("predict", made, photos, "--csv")
    assert code == 1
    errors = [(Path(row["path"]).name, row["error"]) for row in csv.DictReader(io.StringIO(out)) if row["error"]]
    assert errors == [("broken.png", "not an image")]
    assert err == "1 of 5 files could not be read (its row says why)\n"
    code, out, _ = shell("predict", made, photos, "--json")
    assert code == 1
    assert {"path": str(photos / "0" / "broken.png"), "error": "not an image"} in json.loads(out)
    assert "not an image" in shell("predict", made, photos)[1]
    code, out, err = shell("predict", made, photos, "--json", "--skip-bad")
    assert code == 0
    assert len(json.loads(out)) == 4
    assert err == f"left out {photos}/0/broken.png: not an image\n"
    assert json.loads(shell("predict", made, photos / "0" / "broken.png", "--json", "--skip-bad")[1]) == []


def test_names_on_standard_input(shell: Shell, made: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = small_folder / "1" / "0001.png"
    names = f"\ufeff{image}\n\n{small_folder / '0'}\n{'long' * 99}\nnowhere.png\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(names))
    code, out, _ = shell("predict", made, "-", "--json")
    rows = json.loads(out)
    monkeypatch.setattr("sys.stdin", io.StringIO(names))
    lines = shell("predict", made, "-", "--jsonl")[1].splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert code == 1
    assert len(rows) == 43
    assert rows[-2]["error"] == "File name too long"
    assert rows[0]["path"] == str(image)
    assert rows[-1] == {"path": "nowhere.png", "error": "No such file or directory"}
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    code, _, err = shell("predict", made, "-")
    assert (code, err) == (2, "study: no images were named on standard input (one file a line)\n")


def test_a_model_is_found_by_the_name_of_its_study(
    shell: Shell, made: Path, small_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "runs" / "s" / "model")
    image = sorted((small_folder / "0").iterdir())[0]
    _, plain, _ = shell("predict", "runs/s/model", image, "--json")
    for given in ("s", "runs/s", "./runs/s"):
        assert shell("predict", given, image, "--json") == (0, plain, "the model is runs/s/model\n")
    code, _, err = shell("evaluate", "s", small_folder)
    assert (code, err.partition("\n")[0]) == (0, "the model is runs/s/model")
    (tmp_path / "s").mkdir()  # of that name, and no model in it
    assert shell("predict", "s", image)[0] == 0
    code, _, err = shell("predict", "t", image)
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("a study's name, or a .pth file; studies with a model here: s)\n")
    (tmp_path / "runs" / "t").mkdir()
    (tmp_path / "runs" / "t" / "owner.json").write_text("{}")
    assert shell("serve", "t")[2] == "study: the study t has no model yet (study resume t --finish makes one)\n"


def test_what_is_no_image_and_no_model(shell: Shell, made: Path, small_folder: Path, tmp_path: Path) -> None:
    assert shell("predict", made, "none.png") == (2, "", "study: no such image or folder: none.png\n")
    (tmp_path / "empty").mkdir()
    assert "no images in" in shell("predict", made, "empty")[2]
    image = small_folder / "0"
    assert "no such model: nowhere" in shell("predict", "nowhere", image)[2]
    code, out, err = shell("predict", "empty", image)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no model in empty (give a model folder, such as runs/NAME/model, a study's name, or a .pth file" in err
    torch.save({"model_state_dict": Evil(), "config": {}, "class_names": ["a"]}, "evil.pth")
    code, out, err = shell("predict", "evil.pth", image)
    assert (code, out) == (2, "")
    assert "evil.pth is not a checkpoint in the reference's layout" in err
    assert not Path("hacked").exists()
    assert (
        shell("predict", made, image, "--csv", "--json")[2] == "study: --json, --jsonl and --csv exclude each other\n"
    )
    spoiled = shutil.copytree(made, tmp_path / "spoiled")
    (spoiled / "model.onnx").write_bytes(b"")
    code, _, err = shell("predict", spoiled, image)
    assert code == 2
    assert "model.onnx is not the file that card.json describes" in err
    assert err.count("\n") == 1


def test_any_mode_format_and_size_is_taken(shell: Shell, made: Path, tmp_path: Path) -> None:
    images = test_bundle.strange_images(tmp_path)
    code, out, err = shell("predict", made, *images, "--json")
    assert code == 0
    assert [row["path"] for row in json.loads(out)] == [str(path) for path in images]
    assert "those of the training were 8 x 8" in err
    assert err.count("\n") == 1


def test_the_size_of_files_is_a_median_over_a_sample(tmp_path: Path) -> None:
    for number, side in enumerate([4, 6, 6, 60]):
        Image.new("RGB", (side, 2 * side)).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_bytes(b"broken")
    assert source_size(sorted(tmp_path.glob("*.png"))) == (6, 12)
    assert source_size([tmp_path / "4.png"]) is None
    assert source_size([]) is None


def test_sizes_as_varied_as_those_of_the_training_are_no_warning(
    shell: Shell, made: Path, small_folder: Path, tmp_path: Path
) -> None:
    data = json.loads((made / bundle.CARD).read_text())["data"]
    assert data["source_span"] == [[8, 8], [8, 8]]
    model = with_card(tmp_path / "model", made, data={**data, "source_size": [8, 8], "source_span": [[6, 6], [30, 8]]})
    for size, warned in (((8, 8), False), ((29, 8), False), ((29, 20), True), ((40, 8), True), ((4, 8), True)):
        Image.new("RGB", size).save(tmp_path / "one.png")
        assert ("if the magnification differs too" in shell("predict", model, "one.png", "--json")[2]) == warned


@pytest.mark.slow
def test_a_studys_own_images_are_scored_with_its_own_sources(shell: Shell, tmp_path: Path) -> None:
    """Otherwise the interval would count each image of a patient for itself."""
    rng = np.random.default_rng(0)
    for label, level in (("a", 60), ("b", 190)):
        for patient in range(12):
            (folder := tmp_path / "patients" / label / f"p{label}{patient}").mkdir(parents=True)
            for number in range(4):
                pixels = np.clip(rng.normal(level, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    assert shell("run", *tiny_options(tmp_path / "patients", trials=2, groups="level:2"), "--name", "s")[0] == 0
    card = json.loads(Path("runs/s/model/card.json").read_text())
    code, out, err = shell("evaluate", "runs/s/model", "patients", "--json")
    scores = json.loads(out)["scores"]
    assert code == 0
    assert "what is left is its own test part" in err
    assert (scores["images"], scores["groups"]) == (card["test"]["images"], card["test"]["groups"])
    assert scores["groups"] < scores["images"]
    assert scores["accuracy_interval"] == pytest.approx(card["test"]["accuracy_interval"])


# Prediction sets.

SETS = {"threshold": 0.7, "calibration_groups": 30, "coverage": 0.9, "mean_size": 1.2, "abstained": 0.2}
LEVELS = {"method": "lac", "groups": 30, "levels": {"0.1": SETS, "0.01": {"refused": "too few groups"}}}


def test_prediction_sets_are_shown_where_the_card_has_them(
    shell: Shell, made: Path, small_folder: Path, tmp_path: Path
) -> None:
    model = with_card(tmp_path / "model", made, conformal=LEVELS)
    rows = json.loads(shell("predict", model, small_folder, "--json")[1])
    for row in rows:
        expected = [name for name, value in row["probabilities"].items() if 1 - value <= 0.7]
        assert row["set"] == expected
        assert row["abstain"] == (len(expected) != 1)
    assert json.loads(shell("predict", model, small_folder, "--json", "--set-level", "0.10")[1]) == rows
    listed = list(csv.DictReader(io.StringIO(shell("predict", model, small_folder, "--csv", "--top", 1)[1])))
    assert [row["set"].split("|") for row in listed] == [row["set"] or [""] for row in rows]
    assert {row["abstain"] for row in listed} <= {"true", "false"}
    assert "prediction set" in shell("predict", model, small_folder)[1]
    code, _, err = shell("predict", model, small_folder, "--set-level", "0.01")
    assert (code, err) == (2, "study: no prediction sets at level 0.01: too few groups\n")
    code, _, err = shell("predict", model, small_folder, "--set-level", "0.2")
    assert (code, err) == (2, "study: no prediction sets at level 0.2 in this model's card (there are: 0.1)\n")


@pytest.mark.parametrize("conformal", [None, Conformal(), Conformal(levels={})])
def test_without_prediction_sets_there_are_none(conformal: Conformal | None) -> None:
    assert threshold_of(conformal, None) is None
    with pytest.raises(StudyError, match=r"no prediction sets at level 0\.1 in this model's card \(there are: none\)"):
        threshold_of(conformal, 0.1)


# Explanations.


@pytest.mark.parametrize("name", ["plain", "average pooling", "without batch norm"])
def test_grad_cam_is_what_its_paper_says(name: str, tmp_path: Path) -> None:
    config = test_bundle.CONFIGS[name]
    test_bundle.save(tmp_path, config)
    predictor = bundle.load(tmp_path).predictor
    images = random_images(4, 16)
    classes = np.array([0, 1, 2, 0])
    found = grad_cam(predictor, images, classes)
    kept: list[torch.Tensor] = []
    last = [layer for layer in predictor.model.features if isinstance(layer, torch.nn.Conv2d)][-1]
    hook = last.register_forward_hook(lambda module, inputs, output: kept.append(output))
    inputs = predictor.normalised(torch.from_numpy(images)).requires_grad_()
    chosen = predictor.model(inputs)[range(4), classes].sum()
    hook.remove()
    (gradient,) = torch.autograd.grad(chosen, kept[0])
    maps = F.relu((gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1, keepdim=True))
    expected = F.interpolate(maps, size=(16, 16), mode="bilinear")[:, 0].detach().numpy()
    expected /= np.maximum(expected.max(axis=(1, 2), keepdims=True), 1e-30)
    assert np.abs(found - expected).max() < 1e-4
    assert found.max() == 1
    assert len(np.unique(found)) > 10


def test_explanations_are_written_beside_the_rows(shell: Shell, made: Path, small_folder: Path) -> None:
    Path("broken.png").write_bytes(b"")
    images = [small_folder / "1" / "0001.png", "broken.png", small_folder / "0"]
    code, out, _ = shell("predict", made, *images, "--json", "--explain", "why/here")
    rows = json.loads(out)
    assert code == 1
    files = [row["explanation"] for row in rows if "error" not in row]
    assert len(set(files)) == len(list(Path("why/here").iterdir())) == 41
    assert files[0] == "why/here/00000-0001.png"
    assert Image.open(files[0]).size == (224, 224)
    code, _, err = shell("predict", made, small_folder, "--explain", "broken.png/x")
    assert code == 2
    assert "cannot make the folder broken.png/x" in err


# Scores elsewhere.


def test_the_test_part_elsewhere_gives_the_score_of_the_card(
    shell: Shell, made: Path, small_folder: Path, tmp_path: Path
) -> None:
    dataset = load_folder(small_folder, 8, tmp_path / "cache")
    parts = make_parts(dataset.labels, dataset.groups, dataset.classes, dataset.paths, 0)
    for path in np.array(dataset.paths)[parts.test]:
        (tmp_path / "there" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(small_folder / path, tmp_path / "there" / path)
    code, out, err = shell("evaluate", made, "there", "--groups", "none", "--json")
    assert (code, err) == (0, "")
    found, card = json.loads(out), json.loads((made / "card.json").read_text())
    for name in ("images", "accuracy", "balanced_accuracy", "macro_f1", "majority", "confusion"):
        assert found["scores"][name] == card["test"][name], name
    assert found["scores"]["nll"] == pytest.approx(card["test"]["nll"], abs=1e-6)
    code, out, _ = shell("evaluate", made, "there", "--groups", "none")
    assert code == 0
    assert f"{100 * card['test']['accuracy']:.1f} %, 95 % interval" in out
    shutil.rmtree(tmp_path / "there" / "2")
    code, out, err = shell("evaluate", made, "there", "--groups", "none", "--json")
    assert (code, err) == (0, "no images of 2: averages are over the other classes\n")
    part = json.loads(out)
    assert part["absent_classes"] == ["2"]
    assert part["scores"]["confusion"][2] == [0, 0, 0, 0]
    kept = [row for number, row in enumerate(card["test"]["confusion"]) if number != 2]
    assert [row for row in part["scores"]["confusion"] if sum(row)] == kept
    f1 = [part["scores"]["report"][name]["f1-score"] for name in "013"]
    assert part["scores"]["macro_f1"] == pytest.approx(np.mean(f1))
    groups = [("path", "group"), *((path, Path(path).parent.name + path[-5]) for path in _inside(tmp_path / "there"))]
    with (tmp_path / "who.csv").open("w", newline="") as file:
        csv.writer(file).writerows(groups)
    found = json.loads(shell("evaluate", made, "there", "--groups", "who.csv", "--json")[1])
    assert found["scores"]["groups"] == len({group for _, group in groups[1:]})


def _inside(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))


def test_the_studys_own_images_are_no_score(shell: Shell, made: Path, small_folder: Path) -> None:
    code, _, err = shell("evaluate", made, small_folder)
    assert code == 0
    counts = json.loads((made / "card.json").read_text())["data"]["parts"]
    seen = sum(counts[part] for part in ("train", "val", "cal"))
    assert f"{seen} of 160 images are left out: the model was trained on them\n" in err
    assert "these are the images of the model's own study: what is left is its own test part\n" in err
    found = json.loads(shell("evaluate", made, small_folder, "--json")[1])
    assert found["scores"]["images"] == counts["test"]
    assert found["seen"]["by_content"] == seen


@pytest.fixture(scope="module")
def larger(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of larger pictures, and the model folder of a study on it, its cache beside it."""
    from tests import killer

    folder = tmp_path_factory.mktemp("larger")
    images = shrink(digits_folder, folder / "images", classes=2, each=40)
    for file in images.glob("*/*.png"):
        Image.open(file).resize((32, 32), Image.Resampling.BICUBIC).save(file)
    options = tiny_options(images, trials=1, image_size=16, groups="none")
    assert killer.run(["run", *options, "--name", "s"], folder) == 0
    return images, folder / "runs" / "s" / "model"


def parts_of(model: Path) -> dict[str, list[str]]:
    listed = json.loads((model.parent / "parts.json").read_text())
    return {part: listed[part] for part in ("train", "val", "cal", "test")}


def copied_to(target: Path, images: Path, paths: list[str], ending: str = ".png") -> None:
    for path in paths:
        file = (target / path).with_suffix(ending)
        file.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".png":
            shutil.copy(images / path, file)
        else:
            Image.open(images / path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file, quality=97)


def test_images_that_were_trained_on_are_left_out_singly(
    shell: Shell, larger: tuple[Path, Path], tmp_path: Path
) -> None:
    (images, model), there = larger, tmp_path / "there"
    parts = parts_of(model)
    evaluate = ("evaluate", model, there, "--groups", "none")
    copied_to(there, images, parts["test"])
    code, out, err = shell(*evaluate)
    assert (code, err) == (0, "groups: exact duplicates only\n")
    total = len(parts["test"])
    assert re.search(f"left out as trained on +0 of {total} by content; 0 more by nearly the same pixels", out)
    alone = json.loads(shell(*evaluate, "--json")[1])["scores"]

    copied_to(there, images, [*parts["train"][:5], parts["val"][0], parts["cal"][0]])
    code, out, err = shell(*evaluate, "--json")
    assert (code, err) == (0, f"7 of {total + 7} images are left out: the model was trained on them\n")
    found = json.loads(out)
    assert found["scores"] == alone
    assert found["seen"] == {"images": total + 7, "by_content": 7, "by_pixels": 0, "unknown": ""}

    copied_to(there, images, parts["train"][5:8], ".jpg")  # mirrored, and saved anew
    code, out, err = shell(*evaluate, "--json")
    said = f"10 of {total + 10} images are left out: the model was trained on them (3 of them as nearly the same"
    assert err.startswith(said), err
    found = json.loads(out)
    assert found["scores"] == alone
    assert found["seen"] == {"images": total + 10, "by_content": 7, "by_pixels": 3, "unknown": ""}

    shutil.copytree(model, tmp_path / "elsewhere" / "model")  # without its study: by content alone
    code, out, err = shell("evaluate", "elsewhere/model", *evaluate[2:])
    assert f"7 of {total + 10} images are left out: the model was trained on them" in err
    assert "their pixels are not in" in out


def test_only_images_that_were_trained_on_are_no_score(shell: Shell, larger: tuple[Path, Path], tmp_path: Path) -> None:
    images, model = larger
    paths = parts_of(model)["train"]
    copied_to(tmp_path / "there", images, paths)
    line = f"{len(paths)} of {len(paths)} images: the model was trained on them, so there is no score\n"
    assert shell("evaluate", model, "there", "--groups", "none") == (0, "", line)
    code, out, err = shell("evaluate", model, "there", "--groups", "none", "--json")
    assert (code, err, json.loads(out)["scores"]) == (0, line, None)


def test_a_folder_that_says_nothing_of_its_images_is_said_to(
    shell: Shell, made: Path, small_folder: Path, tmp_path: Path
) -> None:
    files = json.loads((made / "card.json").read_text())["files"]
    lines = (made / bundle.SEEN).read_text().splitlines()
    assert len(lines) == 160 - json.loads((made / "card.json").read_text())["test"]["images"]
    assert {len(line) for line in lines} == {16}
    old = with_card(tmp_path / "old", made, files={name: one for name, one in files.items() if name != bundle.SEEN})
    code, _, err = shell("evaluate", old, small_folder)
    assert code == 0
    assert "whether the model was trained on some of these images cannot be checked" in err
    assert "most of them were trained on, so this is no score" in err
    (old / bundle.SEEN).unlink()
    assert shell("predict", old, small_folder / "0")[0] == 0
    torn = with_card(tmp_path / "torn", made)
    (torn / bundle.SEEN).write_text("")
    code, _, err = shell("evaluate", torn, small_folder)
    assert (code, err.count("\n")) == (2, 1)


def test_folders_that_cannot_be_scored(shell: Shell, made: Path, small_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no class folders in empty" in shell("evaluate", made, "empty")[2]
    assert (
        shell("evaluate", made, "none")[2]
        == "study: no such folder: none (give a folder of class folders, or a CSV list)\n"
    )
    folder = shrink(small_folder, tmp_path / "photos", classes=2, each=3)
    (folder / "0").rename(folder / "zero")
    code, out, err = shell("evaluate", made, "photos")
    assert (code, out) == (2, "")
    assert err == (
        "study: photos has classes that the model does not know: zero (it knows: 0, 1, 2, 3; rename the folders)\n"
    )
    (folder / "zero").rename(folder / "0")
    four = shrink(small_folder, tmp_path / "four", classes=4, each=3)
    for old, new in (("2", "two"), ("3", "it's three")):
        (four / old).rename(four / new)
    err = shell("evaluate", made, "four")[2]
    advice = "--without 'it'\"'\"'s three' --without two"
    assert f"rename the folders, or leave them out: {advice})" in err
    assert "knows: 0, 1, 2, 3" in err
    (folder / "0" / "broken.png").write_bytes(b"")
    code, _, err = shell("evaluate", made, "photos")
    assert code == 2
    assert "cannot be read as images" in err
    assert shell("evaluate", made, "photos", "--skip-bad")[0] == 0
    (folder / "2").mkdir()
    assert "class without images: 2" in shell("evaluate", made, "photos", "--skip-bad")[2]
