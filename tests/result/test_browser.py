"""Pages in a real browser: they render, on a wide screen and on a phone, and ask nobody for anything."""

import http.client
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import optuna
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from study.storage.door import open_storage
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


def watched(browser: Browser, address: str, width: int) -> tuple[Page, list[str], list[str]]:
    """A page, what it asks for, and what goes wrong in it."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(address)
    return page, asked, wrong


def opened(browser: Browser, file: Path, width: int) -> tuple[Page, list[str], list[str]]:
    """Open a report and wait until its figures are drawn."""
    page, asked, wrong = watched(browser, file.as_uri(), width)
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
    page.locator("summary", has_text=re.compile("^The search$")).click()
    front = page.get_by_text("No network is both better and cheaper than these").locator(
        "xpath=following::table[1]//tr"
    )
    assert front.count() >= 2
    assert "this model" in front.last.inner_text()
    for anchor in page.locator("nav a").all():
        target = anchor.get_attribute("href")
        assert target
        assert page.locator(target).count() == 1
    assert page.locator(".plotly-graph-div").count() >= 8
    page.close()


TALLEST = "Math.max(0, ...[...document.querySelectorAll('tr')].map(one => one.getBoundingClientRect().height))"

DRAWN = """[...document.querySelectorAll('details .figure')].every(
    one => Math.abs(one.querySelector('.main-svg').getBoundingClientRect().width - one.clientWidth) < 2)"""


def test_on_a_phone_the_report_is_short_and_what_is_opened_fits(browser: Browser, model: Path) -> None:
    page, _, wrong = opened(browser, model / "report.html", 390)
    assert page.evaluate("document.documentElement.scrollHeight") < 6000
    assert page.locator("details[open]").count() == 0
    for summary in page.locator("summary").all():
        summary.click()
    page.wait_for_function(DRAWN)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(TALLEST) < 450  # half a screen
    titles = "[...document.querySelectorAll('figcaption')].map(one => one.scrollWidth - one.clientWidth)"
    assert max(page.evaluate(titles)) <= 0
    assert wrong == []
    page.close()


def test_a_link_opens_what_it_leads_to(browser: Browser, model: Path) -> None:
    page, _, _ = watched(browser, f"{(model / 'report.html').as_uri()}#search", 390)
    page.wait_for_function("document.querySelector('#search').open")
    page.close()


LIGHT = """name => {
    const found = (getComputedStyle(document.querySelector(name)))
    const shade = colour => Math.max(...colour.match(/[0-9.]+/g).slice(0, 3).map(Number))
    return [shade(found.color), shade(found.fill), shade(getComputedStyle(document.body).backgroundColor)]
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_tables_and_figures_read_in_the_dark_too(browser: Browser, model: Path, scheme: Any) -> None:
    page, _, _ = opened(browser, model / "report.html", 390)
    page.emulate_media(color_scheme=scheme)
    for name, kind in (("p", 0), ("td", 0), ("figcaption", 0), (".figure .xtitle", 1), (".figure .xtick text", 1)):
        found = page.evaluate(LIGHT, name)
        assert found[kind] > 150 > 50 > found[2] if scheme == "dark" else found[kind] < 100 < 250 < found[2], name
    paper = "getComputedStyle(document.querySelector('.figure .main-svg')).backgroundColor"
    assert page.evaluate(paper) == "rgba(0, 0, 0, 0)"
    page.close()


def test_the_report_can_be_printed(browser: Browser, model: Path, tmp_path: Path) -> None:
    page, _, _ = opened(browser, model / "report.html", 1100)
    shut = "document.querySelectorAll('details:not([open])').length"
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.shut = {shut} }})")
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert page.evaluate("window.shut") == 0
    page.wait_for_function("document.querySelectorAll('details[open]').length === 0")
    page.close()


