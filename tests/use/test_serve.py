"""`study serve`: a real server, a real model, a real browser."""

import asyncio
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page
from starlette.exceptions import HTTPException

from models.bundle.card import percent
from models.bundle.folder import load
from study.use import serve
from tests import killer
from tests.conftest import Shell
from tests.result.test_browser import CHROMIUM, browser, watched

__all__ = ["browser"]

pytestmark = pytest.mark.slow


class Server:
    """`study serve` in a process of its own."""

    def __init__(self, *models: Path) -> None:
        command = [sys.executable, "-m", "study", "serve", *map(str, models), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.address = self.process.stderr.readline().strip()

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.address + path, body, named)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def predict(self, *files: tuple[str, bytes], query: str = "") -> tuple[int, Any]:
        return self.ask(f"predict{query}", form(*files), content_type="multipart/form-data; boundary=BORDER")


def form(*files: tuple[str, bytes]) -> bytes:
    head = '--BORDER\r\nContent-Disposition: form-data; name="images"; filename="{}"\r\n\r\n'
    return b"".join(head.format(name).encode() + content + b"\r\n" for name, content in files) + b"--BORDER--\r\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with prediction sets, of a study of the embedded digits that ends in seconds, and is not sure."""
    folder = tmp_path_factory.mktemp("study")
    short = ["epochs=2", "min_epochs=1", "eta=2", "final_epochs=2", "space.num_conv_blocks=[1]", "space.base_filters=4"]
    options = [word for one in short for word in ("--set", one)]
    assert killer.run(["run", "--preset", "quick", "--name", "s", "--trials", "2", *options], folder) == 0
    return folder / "runs" / "s" / "model"


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    started = Server(model)
    yield started
    assert started.ask("health")[0] == 200  # whatever it was asked
    started.process.terminate()
    assert started.process.wait(5) == 143
    assert started.process.stderr is not None
    assert started.process.stderr.read() == ""  # nothing went wrong that it had to tell of


@pytest.fixture(scope="module")
def images(model: Path) -> list[Path]:
    return sorted((model.parents[1] / "cache" / "digits").glob("*/*.png"))[::90]


def test_it_says_what_predict_says(server: Server, model: Path, images: list[Path], shell: Shell) -> None:
    status, found = server.predict(*((file.name, file.read_bytes()) for file in images))
    assert status == 200
    rows = json.loads(shell("predict", model, *images, "--json")[1])
    for row, known in zip(found["images"], rows, strict=True):
        assert row["path"] == Path(known["path"]).name
        assert {key: row[key] for key in ("label", "set", "abstain")} == {
            key: known[key] for key in ("label", "set", "abstain")
        }
        assert row["probabilities"] == pytest.approx(known["probabilities"], abs=1e-6)
    status, alone = server.ask("predict", images[0].read_bytes(), content_type="image/png")
    assert status == 200
    assert alone["images"][0]["probabilities"] == pytest.approx(rows[0]["probabilities"], abs=1e-6)


def test_pictures_come_where_they_are_wanted(server: Server, images: list[Path]) -> None:
    _, found = server.predict((images[0].name, images[0].read_bytes()), query="?explain=true")
    for key in ("image", "explanation"):
        with urllib.request.urlopen(found["images"][0][key]) as answer, Image.open(answer) as picture:
            assert (picture.format, picture.size) == ("JPEG", (224, 224))


def test_a_file_that_is_no_image_is_told_of_beside_the_others(server: Server, images: list[Path]) -> None:
    good = images[0].read_bytes()
    status, found = server.predict(("a.png", good), ("notes.txt", b"a note"), ("b.png", good), query="?explain=true")
    assert status == 200
    rows = found["images"]
    assert [row["path"] for row in rows] == ["a.png", "notes.txt", "b.png"]
    assert rows[1] == {"path": "notes.txt", "error": "not an image"}
    assert rows[0]["label"] == rows[2]["label"]
    status, found = server.predict(("notes.txt", b"a note"))
    assert (status, found["detail"]) == (422, "notes.txt: not an image")
    assert found["images"] == [{"path": "notes.txt", "error": "not an image"}]
    status, found = server.predict(("scan.SVS", b"no image"))
    assert (status, found["detail"]) == (422, "scan.SVS: a whole slide: study predict MODEL SLIDE --out DIR maps it")


