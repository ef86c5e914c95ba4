"""Folders as they come: six layouts, parts that somebody made, and leaks across them."""

import csv
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data import DataError
from data.datasets import ImageSet, load_folder, survey, unreadable
from data.layout.listing import listing
from data.public import tissue
from data.splits import SHARES, crossing, divide
from models.bundle.card import StudyCard
from models.bundle.folder import read_card
from tests.conftest import Shell, random_images, tiny_options

Layout = Callable[[Path], Path]
"""Fills an empty folder with images; what to give to --data."""

NOISE = np.random.default_rng(0)


def image(path: Path, label: str) -> None:
    """Noise, brighter in class b."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = NOISE.integers(0, 120, (8, 8, 3)) + (120 if label == "b" else 0)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def table(file: Path, *rows: Iterable[object]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    return file


def class_folders(root: Path) -> Path:
    for label in "ab":
        for number in range(24):
            image(root / label / f"{number}.png", label)
    return root


def divided(root: Path) -> Path:
    """Kaggle's habit: Train, valid and test, with class folders in each."""
    for part, count in (("Train", 16), ("valid", 4), ("test", 5)):
        for label in "ab":
            for number in range(count):
                image(root / part / label / f"{number}.png", label)
    return root


def manifest(root: Path) -> Path:
    """Two folders that say nothing of classes, and a list."""
    names = [(f"{'scans' if number % 2 else 'more/scans'}/{number}.png", "ab"[number % 3 == 0]) for number in range(48)]
    for path, label in names:
        image(root / path, label)
    return table(root / "images.csv", ("path", "label"), *names)