def test_the_audit_asks_nobody(browser: Browser, tissue_folder: Path, shell: Any, tmp_path: Path) -> None:
    assert shell("data", "audit", tissue_folder, "--html", tmp_path / "audit.html")[0] == 0
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size({"width": 390, "height": 900})
    page.goto((tmp_path / "audit.html").as_uri())
    page.wait_for_load_state()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.documentElement.scrollHeight") < 6000
    for link in page.locator(".findings a").all():
        target = link.get_attribute("href")
        assert target
        assert page.locator(target).count() == 1
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(LIGHT, "p")[0] > 150 > 50 > page.evaluate(LIGHT, "p")[2]
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "audit.html").as_uri()]
    assert page.locator("h1").count() == 1
    page.close()


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start `study dashboard`; gives its address."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> str:
        command = [sys.executable, "-m", "study", "dashboard", "--port", "0", *options]
        started.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
        assert started[-1].stderr is not None
        return started[-1].stderr.readline().strip()

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


PICTURES = """fetch('/api/studies/1?after=0').then(answer => answer.json()).then(
    found => found.trials.flatMap(
        trial => trial.artifacts.map(one => [trial.trial_id, one.filename, one.artifact_id])))"""


def best_number(place: Path) -> int:
    number: int = optuna.load_study(study_name="s", storage=f"sqlite:///{place}/optuna.db").best_trial.number
    return number


DELETE = "fetch('/api/studies/1', {method: 'DELETE', headers: {'Content-Type': 'application/json'}, body: '{}'})"


def test_the_dashboard_shows_a_running_study_and_changes_nothing(
    browser: Browser, dashboard: Callable[..., str], small_folder: Path, tmp_path: Path
) -> None:
    running = killer.start([*options(small_folder), "--set", "workers=2"], tmp_path)
    killer.when_reported(running, tmp_path, 3)
    address = dashboard()
    assert address.startswith("http://127.0.0.1:")
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/studies/1")
    page.get_by_text("Learning curves by bracket").first.wait_for()
    page.get_by_text("selection score (accuracy on val)").first.wait_for()  # where it would say "Objective 0"
    for _ in range(20):  # somebody who cannot wait
        page.evaluate("fetch('/api/studies/1?after=0').then(answer => answer.json())")
    running.join(60)
    assert running.exitcode == 0
    page.goto(f"{address}/studies/1/note")
    page.get_by_text("The best of many is not a performance").wait_for()
    assert page.evaluate(f"{DELETE}.then(answer => answer.status)") == 403
    assert "--write" in page.evaluate(f"{DELETE}.then(answer => answer.json()).then(found => found.reason)")
    time.sleep(5.5)  # until figures are made anew
    page.goto(f"{address}/studies/1")
    for words in ("What pruning kept", "Score against parameters", "report.html"):
        page.get_by_text(words).first.wait_for()
    artifact = page.evaluate(
        "fetch('/api/studies/1?after=0').then(answer => answer.json()).then(found => found.artifacts.find("
        "one => one.filename === 'card.json').artifact_id)"
    )
    card = page.evaluate(f"fetch('/artifacts/1/{artifact}').then(answer => answer.json())")
    assert card["study"]["name"] == "s"
    pictures = page.evaluate(PICTURES)
    assert {name for _, name, _ in pictures} == {"confusion-val.png", "worst-mistakes-val.png"}
    assert len({trial for trial, _, _ in pictures}) == 1
    for trial, _, number in pictures:
        kind = page.evaluate(
            f"fetch('/artifacts/1/{trial}/{number}').then(answer => answer.headers.get('content-type'))"
        )
        assert kind == "image/png"
    page.goto(f"{address}/studies/1/trials?numbers={best_number(tmp_path)}")
    page.get_by_text("worst-mistakes-val.png").first.wait_for()
    shown = "[...document.querySelectorAll('img')].filter(one => one.src.includes('/artifacts/'))"
    page.wait_for_function(f"{shown}.length === 2 && {shown}.every(one => one.naturalWidth > 200)")
    assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in asked)
    page.close()
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (12,)
        written = connection.execute("SELECT key, value_json FROM study_system_attributes").fetchall()
    assert written == [("study:metric_names", '["selection score (accuracy on val)"]')]  # by us, for the page


