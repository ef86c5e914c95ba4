"""Pages in a real browser: they render, on a wide screen and on a phone, and ask nobody for anything."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests import killer
from tests.killer import options

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (on Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses root otherwise
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def model(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small study's model."""
    folder = tmp_path_factory.mktemp("study")
    assert killer.run(options(small_folder), folder) == 0
    return folder / "runs" / "s" / "model"


def opened(browser: Browser, file: Path, width: int) -> tuple[Page, list[str], list[str]]:
    """The page once its figures are drawn, what it asked for, and what went wrong in it."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(file.as_uri())
    page.wait_for_function("document.querySelectorAll('.plotly-graph-div').length > 0")
    page.wait_for_function(
        "[...document.querySelectorAll('.plotly-graph-div')].every(one => one.querySelector('.main-svg'))"
    )
    return page, asked, wrong


@pytest.mark.parametrize("width", [1100, 390])
def test_the_report_renders_and_asks_nobody(browser: Browser, model: Path, width: int) -> None:
    page, asked, wrong = opened(browser, model / "report.html", width)
    assert asked == [(model / "report.html").as_uri()]
    assert wrong == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    headings = page.locator("h2").all_inner_texts()
    assert headings[0] == "What the model is worth"
    assert "How to do it again" in headings
    assert page.locator(".score").inner_text().startswith("Test accuracy")
    for anchor in page.locator("nav a").all():
        target = anchor.get_attribute("href")
        assert target
        assert page.locator(target).count() == 1
    assert page.locator(".plotly-graph-div").count() >= 8
    page.close()


def test_the_report_can_be_printed(browser: Browser, model: Path, tmp_path: Path) -> None:
    page, _, _ = opened(browser, model / "report.html", 1100)
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.close()


def test_the_audit_asks_nobody(browser: Browser, tissue_folder: Path, shell: Any, tmp_path: Path) -> None:
    assert shell("data", "audit", tissue_folder, "--html", tmp_path / "audit.html")[0] == 0
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "audit.html").as_uri())
    page.wait_for_load_state()
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "audit.html").as_uri()]
    assert page.locator("h1").count() == 1
    page.close()
