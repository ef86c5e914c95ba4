"""Slides: how large a pixel is, where tissue is, exact fields, and a map that a kill does not change."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from data import DataError, processes
from data.processes import CrashError
from data.slides.annotations import raster, read_annotations
from data.slides.grid import make_grid
from data.slides.readers import readers
from data.slides.slide import Slide, describe, pixel_size, read_tiles, thumbnail
from data.slides.tissue import find_tissue
from study.use.outlines import polygons_of
from tests import slides
from tests.conftest import Shell, tiny_options


@pytest.fixture(scope="module")
def svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slides.slide(tmp_path_factory.mktemp("slides") / "one.svs")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tells the two stains of a test slide apart."""
    root = tmp_path_factory.mktemp("model")
    images = slides.photographs(root / "images")
    command = [sys.executable, "-m", "study", "run", "--name", "s", "--quiet", *tiny_options(images, trials=2)]
    command += ["--set", "groups=none", "--set", "image_size=32", "--set", "augment.jitter=0"]
    subprocess.run(command, cwd=root, check=True, capture_output=True, env=with_project())
    return root / "runs" / "s" / "model"


def with_project() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def plain(width: int = 100, height: int = 100, **changes: Any) -> Slide:
    fields: dict[str, Any] = {
        **{"path": "", "width": width, "height": height, "mpp": 0.5, "mpp_from": "", "levels": ((width, height),)},
        **{"downsamples": (1.0,), "bounds": (0, 0, width, height), "background": (255, 255, 255), "identity": ""},
    }
    return Slide(**{**fields, **changes})


@pytest.mark.parametrize(
    ("properties", "mpp", "says"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.252"}, 0.251, "the file"),
        ({"openslide.comment": '<Pixels PhysicalSizeX="250" PhysicalSizeXUnit="nm"/>'}, 0.25, "its OME-XML"),
        ({"openslide.comment": '<Pixels PhysicalSizeX="0.5"/>'}, 0.5, "its OME-XML"),
        ({"openslide.objective-power": "40"}, 0.25, "the objective (40x), roughly"),
        ({"openslide.mpp-x": "nan", "openslide.mpp-y": "0"}, None, ""),
        ({"openslide.mpp-x": "1e9", "openslide.objective-power": "0"}, None, ""),
        ({}, None, ""),
    ],
)
def test_the_size_of_a_pixel_and_what_says_so(properties: dict[str, str], mpp: float | None, says: str) -> None:
    found, by = pixel_size(properties)
    assert by == says
    assert found == (mpp if mpp is None else pytest.approx(mpp))


def test_pixels_that_are_not_square_are_refused() -> None:
    with pytest.raises(DataError, match=r"pixels of 0.5 x 0.6 µm are not square"):
        pixel_size({"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.6"})


def test_a_slide_is_described_and_its_tissue_found(svs: Path) -> None:
    slide = describe(str(svs))
    assert (slide.width, slide.height, slide.mpp, slide.mpp_from) == (2048, 2048, 0.5, "the file")
    assert slide.downsamples == pytest.approx((1, 4, 16))
    assert describe(str(svs), 0.3).mpp == 0.3
    image, scale = thumbnail(slide)
    assert image.shape == (128, 128, 3)
    assert scale == 16
    found = find_tissue(image, 0.5 * scale)
    wanted = cv2.resize((slides.truth() > 0).astype(np.uint8), (128, 128), interpolation=cv2.INTER_NEAREST) > 0
    assert (found & wanted).sum() / (found | wanted).sum() > 0.93  # neither the hole nor the pen


@pytest.mark.parametrize(
    ("colour", "tissue"),
    [
        ((225, 130, 175), True),  # eosin
        ((110, 70, 165), True),  # haematoxylin
        ((75, 50, 130), True),
        ((38, 60, 170), False),  # pens: blue, green, black
        ((40, 150, 70), False),
        ((20, 20, 25), False),
        ((244, 244, 244), False),
    ],
)
def test_stains_are_tissue_and_pens_are_not(colour: tuple[int, int, int], tissue: bool) -> None:
    image = np.full((100, 100, 3), 244, np.uint8)
    image[20:80, 20:80] = colour
    found = find_tissue(image, 8.0)
    assert (found[30:70, 30:70].mean() > 0.99) == tissue
    assert found[:15].sum() == 0


