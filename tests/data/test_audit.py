"""The audit knows copies, conflicts and leaks of folders whose truth is known; the shell prints them."""

import csv
import gzip
import io
import json
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data import DataError
from data import audit as audit_room
from data.audit import audit
from data.datasets import ImageSet, load_folder
from data.public import known, tissue
from data.splits import make_parts
from study.result.audit_page import audit_page, findings
from tests.conftest import Shell, random_images


@pytest.fixture(scope="module")
def clashing(tissue_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic tissue, with one file copied into another class."""
    root = tmp_path_factory.mktemp("clash") / "tissue"
    shutil.copytree(tissue_folder, root)
    one = next((root / "synthetic_colon_aca").iterdir())
    shutil.copy(one, root / "synthetic_lung_n" / "twin.jpeg")
    with (root / "groups.csv").open("a") as handle:
        handle.write("synthetic_lung_n/twin.jpeg,own\n")
    return root


def test_the_audit_of_a_known_folder(clashing: Path, tmp_path: Path) -> None:
    dataset = load_folder(clashing, 48, tmp_path)
    parts = make_parts(dataset.labels, dataset.groups, dataset.classes, dataset.paths, 0)
    found = audit(dataset, parts, 0)
    assert found["images"] == 91
    assert found["groups"] == 30
    assert found["pixels"] == {"48x48": 91}
    assert len(found["exact_duplicates"]) == 1
    assert len(found["exact_duplicates"][0]) == 2
    assert len(found["label_conflicts"]) == 1
    assert len(found["label_conflicts"][0]) == 4
    assert found["classes"]["synthetic_lung_n"]["images"] == 19
    assert found["held_out_with_sibling"]["random"]["by_groups"] > 0.9
    assert found["held_out_with_sibling"]["grouped"]["by_groups"] == 0
    for scores in found["baselines"].values():
        assert 0 < scores["majority"] < 0.5 < scores["trees"] <= 1
    json.dumps(found)


@pytest.mark.slow
def test_the_shell_prints_tables_json_and_a_page(shell: Shell, clashing: Path, tmp_path: Path) -> None:
    code, out, err = shell("data", "audit", clashing, "--html", "audit.html")
    assert code == 0
    assert "detector" in out
    assert "trees on" in out  # the terminal is narrow: headings wrap
    assert "groups: groups.csv" in err
    assert "twin.jpeg" in re.sub(r"\s", "", out.split("Groups with several classes")[1])
    page = Path("audit.html").read_text()
    assert page.count("<img") > 20
    assert "http" not in page
    assert re.findall(r'<a href="#(\w+)">look', page)[0] == "conflicts"
    assert "1 group has images of several classes." in page
    assert "2 images are identical to some of another class: a label is wrong." in page
    assert '<span class="note">synthetic_lung_n/twin.jpeg</span>' in page
    code, out, _ = shell("data", "audit", clashing, "--json")
    assert json.loads(out)["images"] == 91


@pytest.mark.slow
def test_the_page_shows_pairs_at_the_edge_of_the_decision(shell: Shell) -> None:
    folder = tissue.generate(Path("tissue"), sources=4, copies=2, size=96)
    assert shell("data", "audit", folder, "--groups", "auto", "--html", "audit.html")[0] == 0
    page = Path("audit.html").read_text()
    edge = page.split("Pairs at the edge of the decision")[1]
    assert "likeness 0." in edge
    assert edge.count("<img") >= 2


def sentences(dataset: ImageSet, **changes: Any) -> dict[str, str]:
    """What the page says first of a folder, and where it leads."""
    return dict(findings(dataset, audit(dataset, None, 0) | changes))


def test_the_page_says_in_sentences_what_is_odd(small_set: ImageSet, tmp_path: Path) -> None:
    said = sentences(small_set)
    assert not [sentence for sentence in said if "identical" in sentence or "class" in sentence]
    for number in range(5):
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(random_images(1, 32, seed=2 * number + (name == "cat"))[0]).save(
                tmp_path / name / f"{number}.png"
            )
        Image.new("RGB", (32, 32)).save(tmp_path / "cat" / f"black {number}.png")
    (tmp_path / "<i>fox").mkdir()
    Image.fromarray(random_images(1, 32, seed=99)[0]).save(tmp_path / "<i>fox" / "0.png")
    odd = load_folder(tmp_path, 32, tmp_path / "cache", groups="none")
    said = sentences(odd, unreadable=["x: torn"])
    assert said["5 images are identical black."] == "copies"
    assert said["1 image is left out as unreadable."] == "unreadable"
    assert said["Class <i>fox is too small: 1 image of 1 source, and a study needs 4 sources."] == "classes"
    page = audit_page(odd, audit(odd, None, 0), [])
    assert "Class &lt;i&gt;fox is too small" in page
    assert "<i>fox" not in page
    assert "Nothing odd" not in page


def test_trees_are_bounded_in_images_and_in_memory(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a thousand classes a node keeps a thousand numbers; without a bound that is tens of gigabytes."""
    every = np.arange(len(small_set.labels))
    whole = audit_room.fit_trees(small_set, every, 0)
    assert whole.features.shape == (len(every), audit_room.BINS)
    assert whole.forest.max_leaf_nodes is None
    many = replace(small_set, classes=tuple(f"class {number}" for number in range(1000)))
    monkeypatch.setattr(audit_room, "FOREST_BYTES", 400 * 1000 * 8 * 40)
    monkeypatch.setattr(audit_room, "LEARNED_FROM", 100)
    cut = audit_room.fit_trees(many, every, 0)
    assert max(tree.tree_.node_count for tree in cut.forest.estimators_) <= 40
    assert all(tree.tree_.n_node_samples[0] <= 100 for tree in cut.forest.estimators_)
    assert (cut.labels(every) == small_set.labels).mean() > 0.5
    again = audit_room.fit_trees(many, every, 0)
    assert (again.labels(every) == cut.labels(every)).all()


def test_the_split_is_the_one_that_studies_use(shell: Shell, tissue_folder: Path) -> None:
    code, out, _ = shell("data", "split", tissue_folder, "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["path", "label", "group", "part"]
    assert len(rows) == 90
    options = ["--trials", "1", "--set", "image_size=16", "--set", "epochs=2", "--set", "min_epochs=1"]
    options += ["--set", "final_epochs=1", "--set", "space.base_filters=2", "--name", "s", "--preset", "quick"]
    assert shell("run", "--data", tissue_folder, *options)[0] == 0
    parts = json.loads(Path("runs/s/parts.json").read_text())
    for name in ("train", "val", "cal", "test"):
        assert sorted(row["path"] for row in rows if row["part"] == name) == sorted(parts[name])
    assert "class" in shell("data", "split", tissue_folder)[1]
    assert shell("data", "split", tissue_folder, "--seed", "5", "--csv")[1] != out


def test_known_datasets_are_recognised_by_names_count_and_size_together() -> None:
    size = (768, 768)
    for names, count in (
        (["colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc"], 25_000),
        (["colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc"], 5_000),
        (["lung_aca", "lung_scc"], 10_000),
        (["Colon_Adenocarcinoma", "Colon_Benign_Tissue", "Lung_Adenocarcinoma", "Lung-Benign_Tissue"], 20_000),
    ):
        found = known.recognise(names, count, size)
        assert found is not None
        assert found[0] == "lc25000"
        assert known.recognise(names, count, (300, 200)) is None
        assert known.recognise(names, count, None) is None
        assert known.recognise(names, 25_001, size) is None
    assert known.recognise(["lung_aca", "lung_scc"], 90, size) is None
    assert known.recognise(["cat", "dog"], 24, (32, 32)) is None  # one's own
    assert known.recognise(["cat", "dog"], 12_000, (300, 200)) is None
    assert known.recognise(["cat", "dog"], 12_000, (32, 32)) is not None  # of CIFAR-10's
    assert known.recognise(["colon_aca", "other"], 10_000, size) is None
    assert known.recognise(["lung_n"], 5_000, size) is None


def test_a_known_dataset_says_whose_it_is_and_how_it_leaks(shell: Shell, tissue_folder: Path, tmp_path: Path) -> None:
    for file in tissue_folder.glob("synthetic_*/*"):
        place = tmp_path / "lc" / file.parent.name.removeprefix("synthetic_")
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as small:
            small.resize((768, 768)).save(place / file.name)
    code, _, err = shell("data", "split", tmp_path / "lc", "--groups", "none", "--csv")
    assert code == 0
    assert "90 of 25,000 images" in err
    assert "Borkowski" in err
    assert "source tiles" in err


def idx_file(path: Path, values: np.ndarray) -> None:
    """The format of MNIST's files: magic number, shape, bytes."""
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + values.astype(np.uint8).tobytes())
    path.with_suffix(path.suffix + ".gz").write_bytes(gzip.compress(path.read_bytes()))


def test_fetch_writes_class_folders_and_checks_the_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own reader on small files in the real format: what it has on disk it does not download."""
    raw = tmp_path / "downloads" / "FashionMNIST" / "raw"
    for split, count in (("train", 30), ("t10k", 20)):
        idx_file(raw / f"{split}-images-idx3-ubyte", random_images(count, 28)[..., 0])
        idx_file(raw / f"{split}-labels-idx1-ubyte", np.arange(count) % 10)
    with pytest.raises(DataError, match="fashion-mnist should have 70000 images and has 50"):
        known.fetch("fashion-mnist", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]
    whole = replace(known.KNOWN["fashion-mnist"], images=50)
    monkeypatch.setitem(known.KNOWN, "fashion-mnist", whole)
    written = known.fetch("fashion-mnist", tmp_path)
    assert len(list(written.glob("*/*.png"))) == 50
    assert {path.name for path in written.iterdir()} == set(known.KNOWN["fashion-mnist"].classes[0])
    with Image.open(next(written.glob("bag/*.png"))) as image:
        assert image.size == (28, 28)


def test_what_cannot_be_fetched_says_how_to_get_it(shell: Shell) -> None:
    assert "download the archive" in shell("data", "fetch", "lc25000")[2]
    code, _, err = shell("data", "fetch", "imagenet")
    assert (code, err) == (2, "study: 'imagenet' cannot be fetched (there are: fashion-mnist, cifar10)\n")
    code, _, err = shell("run", "--data", "cifar10")
    assert (code, err) == (2, "study: cifar10 is not here yet (get it with: study data fetch cifar10)\n")