def full_manifest(root: Path) -> Path:
    """With group and part: two images of each patient."""
    names = [(f"scans/{number}.png", "ab"[number % 2]) for number in range(64)]
    for path, label in names:
        image(root / path, label)
    parts = ("train",) * 5 + ("val", "test", "test")
    rows = [(path, label, f"patient {n // 4}", parts[n // 4 % 8]) for n, (path, label) in enumerate(names)]
    return table(root / "images.csv", ("path", "label", "group", "part"), *rows)


def imagefolder(root: Path) -> Path:
    """As Hugging Face has it: parts, each with metadata.csv."""
    for part, count in (("train", 32), ("test", 10)):
        names = [(f"{number}.png", "ab"[number % 2]) for number in range(count)]
        for path, label in names:
            image(root / part / path, label)
        table(root / part / "metadata.csv", ("file_name", "label"), *names)
    return root


def nested(root: Path) -> Path:
    """As many archives unpack: one folder more than needed."""
    class_folders(root / "archive")
    return root


GOOD: dict[str, tuple[Layout, dict[str, int], bool]] = {
    "class folders": (class_folders, {"a": 24, "b": 24}, False),
    "divided": (divided, {"a": 25, "b": 25}, True),
    "manifest": (manifest, {"a": 32, "b": 16}, False),
    "manifest with groups and parts": (full_manifest, {"a": 32, "b": 32}, True),
    "imagefolder": (imagefolder, {"a": 21, "b": 21}, True),
}


def load(place: Path, **options: Any) -> ImageSet:
    return load_folder(place, 8, place.parent / "cache", **options)


@pytest.mark.parametrize("name", GOOD)
def test_each_layout_gives_classes_groups_and_parts(name: str, tmp_path: Path) -> None:
    make, counts, comes_divided = GOOD[name]
    place = make(tmp_path / "d")
    dataset = load(place)
    found = np.bincount(dataset.labels).tolist()
    assert dict(zip(dataset.classes, found, strict=True)) == counts
    bright = dataset.images.mean(axis=(1, 2, 3)) > 120
    assert (bright == (dataset.labels == 1)).all()  # each image has its own label
    assert (dataset.parts is not None) == comes_divided
    seen = survey(str(place), tmp_path / "c")
    assert (seen.count, seen.classes) == (len(dataset.labels), 2)
    assert seen.imbalance == max(counts.values()) / min(counts.values())
    parts = divide(dataset, seed=0)
    every = np.concatenate([getattr(parts, part) for part in SHARES])
    assert sorted(every.tolist()) == list(range(len(dataset.labels)))
    for part in SHARES:
        assert set(dataset.labels[getattr(parts, part)].tolist()) == {0, 1}
    if dataset.parts:
        assert [dataset.parts[i] for i in parts.test] == ["test"] * dataset.parts.count("test")
        assert {dataset.parts[i] for i in parts.cal} == {"train"}  # nobody brought one
        assert load(place, parts="none").parts is None


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_each_layout_is_audited_and_searched(name: str, shell: Shell, tmp_path: Path) -> None:
    make, _, comes_divided = GOOD[name]
    place = make(tmp_path / "d")
    code, out, err = shell("data", "audit", place)
    assert (code, "Classes and parts" in out) == (0, True), err
    code, out, err = shell("run", *tiny_options(place, trials=2, confirm=1), "--name", "s")
    assert code == 0, err
    card = read_card(tmp_path / "runs" / "s" / "model", StudyCard)
    assert card.protocol == ("given" if comes_divided else "grouped")
    assert not card.leaky
    assert ("The parts came with the images" in (tmp_path / "runs/s/model/MODEL_CARD.md").read_text()) == comes_divided
    assert shell("evaluate", "runs/s/model", place)[0] == 0
    assert shell("resume", "s")[0] == 0


def test_a_nest_one_level_too_deep_names_the_folder_to_give(shell: Shell, tmp_path: Path) -> None:
    root = nested(tmp_path / "d")
    code, _, err = shell("data", "audit", root)
    assert code == 2
    assert f"only one folder in {root}, and 2 folders inside it (give: {root / 'archive'})" in err
    divided(tmp_path / "e" / "archive")
    assert f"(give: {tmp_path / 'e' / 'archive'})" in shell("data", "audit", tmp_path / "e")[2]


def without_train(root: Path) -> Path:
    shutil.rmtree(divided(root) / "Train")
    return root


def parts_beside_others(root: Path) -> Path:
    divided(root)
    (root / "extra").mkdir()
    return root


def parts_one_level_too_shallow(root: Path) -> Path:
    for part in divided(root).iterdir():
        (part / "images").mkdir()
        for label in "ab":
            (part / label).rename(part / "images" / label)
    return root


def of_metadata(*rows: Iterable[object]) -> Layout:
    def make(root: Path) -> Path:
        table(imagefolder(root) / "train" / "metadata.csv", *rows)
        return root

    return make


def of_list(*rows: Iterable[object]) -> Layout:
    def make(root: Path) -> Path:
        manifest(root)
        return table(root / "images.csv", *rows)

    return make


HEAD = ("path", "label")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_train, "the folders in d: there are the parts val, test, and no train .*--set parts=none"),
        (parts_beside_others, "holds parts .* and other folders .extra.: move the others away"),
        (parts_one_level_too_shallow, "the parts in .* hold one class folder only, images .each needs"),
        (of_metadata(("image", "label"), ("0.png", "a")), "has no column file_name .it has: image, label."),
        (
            of_metadata(("file_name", "text"), ("0.png", "a")),
            "no column label, and train/0.png lies in no class",
        ),
        (
            of_metadata(("file_name", "label"), ("0.png", "a"), ("1.png", "")),
            "1.png has no label, others have .fill in all, or none.",
        ),
        (of_metadata(("file_name", "label"), (".", "a")), "metadata.csv, line 2: no file is named"),
        (of_list(("path", "class"), ("scans/1.png", "a")), "has no column label .it has: path, class."),
        (of_list(HEAD, ("scans/1.png", "a"), ("scans/1.png", "b")), "scans/1.png is listed under two classes, a and b"),
        (of_list(HEAD, ("scans/1.png", "a"), ("scans/3.png", "")), "images.csv, line 3: no label"),
        (of_list(HEAD, ("../x.png", "a"), ("scans/3.png", "b")), "does not lie below the list's folder"),
        (of_list(HEAD, ("scans/1.png", "a"), ("scans/3.png", "a")), "names 1 class .at least two"),
        (of_list(HEAD), "lists no images"),
        (of_list((*HEAD, "part"), ("scans/1.png", "a", "holdout"), ("scans/3.png", "b", "train")), "part 'holdout' is"),
        (of_list((*HEAD, "part"), ("scans/1.png", "a", ""), ("scans/3.png", "b", "train")), "1 row has no part"),
        (
            of_list(HEAD, ("scans/1.png", "a"), ("scans/none.png", "b")),
            "1 of 2 files .*none.png: No such",
        ),
        (lambda root: class_folders(root) / "a" / "0.png", "not a folder: .*or a CSV list"),
    ],
)
def test_what_cannot_be_understood_is_said_in_a_line(make: Layout, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        divide(load(make(tmp_path / "d")), 0)


def test_a_list_may_name_files_absolutely_and_with_backslashes(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    rows = [(str(root / "a" / "1.png"), "a"), ("a\\2.png", "a"), ("./b/1.png", "b")]
    file = table(root / "list.csv", HEAD, *rows)
    assert list(listing(file, tmp_path).labels) == ["a/1.png", "a/2.png", "b/1.png"]


def test_labels_of_a_list_are_part_of_what_the_images_are(tmp_path: Path) -> None:
    file = manifest(tmp_path / "d")
    first = load(file)
    rows = list(csv.reader(file.open()))
    rows[1][1] = "ab"[rows[1][1] == "a"]
    second = load(table(file, *rows))
    assert first.contents == second.contents
    assert first.fingerprint != second.fingerprint


def test_parts_from_a_file_are_those_that_the_split_gave(shell: Shell, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    code, out, _ = shell("data", "split", root, "--csv", "--seed", 3)
    assert code == 0
    file = tmp_path / "split.csv"
    file.write_text(out)
    made = divide(load(root), seed=3)
    given = divide(load(root, parts=str(file)), seed=0)
    assert given.hash == made.hash
    assert divide(load(root), seed=0).hash != made.hash
    assert shell("data", "split", root, "--csv", "--parts", file)[1] == out
    table(file, *list(csv.reader(file.open()))[:-3])
    with pytest.raises(DataError, match=r"split\.csv lacks 3 images"):
        load(root, parts=str(file))


@pytest.mark.slow
def test_given_parts_are_in_the_contract(shell: Shell, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    (tmp_path / "split.csv").write_text(shell("data", "split", root, "--csv", "--seed", 3)[1])
    command = ("run", *tiny_options(root, trials=1), "--name", "s", "--set")
    assert shell(*command, "parts=split.csv")[0] == 0
    (tmp_path / "split.csv").rename(tmp_path / "moved.csv")
    assert shell(*command, "parts=moved.csv")[0] == 0
    code, _, err = shell(*command, "seed=0")
    assert (code, "the parts (with other groups the images are divided differently)" in err) == (2, True)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Tissue of single tiles in train and test, and twenty planted copies: turned, mirrored, cut, compressed."""
    place = tmp_path_factory.mktemp("leaking")
    tiles = tissue.generate(place / "tiles", sources=20, copies=1, size=96)
    files = sorted(tiles.glob("*/*.jpeg"))
    root = place / "d"
    for number, file in enumerate(files):
        part = "test" if number % 5 == 0 else "train"
        (root / part / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / part / file.parent.name / file.name)
    planted = set()
    originals = sorted(root.glob("train/*/*.jpeg"))[::4][:20]
    for number, file in enumerate(originals):
        with Image.open(file) as opened:
            copy = opened.convert("RGB").rotate(90 * (number % 4))
        if number % 2:
            copy = copy.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if number % 3:
            copy = copy.crop((4, 6, 92, 94)).resize((96, 96))
        target = root / "test" / file.parent.name / f"copy-{number}.jpg"
        copy.save(target, quality=85)
        planted.add(target.relative_to(root).as_posix())
    assert len(planted) == 20
    return root, planted


def test_planted_copies_across_the_parts_are_found(leaking: tuple[Path, set[str]]) -> None:
    root, planted = leaking
    dataset = load(root)
    found = {path for path, _ in crossing(dataset)}
    assert found == planted  # 20 of 20, and nothing else
    with pytest.raises(DataError, match=r"20 held-out images share .* for example test/.* and train/"):
        divide(dataset, 0)
    assert len(divide(dataset, 0, allow_leaks=True).test) == dataset.parts.count("test")  # type: ignore[union-attr]


@pytest.mark.slow
def test_leaks_are_refused_unless_every_number_may_be_marked(
    leaking: tuple[Path, set[str]], shell: Shell, tmp_path: Path
) -> None:
    root, _ = leaking
    code, out, err = shell("data", "audit", root, "--json")
    assert code == 0
    assert '"crossing": [' in out
    assert "leak: 20 held-out images share a source with another part" in err
    command = ("run", *tiny_options(root, trials=1, image_size=16), "--name", "s")
    code, _, err = shell(*command)
    assert code == 2
    assert "(--set allow_leaks=true), which marks every number as leaky" in err
    code, out, err = shell(*command, "--set", "allow_leaks=true")
    assert code == 0, err
    assert "LEAKY: the images came divided" in out
    assert "leaky accuracy" in out
    model = tmp_path / "runs" / "s" / "model"
    assert "LEAKY: the images came divided" in (model / "report.html").read_text()
    assert (model / "classification_report.txt").read_text().startswith("LEAKY: the images came divided")
    assert "sources in several parts were allowed" in (model / "MODEL_CARD.md").read_text()
    assert shell("sql", "SELECT leaky FROM models", "--csv")[1].split() == ["leaky", "1"]
    assert "(LEAKY)" in shell("status", "s")[1]


def test_files_that_cannot_be_read_are_listed(shell: Shell, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    (root / "a" / "3.png").write_text("no image")
    (root / "b" / "4.png").write_bytes(b"")
    assert list(unreadable(str(root), 8, tmp_path / "cache")) == ["a/3.png", "b/4.png"]
    code, out, err = shell("data", "bad", root, "--csv")
    assert (code, err.splitlines()[-1:]) == (0, [])
    assert [row.split(",")[0] for row in out.splitlines()] == ["path", "a/3.png", "b/4.png"]
    code, _, err = shell("data", "audit", root)
    assert (code, "a list: study data bad" in err) == (2, True)
    code, _, _ = shell("data", "audit", root, "--skip-bad", "--html", "audit.html")
    assert code == 0
    assert "<li>a/3.png: not an image</li>" in (tmp_path / "audit.html").read_text()


def test_random_images_have_no_group_in_common(tmp_path: Path) -> None:
    """What the other tests rest on: small noise is nobody's copy."""
    for number, pixels in enumerate(random_images(8, 8)):
        (tmp_path / "d" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "d" / "ab"[number % 2] / f"{number}.png")
    assert load(tmp_path / "d").groups.tolist() == list(range(8))


def test_a_class_that_a_given_part_lacks_is_named(tmp_path: Path) -> None:
    root = divided(tmp_path / "d")
    shutil.rmtree(root / "test" / "b")
    with pytest.raises(DataError, match="no image of b in test, so no score would say anything of it"):
        divide(load(root), 0)


def test_a_file_in_two_parts_is_refused(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    rows = [(path, ("train", "test")[number % 2]) for number, path in enumerate(load(root).paths)]
    listed = table(tmp_path / "parts.csv", ("path", "part"), *rows, (rows[0][0], "test"))
    with pytest.raises(DataError, match=r"a/0\.png has two parts, train and test"):
        load(root, parts=str(listed))


def test_leaks_that_are_not_there_need_no_leave(tmp_path: Path) -> None:
    for make in (class_folders, divided):
        with pytest.raises(DataError, match="no source lies in several parts"):
            divide(load(make(tmp_path / make.__name__)), 0, allow_leaks=True)


def test_a_metadata_file_of_something_else_hides_no_class_folders(tmp_path: Path) -> None:
    plain, parts = class_folders(tmp_path / "d"), divided(tmp_path / "e")
    for folder in (plain, parts / "Train"):
        table(folder / "metadata.csv", ("isic_id", "age"), ("1", "40"))
    assert len(load(plain).paths) == 48
    assert load(parts).parts is not None


def test_nobodys_home_is_said_in_a_line(shell: Shell, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    for words in (["run", "--data", "~nobody-here/x"], ["data", "split", "~nobody-here/x"]):
        code, _, err = shell(*words)
        assert (code, err.count("\n")) == (2, 1)
        assert "~nobody-here/x: no user of that name on this machine" in err
    assert "no user of that name on this machine" in shell("data", "split", root, "--parts", "~nobody-here/x.csv")[2]


@pytest.mark.slow
def test_sources_that_become_known_later_change_the_intervals_of_parts_that_stay(shell: Shell, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    paths = load(root, groups="none").paths
    parts = ("train", "train", "train", "val", "cal", "test")
    table(tmp_path / "parts.csv", ("path", "part"), *((path, parts[n // 2 % 6]) for n, path in enumerate(paths)))
    command = ["run", *tiny_options(root, trials=1), "--name", "s", "--set", f"parts={tmp_path / 'parts.csv'}"]
    assert shell(*command, "--set", "groups=none")[0] == 0
    model = tmp_path / "runs" / "s" / "model"
    before = read_card(model, StudyCard)
    table(root / "groups.csv", ("path", "group"), *((path, f"patient {n // 2}") for n, path in enumerate(paths)))
    code, _, err = shell(*command)
    assert code == 0, err
    after = read_card(model, StudyCard)
    assert before.data is not None
    assert after.data is not None
    assert (before.data.groups, after.data.groups) == (48, 24)
    assert before.data.parts_hash == after.data.parts_hash
    assert after.weights_sha256 == before.weights_sha256
    assert after.test_openings == 1  # the same weights on the same images
