"""Patients in folders and file names: proposed, never taken unasked; and groups that are the reason of a refusal."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import DataError
from data.audit import audit
from data.datasets import survey
from data.findings import group_warnings, proposal
from data.grouping.proposals import propose
from data.grouping.sources import level_groups, match_groups
from data.layout.listing import listing
from data.splits import SHARES, divide
from study.result.audit_page import findings
from tests.conftest import Shell, tiny_options
from tests.data.test_layout import class_folders, divided, image, load, table

PATIENTS, EACH = range(8), range(3)


def made(root: Path, paths: Iterable[str]) -> Path:
    for path in paths:
        image(root / path, "b" if "b" in path.split("/") else "a")
    return root


def paths(form: str) -> list[str]:
    return sorted(form.format(label=label, p=p, n=n) for label in "ab" for p in PATIENTS for n in EACH)


def proposed(paths: list[str], level: int = 0) -> dict[str, str] | None:
    """The fields, where the class is the folder at a level, counted from 0."""
    found = propose(paths, [path.split("/")[level] for path in paths])
    return found and found.fields


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("{label}/P{p:03}_{n:04}.png", r"(?P<group>P\d+)_"),
        ("{label}/case{p}-slide{n}-004.jpg", r"(?P<group>case\d+)-"),
        ("{label}/patient_{p:03}_img_{n}.jpg", r"(?P<group>patient_\d+)_"),
        ("{label}/img{n}_Patient{p}.jpg", r"(?P<group>Patient\d+)\."),
        ("{label}/P1_x/P{p}_{n}.png", r"(?P<group>P\d+)_[^/]*$"),  # the folder's name has the same form
    ],
)
def test_patients_in_file_names_are_proposed_with_a_pattern_that_finds_them(form: str, pattern: str) -> None:
    names = paths(form)
    assert proposed(names) == {"groups": pattern}
    assert len(set(match_groups(pattern, names))) == len(PATIENTS)


def test_patients_in_folders_are_proposed() -> None:
    assert proposed(paths("{label}/P{p:02}/{n}.png")) == {"groups": "level:2"}
    assert proposed(paths("train/{label}/P{p:02}/{n}.png"), 1) == {"groups": "level:3"}
    last = {"labels_from": "last"}
    assert proposed(paths("P{p:02}/{label}/{n}.png")) == {**last, "groups": "level:1"}
    assert proposed(paths("test/P{p:02}/{label}/{n}.png"), 1) == {**last, "groups": "level:2"}
    assert proposed(paths("P{p:02}/{label}/{n}.png"), 1) == {"groups": "level:1"}  # labels_from=last was taken


@pytest.mark.parametrize(
    "names",
    [
        [f"{label}/IMG_{number}.JPG" for label in "ab" for number in range(1100, 1150)],
        [f"{label}/IMG_{number}_1.JPG" for label in "ab" for number in range(20) for _ in EACH],
        [f"{label}/exp{number % 9}_num_{number}.jpg" for label in "ab" for number in range(100)],
        [f"{label}/colonca{number}.jpeg" for label in "ab" for number in range(100)],
        [f"{label}/{number:04}.png" for label in "ab" for number in range(100)],
        [f"{label}/patient_{number:04}.png" for label in "ab" for number in range(100)],  # one image each
        [f"{label}/tile_x{number % 9}_y{number}.png" for label in "ab" for number in range(100)],
        [f"{label}/P{number % 3}_{number}.png" for label in "ab" for number in range(100)],  # three patients
        [f"{label}/P{p}_{n}.png" for label, all_p in (("a", 9), ("b", 2)) for p in range(all_p) for n in EACH],
        [*paths("{label}/P{p:03}_{n:04}.png"), "a/other.png"],
        [f"{label}/{kind}/{number}.png" for label in "ab" for kind in ("x", "y") for number in range(50)],
        [],
    ],
)
def test_what_are_no_patients_are_not_proposed(names: list[str]) -> None:
    assert proposed(names) is None


def test_nothing_is_proposed_where_somebody_says_who_shares_a_source(tmp_path: Path) -> None:
    root = made(tmp_path / "d", paths("{label}/P{p:02}_{n}.png"))
    seen = survey(str(root), tmp_path / "c").proposal
    assert seen == proposal(load(root))
    assert seen is not None
    assert seen.line().endswith(
        r"(P00: 6 images, 8 of them); to keep each in one part: --set 'groups=(?P<group>P\d+)_'"
    )
    assert proposal(load(root, groups=seen.fields["groups"])) is None
    assert proposal(load(root, groups="none")) is None
    names = load(root, groups="none").paths
    table(root / "groups.csv", ("path", "group"), *((path, path) for path in names))
    assert survey(str(root), tmp_path / "c").proposal is None
    assert proposal(load(root)) is None


def test_a_level_of_folders_keeps_patients_on_one_side(tmp_path: Path) -> None:
    root = made(tmp_path / "d", paths("{label}/P{p:02}/{n}.png"))
    dataset = load(root, groups="level:2")
    assert dataset.groups_from == "the folders of level 2"
    assert len(set(dataset.groups.tolist())) == len(PATIENTS)
    parts = divide(dataset, 0)
    owners = [{dataset.paths[i].split("/")[1] for i in getattr(parts, part)} for part in SHARES]
    assert sum(map(len, owners)) == len(PATIENTS)
    for level, message in {
        "level:3": r"'level:3': 48 of 48 images have no such folder, for example a/P00/0.png",
        "level:0": "level: and a number from 1 is needed",
        "level:x": "level: and a number from 1 is needed",
    }.items():
        with pytest.raises(DataError, match=message):
            load(root, groups=level)
    for label in "ab":
        (root / label).rename(root / f"{label}_")
        (root / label / "same").mkdir(parents=True)
        for folder in (root / f"{label}_").iterdir():
            folder.rename(root / label / "same" / folder.name)
        (root / f"{label}_").rmdir()
    with pytest.raises(DataError, match="'level:2' puts all 48 images into one group: 'same'"):
        load(root, groups="level:2")


def test_patients_whose_names_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    """Otherwise one patient would be two sources, and perhaps in two parts."""
    files = ["a/P01/0.png", "a/P02/0.png", "b/p01/0.png", "b/P03/0.png"]
    with pytest.raises(DataError, match=r"'level:2': the groups 'P01' and 'p01' differ in upper and lower case only"):
        level_groups(2, files)
    with pytest.raises(DataError, match=r"the groups 'P01' and 'p01' differ in upper and lower case only"):
        match_groups("(?P<group>[Pp][0-9]+)", files)


def test_a_group_that_a_pattern_leaves_empty_is_no_group() -> None:
    for pattern in ("(?P<group>P[0-9]+)?_?[0-9]", "(?P<group>P?[0-9]*)_"):
        with pytest.raises(DataError, match=r"matches [01] of 2 images"):
            match_groups(pattern, ["a/P01_0.png", "a/_1.png"])


def test_the_class_may_be_the_last_folder(tmp_path: Path) -> None:
    root = made(tmp_path / "d", paths("P{p:02}/{label}/{n}.png"))
    dataset = load(root, labels_from="last", groups="level:1")
    assert dataset.classes == ("a", "b")
    assert [dataset.classes[label] for label in dataset.labels] == [path.split("/")[1] for path in dataset.paths]
    bright = dataset.images.mean(axis=(1, 2, 3)) > 120
    assert (bright == (dataset.labels == 1)).all()
    assert len(set(dataset.groups.tolist())) == len(PATIENTS)
    assert survey(str(root), tmp_path / "c", labels_from="last").classes == 2
    plain = class_folders(tmp_path / "e")
    assert listing(plain, tmp_path / "c", "last") == listing(plain, tmp_path / "c")
    inside = divided(tmp_path / "f")
    assert listing(inside, tmp_path / "c", "last") == listing(inside, tmp_path / "c")
    made(tmp_path / "g", [f"{part}/{path}" for part in ("train", "test") for path in paths("P{p:02}/{label}/{n}.png")])
    found = listing(tmp_path / "g", tmp_path / "c", "last")
    assert (found.classes, set((found.parts or {}).values())) == (("a", "b"), {"train", "test"})


def test_what_has_no_last_folder_is_refused(tmp_path: Path) -> None:
    root = made(tmp_path / "d", ["P1/a/1.png", "P2/a/1.png"])
    with pytest.raises(DataError, match=r"folders named a .at least two classes are needed; or take labels_from=first"):
        load(root, labels_from="last")
    image(root / "3.png", "a")
    (root / "notes.txt").write_text("left alone")
    with pytest.raises(DataError, match=r"'last': 1 image lies in no class folder, for example .*d/3\.png .move them"):
        load(root, labels_from="last")
    file = table(tmp_path / "list.csv", ("path", "label"), ("d/P1/a/1.png", "a"), ("d/3.png", "b"))
    with pytest.raises(DataError, match=r"'last' is for folders, and here list\.csv names the files"):
        load(file, labels_from="last")
    with pytest.raises(DataError, match="labels_from = 'lst': allowed is first or last"):
        load(root, labels_from="lst")


def of_few_sources(root: Path) -> Path:
    """Class b is eight copies of one image and one other, by their pixels; class a is 24 images."""
    class_folders(root)
    pixels = np.asarray(load(root, groups="none").images[0])
    for file in (root / "b").iterdir():
        file.unlink()
    for number in range(8):
        Image.fromarray(pixels).save(root / "b" / f"copy{number}.png", compress_level=number)
    image(root / "b" / "other.png", "b")
    return root


def test_a_class_of_too_few_sources_is_refused_with_the_groups_and_a_way_on(shell: Shell, tmp_path: Path) -> None:
    root = made(tmp_path / "d", [f"{label}/{p}-{n}.png" for label in "ab" for p in range(2) for n in range(9)])
    pattern = r"groups=/(?P<group>\d)-"
    command = ("run", *tiny_options(root, trials=1), "--name", "s", "--set")
    code, _, err = shell(*command, pattern)
    assert (code, err.splitlines()[-1][:7]) == (2, "study: ")
    assert "class a has 18 images of 2 sources" in err or "class a has 9 images of 2 sources" in err
    assert "taken for one source each: 18 images (a/0-0.png, a/0-1.png), 18 images (a/1-0.png, a/1-1.png)" in err
    assert f"; groups are from the pattern {pattern.removeprefix('groups=')}; or count every image" in err
    assert err.endswith("whose copies may leak: --set groups=none\n")
    assert shell(*command, "groups=none")[0] == 0
    with pytest.raises(DataError, match="groups are from") as refused:  # nothing that groups=none would better
        divide(load(made(tmp_path / "e", ["a/1.png", "a/2.png", "b/1.png", "b/2.png"])), 0)
    assert "groups=none" not in str(refused.value)


def test_groups_of_pixels_that_are_the_reason_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"for one source each: .* images .*b/copy0\.png.*--set groups=none$"):
        divide(load(of_few_sources(tmp_path / "d")), 0)


def test_a_refusal_for_patients_taken_for_classes_says_what_to_type(tmp_path: Path) -> None:
    root = made(tmp_path / "d", [*paths("P{p:02}/{label}/{n}.png"), "P09/a/0.png"])
    with pytest.raises(DataError, match=r"class P09 has 1 image .*: --set labels_from=last --set groups=level:1$"):
        divide(load(root), 0)


def test_suspicious_groups_are_named_where_they_were_found(tmp_path: Path) -> None:
    root = made(tmp_path / "d", paths("{label}/P{p:02}_{n}.png"))
    assert group_warnings(load(root)) == []
    (root / "b" / "P00_0.png").write_bytes((root / "a" / "P00_0.png").read_bytes())
    for number in range(11):
        (root / "a" / f"copy{number}.png").write_bytes((root / "a" / "P00_0.png").read_bytes())
    assert group_warnings(load(root)) == [
        "suspicious groups: 1 with more than 10 images, the largest with 13 of 59 (for example a/P00_0.png, "
        "a/copy0.png)",
        "suspicious groups: 1 with images of several classes, the largest with 13 (for example a/P00_0.png, "
        "b/P00_0.png)",
    ]
    assert group_warnings(load(root, groups="none")) == []  # nobody looked
    made(root, [f"a/P00_{number}.png" for number in range(3, 60)])
    for file in root.glob("a/copy*"):
        file.unlink()
    mostly = load(root, groups=r"(?P<group>P\d+)_")
    assert len(group_warnings(mostly)) == 1  # most images are one patient's
    assert any(
        line.startswith("Suspicious groups: 1 with more") for line, _ in findings(mostly, audit(mostly, None, 0))
    )
    table(root / "groups.csv", ("path", "group"), *((path, path[2:5]) for path in load(root, groups="none").paths))
    assert group_warnings(load(root)) == []


def test_patients_are_proposed_by_audit_plan_and_run_and_the_proposal_is_taken(shell: Shell, tmp_path: Path) -> None:
    root = made(tmp_path / "d", [*paths("P{p:02}/{label}/{n}.png"), *paths("P1{p}/{label}/{n}.png")])
    for number in range(12):
        (root / "P00" / "a" / f"copy{number}.png").write_bytes((root / "P00" / "a" / "0.png").read_bytes())
    look, options = (
        "the folders look like patients (P00: 18 images, 16 of them)",
        ("labels_from=last", "groups=level:1"),
    )
    _, _, err = shell("data", "split", root)
    assert f"{look} with the classes a, b inside" in err
    assert "--labels-from last --groups level:1" in err
    code, out, err = shell("data", "split", root, "--labels-from", "last", "--groups", "level:1", "--csv")
    assert (code, look in err, "P00/a/0.png,a," in out) == (0, False, True)
    code, _, err = shell("plan", *tiny_options(root, trials=1), "--hours", "0.02")
    assert f"--set {' --set '.join(options)}" in err
    command = ("run", *tiny_options(root, trials=1), "--name", "s")
    code, _, err = shell(*command, "--set", "groups=auto")
    assert f"--set {' --set '.join(options)}" in err
    assert "suspicious groups: 1 with more than 10 images, the largest with 13 of 108" in err
    assert f"look at them (study data audit {root} --groups auto --html audit.html)" in err
    taken = [word for option in options for word in ("--set", option)]
    code, _, err = shell(*command, *taken, "--name", "t")
    assert (code, look in err) == (0, False)
    code, _, err = shell(*command, "--set", "groups=none", "--name", "t")
    assert (code, "labels_from (was last, now first)" in err) == (2, True)
    assert shell("evaluate", "runs/t/model", root, "--labels-from", "last", "--groups", "level:1")[0] == 0
