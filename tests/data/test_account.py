"""The account of a folder: every file found is used or left out for a reason; names, lists and odd folders."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data import DataError
from data.datasets import survey
from data.grouping.sources import read_groups
from data.layout.found import (
    HIDDEN,
    LINKED,
    LISTS,
    NO_IMAGE,
    NOT_ONLY,
    OUTSIDE,
    OWN,
    SYSTEM,
    UNLISTED,
    WITHOUT,
    account,
    walk,
)
from data.layout.listing import listing
from data.layout.lists import part_list
from data.splits import refuse_too_few
from study.use.predict import find_images
from tests.conftest import Shell, tiny_options
from tests.data.test_layout import class_folders, divided, image, load, table


def empty(root: Path, *paths: str) -> Path:
    """Files without content, for what looks at names alone."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def fates(place: Path, **options: object) -> dict[str, str]:
    return listing(place, place.parent / "cache", **options).left_out  # type: ignore[arg-type]


def test_every_file_that_is_left_out_is_said_with_the_reason(tmp_path: Path) -> None:
    root = empty(tmp_path / "d", "a/1.png", "a/x/2.png", "b/1.png", "__background__/1.png", "loose.jpg", "groups.csv")
    empty(root, "a/.x.png", ".git/config", "a/@eaDir/1.png/T.jpg", "b/desktop.ini", "b/ehthumbs.db", "b/Thumbs.db")
    empty(root, "__MACOSX/a/1.png", "a/__pycache__/x.pyc")
    (root / "a" / "again").symlink_to(root / "b")
    found = listing(root, tmp_path / "cache")
    assert found.classes == ("__background__", "a", "b")
    assert list(found.labels) == ["__background__/1.png", "a/1.png", "a/x/2.png", "b/1.png"]
    system = ("a/@eaDir/1.png/T.jpg", "b/desktop.ini", "b/ehthumbs.db", "b/Thumbs.db", "__MACOSX/a/1.png")
    assert found.left_out == {
        **dict.fromkeys((*system, "a/__pycache__/x.pyc"), SYSTEM),
        **dict.fromkeys(("a/.x.png", ".git/config"), HIDDEN),
        **{"loose.jpg": OUTSIDE, "groups.csv": LISTS, "a/again": LINKED},
    }
    assert account(found) == [
        "3 classes (the folders directly inside): __background__ 1, a 2, b 1",
        "15 files found = 4 used + 11 left out: 6 of an operating system (__MACOSX/a/1.png), 2 hidden (a/.x.png), "
        "1 behind a link (a/again), 1 a list (groups.csv), 1 outside the class folders (loose.jpg)",
    ]


