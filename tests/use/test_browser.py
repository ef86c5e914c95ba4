"""What the page of `study serve` says of a model and of images, in a real browser."""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from models.bundle.folder import CARD, card_hash, load
from models.bundle.verdict import verdict
from tests.conftest import Shell
from tests.result.test_browser import CHROMIUM, browser, watched
from tests.use.test_serve import DROP, Server, images, model

__all__ = ["browser", "images", "model"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (on Debian: apt install chromium)"),
]

REFUSED = "level 0.1 needs at least 9 calibration groups, there are 5: the smallest level is 0.167"
ODD = ("toString", "__proto__", "constructor", *map(str, range(3, 10)))


def altered(model: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a model folder with another card, as if it had been written so."""
    shutil.copytree(model, folder)
    raw = json.loads((folder / CARD).read_text())
    change(raw)
    (folder / CARD).write_text(json.dumps({**raw, "card_sha256": card_hash(raw)}))
    return folder


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    """Start `study serve` on some models."""
    started: list[Server] = []

    def start(*models: Path) -> Server:
        started.append(Server(*models))
        return started[-1]

    yield start
    for server in started:
        server.process.terminate()
        assert server.process.wait(5) == 143


def dropped(page: Page, *files: tuple[str, bytes]) -> None:
    """Drop files and wait until all are told of."""
    before = page.locator("#results li").count()
    page.evaluate(DROP, ["drop", [(name, base64.b64encode(content).decode()) for name, content in files]])
    page.wait_for_selector(f"#results li:nth-child({before + len(files)})", state="attached")


def read(files: list[Path]) -> list[tuple[str, bytes]]:
    return [(file.name, file.read_bytes()) for file in files]


@pytest.mark.parametrize("width", [1300, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_verdict_stands_first(
    browser: Browser, serving: Callable[..., Server], model: Path, width: int, scheme: Any
) -> None:
    page, _, wrong = watched(browser, serving(model).address, width)
    page.emulate_media(color_scheme=scheme)
    page.wait_for_selector("#verdict .value")
    card = load(model).card
    assert card
    worth = verdict(card)
    assert worth
    said = page.locator("#verdict").inner_text()
    for words in (worth.value, worth.word, worth.on, worth.choice, *worth.notes):
        assert words in said
    assert page.locator("#verdict").get_attribute("class") == worth.kind.replace(" ", "-")
    colour = "getComputedStyle(document.querySelector('{}')).{}"
    assert page.evaluate(colour.format("#verdict .word", "color")) != page.evaluate(colour.format("body", "color"))
    back = page.evaluate(colour.format("body", "backgroundColor"))
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#verdict").bounding_box()["y"] < page.locator("#about").bounding_box()["y"]  # type: ignore[index]
    assert wrong == []
    page.close()


def test_doubtful_images_are_first_and_may_be_seen_alone(
    browser: Browser, serving: Callable[..., Server], model: Path, images: list[Path]
) -> None:
    server = serving(model)
    rows = server.predict(*read(images))[1]["images"]
    order = sorted(range(len(images)), key=lambda place: rows[place]["abstain"])  # doubtful ones come last
    page, _, wrong = watched(browser, server.address, 1100)
    page.wait_for_selector("#verdict .value")
    dropped(page, *read([images[place] for place in order]), ("notes.txt", b"a note"))
    looks = page.locator("#results li").evaluate_all("lines => lines.map(one => one.classList.contains('look'))")
    doubtful = sum(row["abstain"] for row in rows)
    assert 0 < doubtful < len(rows)
    assert looks == [True] * doubtful + [False] * (len(rows) - doubtful + 1)
    page.locator("#only").check()
    assert page.locator("#results li:visible").count() == doubtful
    page.locator("#only").uncheck()
    assert page.locator("#results li:visible").count() == len(rows) + 1
    assert wrong == []
    page.close()


def test_an_empty_set_is_unsure_and_has_no_percentage(
    browser: Browser, serving: Callable[..., Server], model: Path, images: list[Path], tmp_path: Path
) -> None:
    def ask_for_all(raw: dict[str, Any]) -> None:
        raw["conformal"]["levels"]["0.1"]["threshold"] = 0.0

    nothing_fits = altered(model, tmp_path / "model", ask_for_all)
    page, _, _ = watched(browser, serving(nothing_fits).address, 1100)
    page.wait_for_selector("#verdict .value")
    dropped(page, *read(images[:2]))
    for line in page.locator("#results li").all_inner_texts():
        assert "unsure: none of the classes fits" in line
        assert "a person should look" in line
        assert "%" not in line
    page.close()


def test_a_refused_level_is_said_as_predict_says_it(
    browser: Browser, serving: Callable[..., Server], model: Path, images: list[Path], tmp_path: Path, shell: Shell
) -> None:
    def refuse(raw: dict[str, Any]) -> None:
        raw["conformal"]["levels"]["0.1"] = {"refused": REFUSED}

    refusing = altered(model, tmp_path / "model", refuse)
    said = shell("predict", refusing, images[0], "--set-level", 0.1)[2]
    page, _, _ = watched(browser, serving(refusing).address, 1100)
    page.wait_for_selector("#unsure:not(:empty)")
    words = page.locator("#unsure").inner_text()
    assert f"no prediction sets at level 0.1: {REFUSED}" in words
    assert f"no prediction sets at level 0.1: {REFUSED}" in " ".join(said.split())
    page.close()


def test_images_of_another_size_get_the_warning_of_predict(
    browser: Browser, serving: Callable[..., Server], model: Path, images: list[Path], tmp_path: Path, shell: Shell
) -> None:
    content = BytesIO()
    Image.open(images[0]).resize((300, 200)).save(content, "PNG")
    (tmp_path / "large.png").write_bytes(content.getvalue())
    said = " ".join(shell("predict", model, tmp_path / "large.png")[2].split())
    assert "these images are 300 x 200 pixels, those of the training were 8 x 8 (medians)" in said
    server = serving(model)
    assert server.predict(("large.png", content.getvalue()))[1]["warning"] in said
    assert server.predict(*read(images[:1]))[1]["warning"] is None
    page, _, _ = watched(browser, server.address, 390)
    page.wait_for_selector("#verdict .value")
    dropped(page, *read(images[:1]))
    assert page.locator("#unlike").is_hidden()
    dropped(page, ("large.png", content.getvalue()))
    page.wait_for_selector("#unlike:visible")
    assert "300 x 200 pixels" in page.locator("#unlike").inner_text()
    page.locator("#clear").click()
    assert page.locator("#unlike").is_hidden()
    page.close()


@pytest.mark.parametrize("width", [1300, 390])
def test_an_image_is_enlarged_and_let_go(
    browser: Browser, serving: Callable[..., Server], model: Path, images: list[Path], width: int
) -> None:
    page, _, wrong = watched(browser, serving(model).address, width)
    page.wait_for_selector("#verdict .value")
    dropped(page, *read(images[:1]))
    ends: list[Callable[[], None]] = [
        lambda: page.keyboard.press("Escape"),
        lambda: page.locator("dialog img").first.click(),
        lambda: page.mouse.click(5, 5),
        lambda: page.locator("dialog button").click(),
    ]
    for end in ends:
        page.locator("#results li").first.click()
        page.wait_for_selector("dialog[open]")
        assert images[0].name in page.locator("dialog").inner_text()
        for image in page.locator("dialog img").all():
            box = image.bounding_box()
            assert box
            assert box["width"] > 0.4 * width
            assert box["x"] + box["width"] <= width
        end()
        assert page.locator("dialog[open]").count() == 0
    assert wrong == []
    page.close()


def test_classes_may_have_the_names_of_what_every_object_has(
    browser: Browser, serving: Callable[..., Server], model: Path, images: list[Path], tmp_path: Path
) -> None:
    odd = altered(model, tmp_path / "odd", lambda raw: raw.update(classes=ODD))
    page, _, wrong = watched(browser, serving(model, odd).address, 1100)
    page.wait_for_selector("#models button")
    dropped(page, *read(images[:1]))
    page.locator("#models button").nth(1).click()
    dropped(page, *read(images))
    said = page.locator("#results").inner_text()
    for name in ODD[:3]:
        assert f"{name}: " in said
    with page.expect_download() as download:
        page.locator("#save").click()
    head, *lines = (line.split(",") for line in Path(download.value.path()).read_text().splitlines())
    assert set(ODD) < set(head)
    assert [lines[0][head.index(name)] for name in ODD[:3]] == ["", "", ""]
    assert all(0 <= float(line[head.index(name)]) <= 1 for line in lines[1:] for name in ODD)
    assert wrong == []
    page.close()


def test_several_models_have_a_score_with_its_name_and_no_interval_where_there_is_none(
    browser: Browser, serving: Callable[..., Server], model: Path, tmp_path: Path
) -> None:
    def balanced(raw: dict[str, Any]) -> None:
        raw["study"]["metric"] = "balanced_accuracy"
        raw["test"].update(balanced_accuracy=0.5, balanced_accuracy_interval=None, no_interval="too few groups")

    other = altered(model, tmp_path / "other", balanced)
    page, _, wrong = watched(browser, serving(model, other).address, 1100)
    page.wait_for_selector("#models button")
    lines = [line.split("\t") for line in page.locator("#models tr").all_inner_texts()]
    assert lines[1][1].startswith("test accuracy ")
    assert " % to " in lines[1][2]
    assert lines[2][1:3] == ["test balanced accuracy 50.0 %", ""]
    assert wrong == []
    page.close()