@given(arrays(np.bool_, (24, 30)), st.floats(3, 12))
def test_a_tile_is_kept_where_half_of_it_is_tissue(mask: Any, side: float) -> None:
    grid = make_grid(plain(30, 24), mask, side)
    assert grid.shape == (int(24 // side), int(30 // side))
    for (x, y), share in zip(grid.places.tolist(), grid.tissue, strict=True):
        inside = mask[y : math.ceil(y + math.ceil(side)), x : math.ceil(x + math.ceil(side))]
        assert share == pytest.approx(inside.mean())
        assert share >= 0.5
    assert len(grid.places) + grid.outside <= grid.shape[0] * grid.shape[1]


@pytest.mark.parametrize("side", [64.0, 100.3, 511.7])
def test_a_tile_shows_exactly_its_field(tmp_path: Path, side: float) -> None:
    """On a ramp the colour says which place a pixel shows."""
    ramp = np.linspace(20, 230, 2048)
    image = np.stack([np.tile(ramp, (1024, 1)), np.tile(ramp[:1024, None], (1, 2048)), np.full((1024, 2048), 99)], -1)
    slide = describe(str(slides.slide(tmp_path / "ramp.svs", image.round().astype(np.uint8))))
    places = np.array([[0, 0], [300, 77], [1501, 400]])
    tiles, errors = read_tiles(slide, places, side, 32)
    assert errors == {}
    per_pixel = 210 / 2047
    for (x, y), tile in zip(places.tolist(), tiles.astype(float), strict=True):
        middles = (np.arange(32) + 0.5) * side / 32 - 0.5
        assert tile[:, 4:-4, 0].mean(0) == pytest.approx(
            20 + per_pixel * (x + middles[4:-4]), abs=1.6
        )  # colours are rounded thrice
        assert tile[4:-4, :, 1].mean(1) == pytest.approx(
            20 + per_pixel * (y + middles[4:-4]), abs=1.6
        )  # colours are rounded thrice
    off = tiles[1, 4:-4, 4:-4, 0].mean() - (20 + per_pixel * (300 + side / 2 - 0.5))
    assert abs(off) < 0.3  # three pixels of 2,048: no tenth of a field is lost or added


@pytest.mark.parametrize(
    ("content", "why"), [(b"no slide", "no slide that OpenSlide reads"), (b"", "no slide that OpenSlide reads")]
)
def test_what_is_no_slide_is_said(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "x.svs").write_bytes(content)
    with pytest.raises(DataError, match=why):
        describe(str(tmp_path / "x.svs"))


def test_a_broken_tile_costs_itself_alone(tmp_path: Path) -> None:
    file = slides.slide(tmp_path / "x.svs")
    content = bytearray(file.read_bytes())
    with tifffile.TiffFile(file) as pages:
        at, length = pages.pages[0].dataoffsets[18], pages.pages[0].databytecounts[18]
    content[at : at + length] = bytes(length)
    file.write_bytes(content)
    slide = describe(str(file))
    grid = make_grid(slide, np.ones((8, 8), bool), 256.0)
    tiles, errors = read_tiles(slide, grid.places, 256.0, 256)
    assert 1 <= len(errors) <= 4
    assert all(one.startswith("unreadable tile: broken slide (") for one in errors.values())
    good = [number for number in range(len(tiles)) if number not in errors]
    fresh = describe(str(slides.slide(tmp_path / "good.svs")))
    assert (read_tiles(fresh, grid.places, 256.0, 256)[0][good] == tiles[good]).all()


def test_children_answer_in_order_and_a_crash_costs_one_call() -> None:
    with readers(2) as crew:
        assert crew.ask(divmod, 7, 2) == (3, 1)
        calls: list[Any] = [(number, 3) for number in range(20)]
        assert list(crew.each(divmod, calls, lambda call: (-1, -1))) == [divmod(*call) for call in calls]
        with pytest.raises(CrashError, match="crashed or hung here"):
            crew.ask(os._exit, 3)
        assert crew.ask(divmod, 9, 2) == (4, 1)
        some = crew.each(divmod, calls, lambda call: (-1, -1))
        assert next(some) == (0, 0)
        some.close()  # what the children still do is not taken for another's answer
        assert list(crew.each(divmod, calls[5:7], lambda call: (-1, -1))) == [divmod(5, 3), divmod(6, 3)]
        assert list(crew.each(os._exit, [(1,), (2,)], lambda call: None)) == [None, None]
        crew.forgive()
        with pytest.raises(DataError, match="crashed or hung 5 times on this slide"):
            list(crew.each(os._exit, [(1,)] * 9, lambda call: None))


def test_a_child_whose_answer_nobody_took_answers_the_next_call_and_not_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = processes.Child()

    def interrupted(seconds: float) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(child, "answers", interrupted)
        child.send(math.sqrt, (4.0,))
        with pytest.raises(KeyboardInterrupt):
            child.answer()
    child.send(math.sqrt, (9.0,))
    assert child.answer() == 3.0
    os.kill(child._process.pid or 0, signal.SIGKILL)  # while it is idle
    child._process.join()
    child.send(math.sqrt, (16.0,))
    assert child.answer() == 4.0
    child.end()


def test_a_child_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "CALL_SECONDS", 0.5)
    with readers(1) as crew:
        assert list(crew.each(time.sleep, [(60,)], lambda call: None)) == [None]


@given(arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_outlines_hold_exactly_the_cells(mask: Any) -> None:
    found = np.zeros((mask.shape[0] * 4, mask.shape[1] * 4), np.uint8)
    for rings in polygons_of(mask):
        one = np.zeros_like(found)
        for place, ring in enumerate(rings):
            assert ring[0] == ring[-1]
            assert len(set(ring)) == len(ring) - 1  # no ring touches itself
            inner = np.zeros_like(found)
            cv2.fillPoly(inner, [np.array(ring[:-1]) * 4 - 1], 1)
            middles = inner[1::4, 1::4].repeat(4, 0).repeat(4, 1)
            one = middles if place == 0 else one & (1 - middles)
        assert not (found & one).any()
        found |= one
    assert (found[1::4, 1::4] > 0).tolist() == mask.tolist()


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.slow
def test_a_slide_becomes_a_map(shell: Shell, model: Path, svs: Path, tmp_path: Path) -> None:
    code, out, err = shell("predict", model, svs, "--out", "map", "--um", slides.FIELD_UM)
    assert code == 0, err
    table = tmp_path / "map" / "one.svs.tiles.csv"
    rows = rows_of(table)
    assert list(rows[0])[:6] == ["minx", "miny", "width", "height", "prob_pink", "prob_violet"]
    labels, right, pure = slides.truth(), 0, 0
    for row in rows:
        x, y, side = int(row["minx"]), int(row["miny"]), int(row["width"])
        assert side == 128
        seen = labels[y : y + side, x : x + side]
        if (seen == seen[0, 0]).all():
            pure += 1
            right += row["label"] == slides.CLASSES[seen[0, 0] - 1]
    assert pure > 20
    assert right >= 0.98 * pure
    facts = json.loads((tmp_path / "map" / "one.svs.json").read_text())
    assert facts["tissue_mm2"] == pytest.approx((labels > 0).sum() * 0.25e-6, rel=0.05)
    assert facts["tiles"] == len(rows)
    assert sum(one["tiles"] for one in facts["classes"].values()) == len(rows)
    for one in facts["classes"].values():
        assert one["interval"][0] <= one["share"] <= one["interval"][1]
    drawn = json.loads((tmp_path / "map" / "one.svs.geojson").read_text())
    assert {one["properties"]["classification"]["name"] for one in drawn["features"]} == set(slides.CLASSES)
    for one in drawn["features"]:
        name = one["properties"]["classification"]["name"]
        middle = (0.27 if name == "pink" else 0.73) * slides.SIDE
        xs = [x for polygon in one["geometry"]["coordinates"] for x, _ in polygon[0]]
        assert min(xs) < middle < max(xs)
    with Image.open(tmp_path / "map" / "one.svs.heatmap.png") as image:
        assert image.width >= 128
    assert "one.svs" in out
    # Again: nothing is done. With another wish: another map.
    before = {file.name: file.read_bytes() for file in (tmp_path / "map").iterdir()}
    code, _, err = shell("predict", model, svs, "--out", "map", "--um", slides.FIELD_UM)
    assert "(done before)" in err
    assert {file.name: file.read_bytes() for file in (tmp_path / "map").iterdir()} == before
    shell("predict", model, svs, "--out", "map", "--um", 2 * slides.FIELD_UM)
    assert len(rows_of(table)) < len(rows)


@pytest.mark.slow
def test_a_map_that_was_killed_goes_on_to_the_same_bytes(model: Path, svs: Path, tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        words = ["predict", str(model), str(svs), "--out", out, "--um", "32"]
        return [sys.executable, "-m", "study", *words]

    whole = subprocess.run(command("whole"), cwd=tmp_path, env=with_project(), check=False, capture_output=True)
    assert whole.returncode == 0, whole.stderr
    for rows in (1, 40, 90):
        process = subprocess.Popen(
            command("cut"), cwd=tmp_path, env=with_project(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and _lines(tmp_path / "cut") < rows:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for part in (tmp_path / "cut").glob("*.part"):
            with part.open("ab") as handle:
                handle.write(b"12,34,torn")
    _wait_for_no_child(tmp_path)
    assert subprocess.run(command("cut"), cwd=tmp_path, env=with_project(), check=False).returncode == 0
    assert {one.name: one.read_bytes() for one in (tmp_path / "cut").iterdir()} == {
        one.name: one.read_bytes() for one in (tmp_path / "whole").iterdir()
    }


def _lines(folder: Path) -> int:
    return sum(part.read_bytes().count(b"\n") for part in folder.glob("*.part"))


def _wait_for_no_child(folder: Path) -> None:
    """Wait until no process works in a folder any more."""
    for _ in range(500):
        if not [one for one in Path("/proc").glob("[0-9]*/cwd") if _is_link_to(one, folder)]:
            return
        time.sleep(0.02)
    raise AssertionError("a child has outlived its parent")


def _is_link_to(link: Path, folder: Path) -> bool:
    try:
        return link.readlink() == folder
    except OSError:
        return False


@pytest.mark.slow
def test_what_a_slide_lacks_is_said_in_a_line(shell: Shell, model: Path, tmp_path: Path) -> None:
    bare = slides.slide(tmp_path / "bare.tiff", style="bare")
    code, _, err = shell("predict", model, bare, "--out", "map")
    assert (code, "say how many micrometres one is wide: --um 128" in err) == (2, True)
    code, _, err = shell("predict", model, bare, "--out", "map", "--um", 64)
    assert code == 1
    assert "bare.tiff: it does not say how large a pixel is (say how many micrometres: --mpp 0.25)" in err
    assert shell("predict", model, bare, "--out", "map", "--um", 64, "--mpp", 0.5)[0] == 0
    empty = slides.slide(tmp_path / "empty.svs", np.full((1024, 1024, 3), 244, np.uint8))
    (tmp_path / "no.svs").write_bytes(b"no slide")
    code, out, err = shell("predict", model, empty, tmp_path / "no.svs", bare, "--out", "map", "--um", 64, "--mpp", 0.5)
    assert code == 1
    assert "empty.svs: no tissue was found" in err
    assert "no.svs: no slide that OpenSlide reads" in err
    assert "bare.tiff" in out
    code, _, err = shell("predict", model, empty)
    assert (code, err.splitlines()[-1]) == (
        2,
        f"study: {empty} is a whole slide: name a folder for its map (--out DIR)",
    )
    assert shell("predict", model, empty, "--um", 64)[0] == 2
    code, _, err = shell("predict", model, empty, "--out", "map", "--csv")
    assert (code, "--csv is not for slides" in err) == (2, True)
    code, _, err = shell("predict", model, tmp_path / "none", "--out", "map", "--um", 64)
    assert (code, "no such slide or folder" in err) == (2, True)


def test_annotations_say_what_a_place_is_and_the_inner_one_wins(tmp_path: Path) -> None:
    found = read_annotations(slides.outlined(tmp_path / "x.geojson"), (0, 0))
    assert found.classes == ("pink", "violet")
    assert found.left_out == {"to be ignored": 1, "without a class": 1, "no area": 1}
    cells = raster(found, slides.SIDE, slides.SIDE, 16)
    labels = slides.truth()[8::16, 8::16]
    ignored, beside = (cells[round(0.4 * slides.SIDE / 16), round(x * slides.SIDE / 16)] for x in (0.73, 0.65))
    assert (ignored, beside) == (0, 2)  # what is to be ignored is a hole in the annotation around it
    assert set(np.unique(cells[labels == 2])) <= {0, 2}
    assert (cells == 1).sum() == pytest.approx((0.3 * slides.SIDE / 16) ** 2, rel=0.08)
    hole = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9]], [[3, 3], [6, 3], [6, 6], [3, 6]]]}
    inner = {"type": "Polygon", "coordinates": [[[0, 0], [3, 0], [3, 3], [0, 3]]]}
    both = [
        {"geometry": one, "properties": {"classification": {"name": name}}} for one, name in ((inner, "b"), (hole, "a"))
    ]
    (tmp_path / "y.geojson").write_text(json.dumps(both))
    small = raster(read_annotations(tmp_path / "y.geojson", (0, 0)), 10, 10, 1)
    assert small[1, 1] == 2
    assert small[7, 7] == 1
    assert small[4, 4] == 0  # the hole


@given(st.recursive(st.none() | st.floats() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)))
def test_odd_geojson_ends_in_a_data_error_at_most(tmp_path_factory: pytest.TempPathFactory, inside: Any) -> None:
    file = tmp_path_factory.mktemp("odd") / "x.geojson"
    for geometry in (
        inside,
        {"type": "Polygon", "coordinates": inside},
        {"type": "MultiPolygon", "coordinates": [inside]},
    ):
        file.write_text(
            json.dumps({"features": [{"geometry": geometry, "properties": {"classification": "a"}}, inside]})
        )
        raster(read_annotations(file, (0, 0)), 20, 20, 1)
    file.write_text(json.dumps(inside))
    with suppress(DataError):
        read_annotations(file, (0, 0))