@pytest.mark.parametrize("here", ["cats", "dogs/P1", "birds", "work", "work/deep"])
def test_a_command_may_be_given_inside_the_folder(here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a study leaves there is no image; the class or the folder of work around it stays what it is."""
    root = empty(tmp_path / "d", *(f"cats/{number}.json" for number in range(50)))  # what describes an image, beside it
    for number in range(50):
        image(root / "cats" / f"{number}.png", 0)
    for path in ("dogs/P1/1.png", "dogs/P1/2.png", "dogs/3.png", "birds/1.ppm"):
        image(root / path, 0)
    (root / "dogs" / "P1" / "2.png").rename(root / "dogs" / "P1" / "2")
    (root / "birds" / "1.ppm").rename(root / "birds" / "1.unusual")
    before = listing(root, tmp_path / "runs" / "cache")
    names = ("optuna.db", "optuna.db-wal", "runs/s/model/report.png", "runs/cache/x/y.png")
    work = {"work/notes.txt", "work/Makefile", "work/a.py", "work/b.sh"} if "work" in here else set()
    ours = {f"{here}/{name}" for name in names} | work
    empty(root, *ours)
    found = listing(root, root / here / "runs" / "cache")
    assert (found.classes, found.labels) == (before.classes, before.labels)
    assert {path for path, why in found.left_out.items() if why == OWN} == ours
    monkeypatch.chdir(root / here)
    assert {path.relative_to(root).as_posix() for path in find_images([root], tuple)} == set(before.labels)


def test_a_command_may_be_given_inside_a_part(tmp_path: Path) -> None:
    places = [f"{part}/{label}/{part}.png" for part in ("train", "val", "test") for label in "ab"]
    root = empty(tmp_path / "d", "train/optuna.db", "train/runs/cache/1.png")
    for path in places:
        image(root / path, 0)
    found = listing(root, root / "train" / "runs" / "cache")
    assert list(found.labels) == sorted(places)


def test_ten_classes_are_named_and_the_others_counted(tmp_path: Path) -> None:
    found = listing(empty(tmp_path / "d", *(f"c{n:02}/1.png" for n in range(13))), tmp_path / "c")
    assert account(found)[0].endswith("c08 1, c09 1 and 3 more")
    assert account(found, {"c00/1.png": "not an image"})[1] == (
        "13 files found = 12 used + 1 left out: 1 no image (c00/1.png)"
    )


NAMES = st.sampled_from(["a", "b", "c", ".h", "@eaDir", "__x__", "train", "test", "fold1", "x y", "é", "__MACOSX"])
FILES = st.sampled_from(["1.png", "2.JPG", ".3.png", "Thumbs.db", "desktop.ini", "notes.txt", "x", "groups.csv"])
TREES = st.sets(st.tuples(st.lists(NAMES, max_size=3).map(tuple), FILES), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tree=TREES,
    links=st.sets(st.tuples(NAMES, NAMES), max_size=3),
    listed=st.sampled_from(["", "metadata.csv", "metadata.jsonl", "list.csv"]),
    labels_from=st.sampled_from(["first", "last"]),
    only=st.sampled_from([None, "*.png"]),
)
def test_what_is_found_is_used_or_left_out(
    tmp_path: Path,
    tree: set[tuple[tuple[str, ...], str]],
    links: set[tuple[str, str]],
    listed: str,
    labels_from: str,
    only: str | None,
) -> None:
    """Random trees with links and lists: each file that os.walk sees has one fate, and no other has any."""
    root = tmp_path / "d"
    shutil.rmtree(root, ignore_errors=True)
    paths = ["/".join([*folders, name]) for folders, name in sorted(tree)]
    empty(root, *paths)
    empty(tmp_path / "away", "in.png")
    for place, name in links:
        if (root / place).is_dir() and not (root / place / name).exists():
            (root / place / name).symlink_to(tmp_path / "away")
    rows = [(path, "ab"[number % 2]) for number, path in enumerate(paths[::2])]
    if listed.endswith(".csv"):
        table(root / listed, ("file_name", "label"), *rows)
    elif listed:
        lines = [f'{{"file_name": "{path}", "label": "{label}"}}\n' for path, label in rows]
        (root / listed).write_text("".join(lines))
    try:
        found = listing(root, tmp_path / "cache", labels_from, only=only)
    except DataError:
        return
    seen = set()
    for parent, folders, names in os.walk(root):
        inside = [name for name in folders if (Path(parent) / name).is_symlink()]
        seen |= {(Path(parent) / name).relative_to(root).as_posix() for name in (*names, *inside)}
    used, left_out = set(found.labels), set(found.left_out)
    # A link in the place of a class is followed: its file has a fate, not the link.
    seen = {f"{path}/in.png" if f"{path}/in.png" in used | left_out else path for path in seen}
    assert not used & left_out
    assert used | left_out == seen
    assert account(found)[1].startswith(f"{len(seen)} files found = {len(used)} used + {len(left_out)} left out")


def test_predict_finds_what_training_finds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = empty(tmp_path / "d", "a/1.png", "b/2.HEIC", "b/scan_0001", ".x/3.png", "a/@eaDir/4.png", "b/.5.png")
    names = [str(path.relative_to(root)) for path in find_images([root], list)]
    assert names == list(listing(root, tmp_path / "c").labels) == ["a/1.png", "b/2.HEIC", "b/scan_0001"]
    assert caplog.messages == [
        f"3 files in {root} left out: 2 hidden (.x/3.png), 1 of an operating system (a/@eaDir/4.png)"
    ]
    empty(root, "notes.txt", "a/notes.txt", "groups.csv")
    assert len(find_images([root], list)) == len(listing(root, tmp_path / "c").labels) == 3
    assert fates(root)["a/notes.txt"] == NO_IMAGE
    assert "3 no image (a/notes.txt)" in caplog.text
    assert walk(root / ".x").files == [root / ".x" / "3.png"]  # which was asked for


@pytest.mark.parametrize("word", ["fold", "part_", "Split ", "set-"])
def test_folders_that_divide_the_images_are_no_classes(word: str, tmp_path: Path) -> None:
    root = empty(tmp_path / "d", *(f"{word}{n}/{label}/{n}.png" for n in (1, 2, 3) for label in ("neg", "pos")))
    message = f"holds {word}1, {word}2, {word}3, which divide the images .* inside them lie neg, pos .*labels_from=last"
    with pytest.raises(DataError, match=message):
        fates(root)
    assert listing(root, tmp_path / "c", "last").classes == ("neg", "pos")
    empty(tmp_path / "e", "set1/1.png", "set2/1.png")  # nothing deeper: they may be classes
    assert listing(tmp_path / "e", tmp_path / "c").classes == ("set1", "set2")
    empty(tmp_path / "f", "benign/P01/1.png", "malignant/P01/1.png")
    assert listing(tmp_path / "f", tmp_path / "c").classes == ("benign", "malignant")


def suspected(root: Path, **options: object) -> list[str]:
    seen = survey(str(root), root.parent / "cache", **options)  # type: ignore[arg-type]
    return [one.line() for one in seen.suspicions]


def test_data_sets_side_by_side_are_suspected(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for name in ("NCT", "CRC"):
        for label in ("ADI", "TUM"):
            image(root / name / label / "1.png", label)
    assert suspected(root) == [
        "the folders CRC, NCT hold the same folders ADI, TUM; if those are the classes: --set labels_from=last"
    ]
    for label in ("benign", "malignant"):
        image(tmp_path / "e" / label / "P01" / "1.png", label)
        image(tmp_path / "e" / label / "P02" / "1.png", label)
    assert suspected(tmp_path / "e") == []


COMPOSED, APART = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ("Cat", "cat", "in upper and lower case only"),
        ("cat", "cat ", "in spaces around the name only"),
        (COMPOSED, APART, "only in how an accent is written .Unicode NFC and NFD."),
    ],
)
def test_names_that_a_reader_cannot_tell_apart_are_refused(
    one: str, other: str, difference: str, tmp_path: Path
) -> None:
    root = empty(tmp_path / "d", f"{one}/1.png", f"{other}/1.png", "dog/1.png")
    with pytest.raises(DataError, match=f"the classes .* and .* differ {difference}"):
        fates(root)
    empty(tmp_path / "e", f"P1/{one}/1.png", f"P2/{other}/1.png", "P2/dog/2.png")
    with pytest.raises(DataError, match=f"the classes .* differ {difference}"):
        fates(tmp_path / "e", labels_from="last")
    rows = [("1.png", one, "p"), ("2.png", other, "P"), ("3.png", "dog", "q")]
    file = table(tmp_path / "f" / "list.csv", ("path", "label", "site"), *rows)
    if one == "Cat":
        with pytest.raises(DataError, match=r"list.csv: the classes 'Cat' and 'cat' differ in upper"):
            fates(file)
        rows = [(path, label.lower(), group) for path, label, group in rows]
        with pytest.raises(DataError, match=r"list.csv: the groups 'P' and 'p' differ in upper"):
            fates(table(file, ("path", "label", "group"), *rows))
    else:  # a list is read by the normal names
        assert len(listing(file, tmp_path / "c").classes) == 2


def test_one_class_in_two_spellings_of_two_parts_is_one(tmp_path: Path) -> None:
    parts = [f"{part}/{name}/1.png" for part, name in (("train", COMPOSED), ("test", APART))]
    root = empty(tmp_path / "d", *parts, "train/b/1.png", "test/b/1.png")
    assert listing(root, tmp_path / "c").classes == ("b", COMPOSED)


def test_lists_are_read_by_one_rule(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    rows = [("a/1.png", " a", "1"), ("b/1.png", "b ", "2")]
    file = table(root / "list.csv", (" path", "label\t", "Patient"), *rows)
    found = listing(file, tmp_path / "c")
    assert (found.classes, found.unused) == (("a", "b"), ("Patient",))
    assert set(found.left_out.values()) == {UNLISTED}
    assert account(found)[2:] == [
        "columns of list.csv that are not used: Patient",
        "the column Patient may say which images share a source; to keep each in one part: --set groups=column:Patient "
        "(--groups column:Patient of study data)",
    ]
    other = table(
        root / "three.csv", ("path", "label", "group", "Patient"), *((*row[:2], f"g{row[2]}", "9") for row in rows)
    )
    found = listing(other, tmp_path / "c", groups="column: Patient")
    assert (found.groups, found.unused) == ({"a/1.png": "9", "b/1.png": "9"}, ("group",))
    assert (listing(other, tmp_path / "c").groups or {})["a/1.png"] == "g1"
    table(file, ("path", "label", "fold"), *rows)
    assert "call it part in list.csv, with train, val and test in it" in account(listing(file, tmp_path / "c"))[-1]
    table(file, ("path", "label"), ("a/1.png", "a", "x"), ("b/1.png", "b"))
    with pytest.raises(DataError, match=r"list.csv, line 2: 3 cells, and the header names 2 columns"):
        fates(file)
    for mark, name in ((";", "a semicolon"), ("\t", "a tab")):  # as spreadsheets write
        file.write_text(f"path{mark}label\na/1.png{mark}a\nb/1.png{mark}b\n")
        assert listing(file, tmp_path / "c").labels == {"a/1.png": 0, "b/1.png": 1}
        file.write_text(f"path{mark}label\na/1.png{mark}a{mark}x\n")
        with pytest.raises(DataError, match=f"3 cells, .* 2 columns .put a cell that holds {name} into quotes"):
            fates(file)
    table(file, ("path", "label", "Label"), ("a/1.png", "a", "x"), ("b/1.png", "b", "y"))
    with pytest.raises(DataError, match="the columns 'Label' and 'label' differ in upper and lower case"):
        fates(file)
    table(file, ("path", "label", "label "), ("a/1.png", "a", "x"), ("b/1.png", "b", "y"))
    with pytest.raises(DataError, match="two columns named label"):
        fates(file)
    paths = load(root, groups="none").paths
    table(root / "groups.csv", ("path ", " group"), *((path, f" g{n // 2} ") for n, path in enumerate(paths)))
    assert len(set(load(root).groups.tolist())) == 24


def test_a_list_may_write_an_accent_in_another_form_than_the_disk(tmp_path: Path) -> None:
    """As a list typed into a spreadsheet does, for files that were unpacked from a ZIP made on macOS."""
    root = empty(tmp_path / "d", *(f"{APART}/{n}{APART}.png" for n in range(4)))
    there = [f"{APART}/{n}{APART}.png" for n in range(4)]
    listed = [f"{COMPOSED}/{n}{COMPOSED}.png" for n in range(3)] + there[3:]
    rows = [(path, "ab"[n % 2], f"P{n}", "train") for n, path in enumerate(listed)]
    groups = table(tmp_path / "g.csv", ("path", "group"), *((path, group) for path, _, group, _ in rows))
    assert read_groups(groups, there) == ["P0", "P1", "P2", "P3"]
    parts = table(tmp_path / "p.csv", ("path", "part"), *((path, part) for path, _, _, part in rows))
    assert part_list(parts, there, ()) == dict.fromkeys(there, "train")
    found = listing(table(root / "list.csv", ("path", "label", "group", "part"), *rows), tmp_path / "c")
    assert list(found.labels) == sorted(there)
    (root / "list.csv").rename(root / "metadata.csv")
    (root / "metadata.csv").write_text((root / "metadata.csv").read_text().replace("path,", "file_name,", 1))
    beside = listing(root, tmp_path / "c")
    assert (beside.labels, beside.groups, beside.parts) == (found.labels, found.groups, found.parts)
    assert beside.left_out == {"metadata.csv": LISTS}


def test_images_that_a_metadata_file_does_not_list_are_counted(tmp_path: Path) -> None:
    rows = [(f"{n}.png", "ab"[n % 2]) for n in range(6)]
    root = empty(tmp_path / "d", *(path for path, _ in rows), "more/7.png", ".8.png")
    table(root / "metadata.csv", ("file_name", "label"), *rows[:4])
    found = listing(root, tmp_path / "c")
    assert found.left_out == {
        **{".8.png": HIDDEN, "4.png": UNLISTED, "5.png": UNLISTED, "metadata.csv": LISTS, "more/7.png": UNLISTED}
    }
    assert account(found)[1].startswith("9 files found = 4 used + 5 left out: 3 not listed (4.png)")


def test_metadata_of_json_lines_is_read(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for number in range(8):
        image(root / f"{number}.png", "ab"[number % 2])
    lines = [f'{{"file_name": "{n}.png", "label": {n % 2}, "objects": {{"bbox": [1]}}}}\n' for n in range(8)]
    (root / "metadata.jsonl").write_text("".join(lines) + "\n")
    found = listing(root, tmp_path / "c")
    assert (found.classes, found.listed_in, found.unused) == (("0", "1"), "metadata.jsonl", ("objects",))
    assert len(load(root).paths) == 8
    for line, message in {"{": "line 9: not JSON", "[1]": "line 9: no object", "[" * 5000: "line 9: not JSON"}.items():
        (root / "metadata.jsonl").write_text("".join(lines) + line)
        with pytest.raises(DataError, match=message):
            load(root)
    table(root / "metadata.csv", ("file_name", "label"), ("1.png", "a"))
    with pytest.raises(DataError, match=r"holds both metadata.csv and metadata.jsonl .move one away"):
        load(root)


def test_classes_and_names_of_files_can_be_left_out(tmp_path: Path) -> None:
    root = empty(tmp_path / "d", "a/1.jpg", "a/1.png", "b/2.JPG", "c/3.jpg")
    found = listing(root, tmp_path / "c", without=["c"], only="*.jpg")
    assert (found.classes, list(found.labels)) == (("a", "b"), ["a/1.jpg", "b/2.JPG"])
    assert found.left_out == {"a/1.png": NOT_ONLY, "c/3.jpg": WITHOUT}
    for options, message in (
        ({"without": ["x"]}, "without = 'x': no such class .there are: a, b, c."),
        ({"without": ["a", "b"]}, "without leaves 1 of 3 classes"),
        ({"only": "*.png"}, r"only = '\*.png' leaves no file of the class b"),
    ):
        with pytest.raises(DataError, match=message):
            fates(root, **options)
    parts = divided(tmp_path / "e")
    assert Counter(load(parts, only="1*.png", groups="none").parts or ()) == {"train": 14, "test": 2, "val": 2}
    rows = [(path, path[0]) for path in load(class_folders(tmp_path / "f"), groups="none").paths]
    table(tmp_path / "f" / "groups.csv", ("path", "group"), *rows)  # it may name what was left out
    assert len(load(tmp_path / "f", only="1*.png").paths) == 22


def photographs(root: Path, classes: Iterable[str] = "abc", count: int = 5, side: int = 8) -> Path:
    noise = np.random.default_rng(1)
    for label in classes:
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(noise.integers(0, 255, (side, side, 3), np.uint8)).save(root / label / f"{number}.jpg")
    return root


def test_files_that_are_named_as_masks_of_images_beside_them_are_suspected(tmp_path: Path) -> None:
    root = photographs(tmp_path / "d")
    mask = Image.new("L", (8, 8))
    mask.save(root / "a" / "gt.png")  # a name of its own: nothing of that name lies beside it
    assert suspected(root) == []
    mask.save(root / "a" / "1_mask.png")
    mask.save(root / "b" / "2-seg.png")
    (root / "a" / "gt.png").unlink()
    said = "2 files are named as the mask of an image beside it, such as a/1_mask.png"
    assert suspected(root) == [f"{said}; if so: --set 'only=*.jpg'"]
    mask.save(root / "a" / "2_mask_1.jpg")  # now no pattern of names keeps the images alone
    (line,) = suspected(root)
    assert line.endswith("; if so, move the masks out of the folder")


def test_odd_folders_are_suspected_with_what_to_type(tmp_path: Path) -> None:
    root = photographs(tmp_path / "d")
    assert suspected(root) == []
    Image.new("L", (8, 8)).save(root / "a" / "1.png")
    assert suspected(root) == [
        "1 file has a twin of the same name with another ending, for example a/1.jpg and .png; if one is a mask or a "
        "copy: --set 'only=*.jpg'"
    ]
    assert suspected(root, only="*.jpg") == []
    for file in (root / "b").iterdir():
        Image.new("RGB", (8, 8), (2, 2, 2)).save(file)
    assert "the images of the class b are black; to leave it out: --set without=b" in suspected(root)
    photographs(root, "c", side=16)
    assert (
        "the images of the class c are 16 x 16 pixels, all others 8 x 8: their size alone may tell the class; to leave "
        "it out: --set without=c"
    ) in suspected(root)
    content = (root / "a" / "0.jpg").read_bytes()
    for number in range(120):
        (root / "a" / f"blank{number}.jpg").write_bytes(content)
    found = "121 files are identical, for example a/0.jpg and a/blank0.jpg: remove all but one if they show nothing"
    assert any(line.startswith(found) for line in suspected(root))


def test_what_run_would_refuse_is_refused_before_anything_is_measured(shell: Shell, tmp_path: Path) -> None:
    root = photographs(tmp_path / "d", count=6)
    for file in list((root / "c").iterdir())[:3]:
        file.unlink()
    message = "class c has 3 images of 3 sources; the parts train, val, cal, test need at least 4 sources a class"
    with pytest.raises(DataError, match=f"{message} .add images, or leave it out: --set without=c"):
        refuse_too_few(survey(str(root), tmp_path / "c"))
    refuse_too_few(survey(str(root), tmp_path / "c", without=["c"]))
    refuse_too_few(survey(str(divided(tmp_path / "e")), tmp_path / "c"))
    plan = ("plan", *tiny_options(root, trials=1), "--hours", "0.02")
    code, _, err = shell(*plan)
    assert (code, message in err, "measuring" in err) == (2, True, False)
    for setting, said in (
        ("groups=none.csv", "cannot read the groups in "),
        ("parts=none.csv", "no such file"),
        ("groups=level:7", "images have no such folder"),
        ('positive=["x"]', "positive: no class 'x'"),
        ("without=x", "without = 'x': no such class"),
    ):
        code, _, err = shell(*plan, "--set", setting)
        assert (code, said in err, "measuring" in err) == (2, True, False), err
    code, _, err = shell("plan", root)
    assert (code, err) == (2, f"study: {root} is a folder, not a study file; did you mean --data {root}?\n")
    code, out, err = shell("data", "audit", root, "--html", "audit.html")  # the look before shows it all the same
    assert (code, f"a study would be refused: {message}" in err) == (0, True)
    assert "Classes and parts" in out
    assert "15 files found = 15 used + 0 left out" in err
    assert "15 files found" in (tmp_path / "audit.html").read_text()


@pytest.mark.slow
def test_plan_and_run_begin_with_the_account_and_keep_what_was_left_out(shell: Shell, tmp_path: Path) -> None:
    root = photographs(tmp_path / "d", "abc", count=24)
    Image.new("L", (8, 8)).save(root / "a" / "1.png")
    chosen = ("--set", "without=c", "--set", "only=*.jpg")
    said = ("2 classes (the folders directly inside): a 24, b 24", "73 files found = 48 used + 25 left out")
    code, _, err = shell("plan", *tiny_options(root, trials=1), "--hours", "0.02", *chosen)
    assert all(line in err for line in said), err
    code, _, err = shell("run", *tiny_options(root, trials=1), "--name", "s", *chosen)
    assert (code, all(line in err for line in said)) == (0, True), err
    assert shell("run", *tiny_options(root, trials=1), "--name", "s", *chosen)[0] == 0
    code, _, err = shell("run", *tiny_options(root, trials=1), "--name", "s", "--set", "without=c")
    assert (code, "only (was *.jpg, now nothing)" in err) == (2, True)
    assert shell("evaluate", "runs/s/model", root, "--without", "c", "--only", "*.jpg")[0] == 0


def test_any_column_of_a_list_may_say_who_shares_a_source(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "d")
    plain = load(root, groups="none")
    rows = [(path, path[0], f"P{number // 3}") for number, path in enumerate(plain.paths)]
    file = table(root / "list.csv", ("path", "label", "patient id"), *rows)
    found = load(file, groups="column:patient id")
    assert len(set(found.groups.tolist())) == len({row[2] for row in rows})
    assert (found.groups_by, found.groups_from) == ("list", "the column patient id of list.csv")
    assert not [line for line in found.account if "not used" in line]
    seen = survey(str(file), tmp_path / "c", "column:patient id")
    assert seen.grouped
    assert sum(sources for _, sources in seen.sizes.values()) == len({row[1:] for row in rows})
    for source, column, words in (
        (file, "donor", r"list.csv has no such column \(it has: path, label, patient id\)"),
        (root, "donor", "the images come from folders .* give the list as the data"),
    ):
        with pytest.raises(DataError, match=words):
            load(source, groups=f"column:{column}")
    with pytest.raises(DataError, match=r"47 rows have no group, for example a/1\.png"):
        load(table(file, ("path", "label", "p"), rows[0], *(row[:2] for row in rows[1:])), groups="column:p")