def bomb() -> bytes:
    """20,000 x 20,000 white pixels in some kilobytes."""
    content = BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    return content.getvalue()


FORM = "multipart/form-data; boundary=BORDER"
MALFORMED: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "nothing": (b"", {"content_type": "image/png"}, 400, "no image was sent"),
    "a text": (b"hello", {"content_type": "text/plain"}, 415, "content type text/plain: send a form"),
    "JSON": (b"{}", {"content_type": "application/json"}, 415, "send a form"),
    "no boundary": (b"x", {"content_type": "multipart/form-data"}, 400, "boundary"),
    "no form": (b"x" * 100, {"content_type": FORM}, 400, "nvalid"),
    "no file in it": (form(), {"content_type": FORM}, 400, "no image was sent"),
    "half an image": (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, {"content_type": "image/png"}, 422, "image"),
    "too many": (form(*[("a.png", b"x")] * 65), {"content_type": FORM}, 400, "Too many files. Maximum number of"),
    "another site": (b"x", {"content_type": "image/png", "origin": "http://evil.example"}, 403, "another page asked"),
    "another name": (b"x", {"content_type": "image/png", "host": "evil.example"}, 403, "http://127.0.0.1 alone"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_malformed_gets_a_sentence(server: Server, kind: str) -> None:
    body, headers, status, words = MALFORMED[kind]
    code, found = server.ask("predict", body, **headers)
    assert code == status
    assert words in found["detail"]


def test_what_is_too_large_is_refused(server: Server) -> None:
    code, found = server.ask("predict", bomb(), content_type="image/png")
    assert code == 422
    assert "20000 x 20000 pixels, more than the 100 megapixels" in found["detail"]
    place = urllib.request.urlparse(server.address)
    with socket.create_connection((place.hostname, place.port), 10) as connection:  # refused before it is sent
        head = [
            "POST /predict HTTP/1.1",
            f"Host: {place.netloc}",
            "Content-Type: image/png",
            f"Content-Length: {1 << 40}",
        ]
        connection.sendall("".join(f"{line}\r\n" for line in [*head, ""]).encode())
        assert b" 413 " in connection.recv(1000).splitlines()[0]
    assert server.ask("card?model=7") == (404, {"detail": "no model 7 (there are: 0 to 0)"})


def test_what_is_too_much_at_once_may_come_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in work are counted from their decoding to the answer."""
    monkeypatch.setattr(serve, "MOST_AT_ONCE", 3)
    bundle = load(model)
    pixels = np.zeros((2, bundle.image_size, bundle.image_size, 3), np.uint8)

    async def crowd() -> None:
        network = serve.Network(bundle)
        running = asyncio.create_task(network.run())
        with network.room(2):
            first = asyncio.create_task(network.predict(pixels))
            with pytest.raises(HTTPException) as refused, network.room(2):
                pass
            assert refused.value.status_code == 503
            assert refused.value.headers == {"Retry-After": "1"}
            assert (await first).shape == (2, len(bundle.classes))
        with network.room(3):
            assert (await network.predict(pixels)).shape == (2, len(bundle.classes))
        assert network.at_once == 0
        running.cancel()

    asyncio.run(crowd())


def test_large_images_count_by_their_pixels(model: Path) -> None:
    """For a model of 1,024 pixels fewer images are decoded, and go through it together, than of a small one."""
    network = serve.Network(replace(load(model), image_size=1024))
    assert network.most_at_once * 1024**2 <= serve.MOST_PIXELS
    assert (network.batch, network.explained) == (1, 1)
    small = serve.Network(load(model))
    assert (small.most_at_once, small.batch, small.explained) == (serve.MOST_AT_ONCE, serve.BATCH, serve.EXPLAINED)


def slow() -> bytes:
    """45 megapixels with transparency: seconds to decode."""
    content = BytesIO()
    Image.new("LA", (9000, 5000)).save(content, "PNG")
    return content.getvalue()


def test_slow_images_hold_up_neither_another_client_nor_the_end(model: Path, images: list[Path]) -> None:
    started, content = Server(model), slow()
    with ThreadPoolExecutor(1) as pool:
        many = pool.submit(started.predict, *((f"{number}.png", content) for number in range(20)))
        while not started.ask("health")[1]["images"]:
            time.sleep(0.01)
        for file in images[:3]:
            assert started.ask("predict", file.read_bytes(), content_type="image/png")[0] == 200
        assert not many.done()
        os.kill(started.process.pid, signal.SIGINT)
        assert started.process.wait(20) == 130  # all of them would take twice as long
        assert many.exception()  # it was cut off
        assert started.process.stderr is not None
        assert "Traceback" not in started.process.stderr.read()


def test_a_crowd_is_served(server: Server, images: list[Path]) -> None:
    contents = [file.read_bytes() for file in images]
    alone = [server.ask("predict", content, content_type="image/png")[1]["images"][0] for content in contents]

    def one(number: int) -> bool:
        place = number % len(contents)
        status, found = server.ask("predict", contents[place], content_type="image/png")
        same = found["images"][0]["probabilities"] == pytest.approx(alone[place]["probabilities"], abs=1e-5)
        return status == 200 and same

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(one, range(400)))


def test_what_it_says_of_itself(server: Server, model: Path) -> None:
    assert server.ask("health") == (200, {"status": "ok", "models": 1, "images": 0})
    assert server.ask("card")[1]["weights_sha256"] == json.loads((model / "card.json").read_text())["weights_sha256"]
    described = server.ask("openapi.json")[1]
    assert set(described["paths"]) == {"/health", "/models", "/card", "/predict"}
    assert "multipart/form-data" in described["paths"]["/predict"]["post"]["requestBody"]["content"]
    with urllib.request.urlopen(server.address) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_a_taken_port_and_a_missing_library_are_said_in_a_line(
    server: Server, model: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = urllib.request.urlparse(server.address).port
    code, _, err = shell("serve", model, "--port", port)
    assert (code, err.splitlines()[-1]) == (
        2,
        f"study: port {port}: Address already in use (choose another with --port, or 0 for any)",
    )
    monkeypatch.delitem(sys.modules, "study.use.serve")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, _, err = shell("serve", model)
    assert code == 2
    assert "serving needs fastapi, which is not installed (pip install" in err


def test_ctrl_c_ends_it(model: Path) -> None:
    started = Server(model)
    assert started.ask("health")[0] == 200
    os.kill(started.process.pid, signal.SIGINT)
    assert started.process.wait(5) == 130


DROP = """([name, files]) => {
  const transfer = new DataTransfer();
  for (const [name, content] of files)
    transfer.items.add(new File([Uint8Array.from(atob(content), one => one.charCodeAt(0))], name));
  document.dispatchEvent(new DragEvent(name, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (on Debian: apt install chromium)")
class TestPage:
    """What a person sees."""

    def opened(self, browser: Browser, address: str, width: int = 1100) -> tuple[Page, list[str], list[str]]:
        page, asked, wrong = watched(browser, address, width)
        page.wait_for_selector("#about:not(:empty)")
        return page, asked, wrong

    @pytest.mark.parametrize("width", [1100, 390])
    def test_dropped_files_get_what_a_person_should_see(
        self, browser: Browser, server: Server, images: list[Path], tmp_path: Path, width: int
    ) -> None:
        page, asked, wrong = self.opened(browser, server.address, width)
        known = server.predict(*((file.name, file.read_bytes()) for file in images))[1]["images"]
        images = sorted(images, key=lambda file: not known[images.index(file)]["abstain"])  # one that is not sure first
        files = [(file.name, base64.b64encode(file.read_bytes()).decode()) for file in images[:3]]
        files.append(("=notes.txt", base64.b64encode(b"a note").decode()))
        page.evaluate(DROP, ["drop", files])
        page.wait_for_selector("#results li:nth-child(4)")
        lines = page.locator("#results li")
        rows = server.predict(*((file.name, file.read_bytes()) for file in images[:3]))[1]["images"]
        assert rows[0]["abstain"]
        for place, row in enumerate(rows):
            words = lines.nth(place).inner_text()
            assert row["path"] in words
            share = f"{row['label']}: {percent(row['probabilities'][row['label']])}"
            assert (share if row["set"] else "unsure: none of the classes fits") in words
            assert ("prediction set: {" + ", ".join(row["set"]) + "}" in words) == bool(row["set"])
            assert ("a person should look" in words) == row["abstain"]
        assert "not predicted: not an image" in lines.nth(3).inner_text()
        assert page.locator("#verdict").inner_text().startswith("Test accuracy")
        assert "Research use only" in page.locator("#notice").inner_text()
        for _ in range(100):
            shown = "[...document.querySelectorAll('#results img')].every(one => one.complete && one.naturalWidth > 0)"
            if page.evaluate(shown):
                break
            page.wait_for_timeout(50)
        assert page.evaluate(shown)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=os.environ.get("SCREENSHOT", str(tmp_path / "page.png")), full_page=True)
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open]")
        assert images[1].name in page.locator("dialog").inner_text()
        page.keyboard.press("Escape")
        with page.expect_download() as download:
            page.keyboard.press("s")
        table = Path(download.value.path()).read_text().splitlines()
        assert table[0].startswith("path,model,label,")
        assert [line.partition(",")[0] for line in table[1:]] == [*(file.name for file in images[:3]), "'=notes.txt"]
        assert [url for url in asked if not url.startswith((server.address, "blob:", "data:"))] == []
        assert wrong == []
        page.close()

    def test_a_folder_is_dropped_with_what_lies_inside_it(
        self, browser: Browser, server: Server, images: list[Path], tmp_path: Path
    ) -> None:
        """From outside the page, as a file manager does it."""
        for number, file in enumerate(images[:4]):
            target = tmp_path / "scans" / ("inner" if number % 2 else "") / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        page, _, wrong = self.opened(browser, server.address)
        outside = page.context.new_cdp_session(page)
        data = {"items": [], "files": [str(tmp_path / "scans")], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            outside.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})
        page.wait_for_selector("#results li:nth-child(4)")
        said = page.locator("#results").inner_text()
        for number, file in enumerate(images[:4]):
            assert f"scans/{'inner/' if number % 2 else ''}{file.name}" in said
        assert "not predicted" not in said
        assert wrong == []
        page.close()

    def test_several_models_are_compared(self, browser: Browser, model: Path) -> None:
        both = Server(model, model)
        page, _, wrong = self.opened(browser, both.address)
        assert page.locator("#models tr").count() == 3
        assert "study retrain s --trial" in page.locator("#models").inner_text()
        page.locator("#models button").nth(1).click()
        assert wrong == []
        page.close()
        both.process.terminate()
        assert both.process.wait(5) == 143


def test_a_name_that_a_shell_would_obey_is_in_no_command(model: Path) -> None:
    """The page shows a command to copy, with the name that a stranger's card gives its study."""
    loaded = load(model)
    assert loaded.card
    assert loaded.card.study
    for name, shown in (("s-1", True), ("x; touch PWNED #", False)):
        card = loaded.card.model_copy(update={"study": loaded.card.study.model_copy(update={"name": name})})
        found = serve.model_description(serve.ServedModel("s", replace(loaded, card=card)))
        assert ("study" in found) is shown