@pytest.mark.slow
def test_annotated_slides_become_data_and_the_model_knows_their_field(
    shell: Shell, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for number in range(6):
        file = slides.slide(folder / f"P77{number}-scan.svs", seed=number)
        slides.outlined(file.with_suffix(".geojson"))
    table = "slide,patient\n" + "".join(f"P77{number}-scan,P77{number}\n" for number in range(6))
    (folder / "slides.csv").write_text(table)
    code, _, err = shell("data", "tiles", folder, "--out", "tiles", "--um", slides.FIELD_UM)
    assert code == 0, err
    assert "hold the patient's number: those names are not copied" in err
    made = sorted((tmp_path / "tiles").glob("*/*.jpg"))
    assert {one.parent.name for one in made} == set(slides.CLASSES)
    with Image.open(made[0]) as image:
        assert image.size == (128, 128)
    groups = (tmp_path / "tiles" / "groups.csv").read_text().splitlines()[1:]
    assert len(groups) == len(made)
    assert len({line.split(",")[1] for line in groups}) == 6
    assert json.loads((tmp_path / "tiles" / "tiles.json").read_text())["um"] == slides.FIELD_UM
    key = tmp_path / "tiles" / ".patients.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert not [one for one in (tmp_path / "tiles").rglob("*") if "P77" in one.name]
    assert not [one for one in (tmp_path / "tiles").rglob("*") if one.is_file() and b"P77" in one.read_bytes()]
    code, _, err = shell("data", "tiles", folder, "--out", "tiles")
    assert (code, "is there already" in err) == (2, True)
    options = tiny_options(tmp_path / "tiles", trials=2)
    code, _, err = shell("run", "--name", "s", *options, "--set", "image_size=32", "--set", "augment.jitter=0")
    assert code == 0, err
    card = json.loads((tmp_path / "runs" / "s" / "model" / "card.json").read_text())
    assert card["data"]["field_um"] == slides.FIELD_UM
    seventh = slides.slide(tmp_path / "seventh.svs")
    code, _, err = shell("predict", "s", seventh, "--out", "map")
    assert code == 0, err
    assert {row["width"] for row in rows_of(tmp_path / "map" / "seventh.svs.tiles.csv")} == {"128"}
    assert shell("predict", "s", seventh, "--out", "map", "--um", 100)[0] == 0
    assert "tiles of 100 µm, but the training images show 64 µm" in caplog.text


@pytest.mark.slow
def test_slides_without_classes_and_odd_tables_are_said(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    code, _, err = shell("data", "tiles", folder, "--out", "tiles")
    assert (code, "no slides in" in err) == (2, True)
    slides.slide(folder / "a.svs")
    slides.slide(folder / "b.tiff", style="bare")
    code, _, err = shell("data", "tiles", folder, "--out", "tiles")
    assert (code, "name them in slides.csv (columns slide, class, patient)" in err) == (2, True)
    (folder / "slides.csv").write_text("slide,class\nc,x\n")
    code, _, err = shell("data", "tiles", folder, "--out", "tiles")
    assert (code, "slides.csv, line 2: no slide is called 'c'" in err) == (2, True)
    (folder / "slides.csv").write_text("slide,class,patient\na,x,P1\nb,y,p1\n")
    code, _, err = shell("data", "tiles", folder, "--out", "tiles")
    assert (code, "patients 'P1' and 'p1' differ in upper and lower case" in " ".join(err.split())) == (
        2,
        True,
    )
    slides.slide(folder / "u\u0308.svs")
    slides.slide(folder / "u\u0308.tiff")
    (folder / "slides.csv").write_text("slide,class\n\u00fc,x\n")
    code, _, err = shell("data", "tiles", folder, "--out", "tiles")
    assert (code, "several slides are called '\u00fc' (write the ending of the file, too)" in err) == (2, True)
    for file in folder.glob("u*"):
        file.unlink()
    (folder / "slides.csv").write_text("slide,class\na,../../up\nb,pink\n")
    code, out, _ = shell("data", "tiles", folder, "--out", "tiles", "--um", 64, "--most", 5)
    assert code == 1
    assert "--mpp 0.25" in " ".join(out.split())
    assert len(list((tmp_path / "tiles").glob("*/*.jpg"))) == 5
    assert not (tmp_path.parent / "up").exists()
    assert [one.name.startswith("______up_") for one in (tmp_path / "tiles").iterdir() if one.is_dir()] == [True]


@pytest.mark.slow
def test_a_folder_of_dicom_is_one_slide_and_gets_the_labels_of_the_same_pixels(
    shell: Shell, model: Path, svs: Path, tmp_path: Path
) -> None:
    slides.dicom(tmp_path / "scans" / "case", slides.pixels())
    (tmp_path / "scans" / "case" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "scans" / "case" / "notes.dcm").write_bytes(bytes(128) + b"DICM" + bytes(9))
    for place in ("scans", "scans/case"):
        code, _, err = shell("predict", model, place, "--out", "map", "--um", slides.FIELD_UM)
        assert code == 0, err
    assert sorted(one.name for one in (tmp_path / "map").iterdir()) == [
        *("case.geojson", "case.heatmap.png", "case.json", "case.tiles.csv")
    ]
    assert not [one for one in (tmp_path / "map").iterdir() if b"MRN-4711" in one.read_bytes()]
    assert shell("predict", model, svs, "--out", "map", "--um", slides.FIELD_UM)[0] == 0
    tables = [rows_of(tmp_path / "map" / f"{name}.tiles.csv") for name in ("case", "one.svs")]
    places = [{(row["minx"], row["miny"]): row["label"] for row in table} for table in tables]
    both = places[0].keys() & places[1].keys()
    assert len(both) >= 0.95 * max(map(len, places))
    assert sum(places[0][one] == places[1][one] for one in both) >= 0.99 * len(both)


def _mutants(content: bytes, count: int) -> list[bytes]:
    """Damaged copies: bytes changed, zeroed, cut off."""
    rng = np.random.default_rng(3)
    found = []
    for number in range(count):
        changed = bytearray(content)
        at = int(rng.integers(0, len(changed)) if number % 2 else rng.integers(0, min(4000, len(changed))))
        if number % 3 == 0:
            del changed[at:]
        elif number % 3 == 1:
            changed[at : at + 64] = rng.bytes(64)
        else:
            changed[at] ^= 1 << int(rng.integers(0, 8))
        found.append(bytes(changed))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svs", "dicom"])
def test_mutants_of_slides_cost_a_line_each(svs: Path, tmp_path: Path, kind: str) -> None:
    if kind == "svs":
        content = slides.slide(tmp_path / "x.svs", slides.pixels()[512:1024, 512:1024]).read_bytes()
    else:
        content = (slides.dicom(tmp_path / "x", slides.pixels()[512:1024, 512:1024]) / "level0.dcm").read_bytes()
    fine, said = 0, []
    with readers(1) as crew:
        for number, mutant in enumerate(_mutants(content, 60)):
            file = tmp_path / f"{kind}-{number}" / ("x.svs" if kind == "svs" else "x.dcm")
            file.parent.mkdir()
            file.write_bytes(mutant)
            crew.forgive()
            try:
                slide = crew.ask(describe, str(file), 0.5)
                crew.ask(thumbnail, slide)
                places = np.array([[0, 0], [200, 200]])
                _, errors = crew.ask(read_tiles, slide, places, 128.0, 32)
                fine += not errors
            except DataError as error:
                said.append(str(error))
        assert crew.ask(describe, str(svs)).mpp == 0.5  # the children go on
    assert fine
    assert said
    assert not [one for one in said if len(one) > 200 or "\n" in one]