def test_the_dashboard_may_write_when_told(
    browser: Browser, dashboard: Callable[..., str], small_folder: Path, tmp_path: Path
) -> None:
    assert killer.run(options(small_folder), tmp_path) == 0
    page = browser.new_page()
    address, _, token = dashboard("--write").partition("?token=")
    refused = page.goto(address)
    assert refused is not None
    assert refused.status == 403
    page.goto(f"{address}?token={token}")
    assert page.evaluate(f"{DELETE}.then(answer => answer.status)") == 204
    page.close()
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (0,)


READ = """async address => {
    const found = []
    for (const path of ['/api/studies', '/api/studies/1?after=0', '/dashboard', '/artifacts/1/x'])
        for (const mode of ['cors', 'no-cors'])
            try { found.push(await (await fetch(address + path, {mode, credentials: 'include'})).text()) }
            catch (error) { found.push('') }
    try {
        const answer = await fetch(address + '/api/studies/1', {method: 'DELETE', mode: 'no-cors'})
        found.push(await answer.text())
    } catch (error) { found.push('') }
    return found.join('')
}"""


@pytest.mark.parametrize("write", [[], ["--write"]])
def test_a_page_of_another_origin_reads_and_changes_nothing(
    browser: Browser, dashboard: Callable[..., str], small_folder: Path, tmp_path: Path, write: list[str]
) -> None:
    assert killer.run(options(small_folder), tmp_path) == 0
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "index.html").write_text("another site")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "elsewhere"))
    site = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    context = browser.new_context()
    own = context.new_page()
    address, _, token = dashboard(*write).partition("?token=")
    own.goto(f"{address}?token={token}" if token else address)  # the user has it open beside
    assert own.evaluate("fetch('/api/studies').then(answer => answer.status)") == 200
    page = context.new_page()
    for host in ("127.0.0.1", "localhost"):
        page.goto(f"http://{host}:{site.server_port}/")
        assert page.evaluate(READ, address.removesuffix("/dashboard")) == ""
    # A name that its owner points at 127.0.0.1 later (DNS rebinding): the Host header gives it away.
    port = int(address.split(":")[2].split("/")[0])
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.putrequest("GET", "/api/studies", skip_host=True)
        connection.putheader("Host", host)
        connection.endheaders()
        assert connection.getresponse().status == 403
    assert own.evaluate("fetch('/api/studies').then(answer => answer.status)") == 200
    context.close()
    site.shutdown()
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        assert database.execute("SELECT count(*) FROM trials").fetchone() != (0,)


def test_a_report_in_the_dashboard_is_in_a_sandbox(
    browser: Browser, dashboard: Callable[..., str], small_folder: Path, tmp_path: Path
) -> None:
    assert killer.run(options(small_folder), tmp_path) == 0
    address = dashboard().removesuffix("/dashboard")
    page = browser.new_page()
    page.goto(f"{address}/dashboard")
    found = page.evaluate("fetch('/api/studies/1?after=0').then(answer => answer.json()).then(one => one.artifacts)")
    report = next(one["artifact_id"] for one in found if one["filename"] == "report.html")
    answer = page.goto(f"{address}/artifacts/1/{report}")
    assert answer is not None
    assert answer.headers["content-security-policy"] == "sandbox allow-scripts"
    assert "access-control-allow-origin" not in answer.headers
    page.wait_for_function("document.querySelectorAll('.plotly-graph-div .main-svg').length > 0")
    assert page.evaluate("fetch('/api/studies').then(answer => answer.text(), () => '')") == ""
    page.close()


def test_a_taken_port_is_said(dashboard: Callable[..., str], shell: Any, tmp_path: Path) -> None:
    open_storage(f"sqlite:///{tmp_path}/optuna.db", create=True)
    port = dashboard().rsplit(":", 1)[1].split("/")[0]
    code, _, err = shell("dashboard", "--port", port)
    assert (code, err) == (
        2,
        f"study: port {port}: Address already in use (choose another with --port, or 0 for any)\n",
    )
