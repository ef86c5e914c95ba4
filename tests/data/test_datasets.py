"""One contract for every dataset, and one clear line for every folder that is none."""

import contextlib
import csv
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data import DataError
from data.datasets import ImageSet, load
from data.datasets import load_folder as load_folder_cached
from data.findings import count_label_conflicts
from data.grouping.sources import join
from data.images import decode
from tests.conftest import SHARED, random_images

Writer = Callable[[Path], None]


def load_folder(root: Path, image_size: int, **options: Any) -> ImageSet:
    """With a cache of its own."""
    with tempfile.TemporaryDirectory() as cache:
        dataset = load_folder_cached(root, image_size, Path(cache), **options)
        return dataclasses.replace(dataset, images=np.array(dataset.images))


@pytest.fixture(params=["digits", "tissue", "folder", "lc25000"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> ImageSet:
    if request.param == "folder":
        return load_folder(request.getfixturevalue("small_folder"), 16)
    if request.param == "lc25000":
        if not (SHARED / "lc25000_5x1000").is_dir():
            pytest.skip("the shared LC25000 images are not here")
        return load(str(SHARED / "lc25000_5x1000"), 16, tmp_path)
    return load(request.param, 16, tmp_path)


def test_contract(dataset: ImageSet) -> None:
    count = len(dataset.labels)
    assert dataset.images.shape == (count, 16, 16, 3)
    assert dataset.images.dtype == np.uint8
    assert dataset.images.std() > 5
    assert len(dataset.paths) == len(set(dataset.paths)) == count == len(dataset.groups)
    assert all((dataset.root / path).is_file() for path in dataset.paths[:5])
    assert set(dataset.labels.tolist()) == set(range(len(dataset.classes)))
    assert list(dataset.classes) == sorted(dataset.classes)
    assert set(dataset.groups.tolist()) == set(range(int(dataset.groups.max()) + 1))
    assert len(dataset.fingerprint) == 64
    assert not dataset.skipped


def test_shared_images_have_their_true_groups(tmp_path: Path) -> None:
    if not (SHARED / "lc25000_5x1000").is_dir():
        pytest.skip("the shared LC25000 images are not here")
    dataset = load(str(SHARED / "lc25000_5x1000"), 16, tmp_path)
    assert len(dataset.labels) == 5000
    assert dataset.groups.max() + 1 <= 1216  # fewer only where identical files join two
    assert dataset.groups.max() + 1 >= 1200


def test_tissue_is_labelled_synthetic_and_digits_are_not(tmp_path: Path) -> None:
    assert load("tissue", 16, tmp_path).synthetic
    assert not load("digits", 16, tmp_path).synthetic


def test_tissue_is_deterministic_and_has_copies(tissue_folder: Path, tmp_path: Path) -> None:
    from data.public import tissue

    again = tissue.generate(tmp_path / "again", sources=6, copies=3, size=48)
    first, second = load_folder(tissue_folder, 16), load_folder(again, 16)
    assert first.fingerprint == second.fingerprint
    assert np.bincount(first.groups).tolist() == [3] * 30
    other = tissue.generate(tmp_path / "other", sources=6, copies=3, size=48, seed=1)
    assert load_folder(other, 16).fingerprint != first.fingerprint


def test_loading_again_gives_the_same(small_folder: Path) -> None:
    first, second = load_folder(small_folder, 8), load_folder(small_folder, 8)
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.images, second.images)


def test_fingerprint_sees_content_but_not_the_place(small_folder: Path, tmp_path: Path) -> None:
    from tests.conftest import shrink

    moved = shrink(small_folder, tmp_path / "moved", classes=4, each=40)
    assert load_folder(moved, 8).fingerprint == load_folder(small_folder, 8).fingerprint
    file = next((moved / "0").iterdir())
    Image.fromarray(random_images(1, 8)[0]).save(file)
    assert load_folder(moved, 8).fingerprint != load_folder(small_folder, 8).fingerprint


def make_folder(root: Path, classes: dict[str, int], size: int = 8) -> Path:
    for seed, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for number, image in enumerate(random_images(count, size, seed)):
            Image.fromarray(image).save(root / name / f"{number}.png")
    return root


def test_groups_csv_is_honoured_and_identical_images_join(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {"a": 4, "b": 4})
    (root / "b" / "3.png").write_bytes((root / "a" / "0.png").read_bytes())
    rows = [(f"{c}/{i}.png", f"{c}{i // 2}") for c in "ab" for i in range(4)]
    with (root / "groups.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("path", "group"), *rows])
    dataset = load_folder(root, 8)
    groups = dict(zip(dataset.paths, dataset.groups.tolist(), strict=True))
    assert groups["a/0.png"] == groups["a/1.png"] == groups["b/3.png"] == groups["b/2.png"]
    assert groups["a/2.png"] == groups["a/3.png"] != groups["a/0.png"]
    assert groups["b/0.png"] == groups["b/1.png"]
    assert dataset.groups.max() == 2
    assert dataset.groups_from.startswith("groups.csv; identical files")


def test_group_ids_count_per_label_where_a_label_column_says_so(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {"a": 2, "b": 2})
    rows = [(f"{c}/{i}.png", c, i) for c in "ab" for i in range(2)]
    with (root / "groups.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("path", "label", "group_id"), *rows])
    assert load_folder(root, 8).groups.max() == 3


def test_join_is_transitive() -> None:
    assert join([("a", "1"), ("b", "2"), ("c", "1"), ("b", "1")]).tolist() == [0, 0, 0, 0]
    assert join([("a", "1"), ("b", "2")]).tolist() == [0, 1]


def test_lc25000_archive_layout(tmp_path: Path) -> None:
    inside = tmp_path / "x" / "lung_colon_image_set"
    make_folder(inside / "lung_image_sets", {"lung_n": 2, "lung_aca": 2})
    make_folder(inside / "colon_image_sets", {"colon_n": 2})
    assert load_folder(tmp_path / "x", 8).classes == ("colon_n", "lung_aca", "lung_n")


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("I;16", 257 * 80, (80, 80, 80)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_modes_become_rgb(tmp_path: Path, mode: str, colour: object, expected: tuple[int, ...]) -> None:
    Image.new(mode, (9, 9), colour).save(tmp_path / "x.png")  # type: ignore[arg-type]
    assert decode(tmp_path / "x.png", 4)[2, 2].tolist() == list(expected)


@pytest.mark.parametrize("ending", ["png", "jpeg", "tif", "bmp", "webp", "gif"])
def test_file_formats(tmp_path: Path, ending: str) -> None:
    smooth = Image.fromarray(random_images(1, 4)[0]).resize((64, 64), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / f"x.{ending}")
    expected = np.asarray(smooth.resize((16, 16), Image.Resampling.BILINEAR), float)
    assert np.abs(decode(tmp_path / f"x.{ending}", 16) - expected).mean() < (12 if ending == "gif" else 4)


def test_palettes_and_their_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert decode(tmp_path / "plain.png", 4)[0, 0].tolist() == [200, 10, 20]
    assert decode(tmp_path / "clear.png", 4)[0, 0].tolist() == [255, 255, 255]
    Image.new("LA", (8, 8), (50, 128)).save(tmp_path / "half.png")
    assert decode(tmp_path / "half.png", 4)[0, 0].tolist() == [152, 152, 152]


def test_cmyk_and_rotation_by_exif(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg")
    red = decode(tmp_path / "x.jpg", 4)[1, 1].astype(int)
    assert red[0] > 180
    assert red[1] < 80
    left_white = np.zeros((16, 16, 3), np.uint8)
    left_white[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: what is left goes up
    Image.fromarray(left_white).save(tmp_path / "y.jpg", exif=exif, quality=95)
    turned = decode(tmp_path / "y.jpg", 8)
    assert turned[0].mean() > 200
    assert turned[-1].mean() < 50


def truncated(path: Path) -> None:
    data = (path / "a" / "0.png").read_bytes()
    (path / "a" / "0.png").write_bytes(data[: len(data) // 2])


def text_file(path: Path) -> None:
    (path / "a" / "notes.png").write_text("not an image")


def empty_file(path: Path) -> None:
    (path / "a" / "1.png").write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, text_file, empty_file])
def test_bad_files_are_named_or_left_out(tmp_path: Path, damage: Writer) -> None:
    root = make_folder(tmp_path / "d", {"a": 4, "b": 4}, size=32)
    damage(root)
    with pytest.raises(DataError, match=r"1 of . files cannot be read as images: a/.*--skip-bad"):
        load_folder(root, 8)
    dataset = load_folder(root, 8, skip_bad=True)
    assert len(dataset.skipped) == 1
    assert next(iter(dataset.skipped)).startswith("a/")
    assert ": " in dataset.left_out[0]


def no_classes(root: Path) -> None:
    root.mkdir()


def one_class(root: Path) -> None:
    make_folder(root, {"only": 3})


def empty_class(root: Path) -> None:
    make_folder(root, {"a": 3, "b": 0})


def parts_instead_of_classes(root: Path) -> None:
    make_folder(root, {"train": 3, "test": 3})


def bad_columns(root: Path) -> None:
    make_folder(root, {"a": 3, "b": 3})
    (root / "groups.csv").write_text("file,patient\n")


def missing_rows(root: Path) -> None:
    make_folder(root, {"a": 3, "b": 3})
    (root / "groups.csv").write_text("path,group\na/0.png,1\n")


def extra_rows(root: Path) -> None:
    make_folder(root, {"a": 1, "b": 1})
    (root / "groups.csv").write_text("path,group\na/0.png,1\nb/0.png,2\na/9.png,3\n")


def test_a_label_column_does_not_tear_groups_apart(tmp_path: Path) -> None:
    """A patient with images of two classes is one group; only a `group_id` counts per label."""
    root = make_folder(tmp_path / "d", {"a": 2, "b": 2})
    rows = [(f"{c}/{i}.png", c, f"patient{i}") for c in "ab" for i in range(2)]
    with (root / "groups.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("path", "label", "group"), *rows])
    assert load_folder(root, 8).groups.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,group\na/0.png,1\nb/0.png,\n", "line 3: a row needs a path and a group"),
        ("group,path\n1,a/0.png\nx\n", "line 3: a row needs a path and a group"),
        ("path,group\na/0.png,1\nb/0.png,2\na/0.png,3\n", "line 4: a/0.png is listed under two groups, 1 and 3"),
    ],
)
def test_rows_that_say_nothing_or_too_much(tmp_path: Path, text: str, message: str) -> None:
    root = make_folder(tmp_path / "d", {"a": 1, "b": 1})
    (root / "groups.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_folder(root, 8)


def test_two_spellings_of_one_file_may_not_have_two_groups(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {"a": 1, "b": 1})
    (root / "a" / "0.png").rename(root / "a" / "u\u0308.png")
    (root / "groups.csv").write_text("path,group\na/\u00fc.png,1\na/u\u0308.png,2\nb/0.png,3\n")
    with pytest.raises(DataError, match=r"is listed under two groups, 1 and 2"):
        load_folder(root, 8)


def test_identical_files_that_join_groups_are_told(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {"a": 3, "b": 3})
    for name in ("a/1.png", "b/1.png"):
        (root / name).write_bytes((root / "a/0.png").read_bytes())
    found = load_folder(root, 8, groups="none")
    assert "identical files in several groups joined" in found.groups_from
    assert count_label_conflicts(found) == 3


def test_our_own_runs_folder_is_no_class(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {"a": 2, "b": 2})
    assert load_folder_cached(root, 8, root / "runs" / "cache", groups="none").classes == ("a", "b")
    assert load_folder_cached(root, 8, root / "runs" / "cache", groups="none").classes == ("a", "b")


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).random((8, 8)).astype(np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match="floating-point pixels"):
        decode(tmp_path / "x.tif", 4)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("ending", ["avif", "dds", "webp", "tif", "gif", "jpeg", "png", "bmp"])
def test_damaged_files_of_any_format_are_data_errors(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    try:
        Image.fromarray(random_images(1, 32)[0]).save(tmp_path / f"x.{ending}")
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {ending}")
    whole = (tmp_path / f"x.{ending}").read_bytes()
    for _ in range(60):
        damaged = bytearray(whole[: int(rng.integers(1, len(whole) + 1))])
        for place in rng.integers(0, len(damaged), 6):
            damaged[place] = int(rng.integers(0, 256))
        with contextlib.suppress(DataError):  # anything else is a bug
            decode(bytes(damaged), 8)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {"a": 2, "b": 2})
    (root / "a" / "0.png").rename(root / "a" / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(DataError, match="1 file name is not UTF-8"):
        load_folder(root, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_classes, "no class folders in"),
        (one_class, "only one class folder"),
        (empty_class, "class without images: b"),
        (parts_instead_of_classes, "no class folders in .*/test"),
        (bad_columns, "needs the columns path and group; it has: file, patient"),
        (missing_rows, r"lacks 5 images \(a/1.png, a/2.png, b/0.png, ...\); it must list the folder's 6 images"),
        (extra_rows, r"names 1 image \(a/9.png\) that is not there"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, make: Writer, message: str) -> None:
    make(tmp_path / "d")
    with pytest.raises(DataError, match=message):
        load_folder(tmp_path / "d", 8)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder: .*nowhere .*digits"):
        load(str(tmp_path / "nowhere"), 8, tmp_path)


def test_a_pattern_on_names_gives_the_groups(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {"patient1": 3, "patient2": 3})
    dataset = load_folder(root, 8, groups=r"/(?P<group>\d)\.png$")
    assert dataset.groups.tolist() == [0, 1, 2, 0, 1, 2]
    assert load_folder(root, 8, groups="none").groups.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("(?P<group>x+)", r"matches 0 of 6 images; not, for example: a/0.png, a/1.png"),
        ("(?P<group>[ab]/[01])", r"matches 4 of 6 images; not, for example: a/2.png, b/2.png"),
        ("(?P<group>png)", "puts all 6 images into one group: 'png'"),
        ("png", "needs a part named group"),
        ("(?P<group>", "is not a regular expression"),
        ("nowhere.csv", "cannot read the groups in nowhere.csv"),
    ],
)
def test_groups_that_cannot_be_used(tmp_path: Path, groups: str, message: str) -> None:
    root = make_folder(tmp_path / "d", {"a": 3, "b": 3})
    with pytest.raises(DataError, match=message):
        load_folder(root, 8, groups=groups)


def test_groups_are_found_from_the_pixels_once_and_kept(tissue_folder: Path, tmp_path: Path) -> None:
    truth = load_folder(tissue_folder, 32).groups
    bare = tmp_path / "bare"
    shutil.copytree(tissue_folder, bare)
    (bare / "groups.csv").unlink()
    seen: list[str] = []
    for _ in range(2):
        found = load_folder_cached(bare, 32, tmp_path / "c", progress=lambda what, done, total: seen.append(what))
    assert set(seen) == {"decoding", "finding groups"}
    assert seen.count("finding groups") < 400
    assert "near duplicates" in found.groups_from
    assert len(found.groups) == len(truth)
    assert load_folder(tissue_folder, 32, groups="auto").groups.tolist() == found.groups.tolist()


def test_unusual_names_and_link_loops(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", {"a": 3, "b b": 3})
    (root / "a" / "0.png").rename(root / "a" / "ü ,;'\"\n\u00df.png")
    (root / "a" / "loop").symlink_to(root / "a")
    dataset = load_folder(root, 8, groups="none")
    assert len(dataset.paths) == 6
    assert dataset.classes == ("a", "b b")


def test_an_image_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "d", {"a": 2, "b": 2})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # the real limit would need a file of 180 megapixels
    with pytest.raises(
        DataError, match=r"4 of 4 files .* too many pixels for an image \(possible decompression bomb\)"
    ):
        load_folder(root, 8)
