"""What the dashboard's pages say of a study's model, and what they leave out."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication

import optuna
import pytest
from playwright.sync_api import Browser

from models.bundle.card import Card
from models.bundle.folder import WEIGHTS, read_card
from models.bundle.readable import in_markdown
from models.bundle.verdict import Verdict, verdict
from study.dashboard import application
from tests import killer
from tests.conftest import tiny_options
from tests.result.test_browser import CHROMIUM, browser, dashboard
from tests.result.test_dashboard import URL, answer

__all__ = ["browser", "dashboard"]

pytestmark = pytest.mark.slow

seen = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (on Debian: apt install chromium)")


@pytest.fixture(scope="module")
def made(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of a study with a model, and of one of plain Optuna."""
    folder = tmp_path_factory.mktemp("made")
    options = tiny_options(small_folder, trials=2, epochs=2, final_epochs=1)
    assert killer.run(["run", *options, "--name", "s"], folder) == 0
    plain = optuna.create_study(study_name="plain", storage=f"sqlite:///{folder}/optuna.db", direction="maximize")
    plain.set_user_attr("kept", {"as": "it is"})
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), 2)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that is the working directory."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def detail(served: WSGIApplication, study: int = 1) -> Any:
    return json.loads(answer(served, f"/api/studies/{study}", QUERY_STRING="after=0")[1])


def worth(place: Path) -> Verdict:
    found = verdict(read_card(place / "runs" / "s" / "model", Card))
    assert found is not None
    return found


def test_the_note_begins_with_the_verdict(place: Path) -> None:
    known = worth(place)
    found = detail(application(URL, write=False))
    lines = found["note"]["body"].split("\n\n")
    assert lines[0] == f"## {in_markdown(known.lines[0])}"
    assert lines[1] == f"**{in_markdown(known.word)}**"
    assert in_markdown(known.choice) in lines
    facts = {one["key"]: one["value"] for one in found["user_attrs"]}
    assert facts[known.metric] == f"{known.value} ({known.on})"
    assert facts["verdict"] == known.word
    assert facts["model"] == known.choice


def test_a_note_says_why_there_is_no_verdict(place: Path) -> None:
    model = place / "runs" / "s" / "model"
    with (model / WEIGHTS).open("ab") as file:
        file.write(b"x")
    found = detail(application(URL, write=False))
    assert found["note"]["body"].startswith("## What the model is worth cannot be read: ")
    assert "what is searched" in found["note"]["body"]
    shutil.rmtree(model)
    assert detail(application(URL, write=False))["note"]["body"].startswith("## No model here.")
    study = optuna.load_study(study_name="s", storage=URL)
    study.set_user_attr("openings", [])
    expected = "## No model yet: the test part was not opened."
    assert detail(application(URL, write=False))["note"]["body"].startswith(expected)


def test_walls_of_attributes_stay_in_the_database(place: Path) -> None:
    served = application(URL, write=True)
    found = detail(served)
    attributes = [*found["user_attrs"], *(one for trial in found["trials"] for one in trial["user_attrs"])]
    assert not [one for one in attributes if one["value"].startswith(("{", "["))]
    assert "versions" not in {one["key"] for one in found["union_user_attrs"]}
    assert {"num_params", "seconds"} <= {one["key"] for one in found["union_user_attrs"]}
    rows = list(csv.DictReader(io.StringIO(answer(served, "/csv/1")[1].decode())))
    assert all(row["UserAttribute versions"] for row in rows)
    stored = optuna.load_study(study_name="s", storage=URL)
    assert {"config", "contract"} <= set(stored.user_attrs)
    assert all("versions" in trial.user_attrs for trial in stored.trials)
    assert {one["key"]: one["value"] for one in detail(served, 2)["user_attrs"]} == {"kept": '{"as": "it is"}'}


def test_pages_have_what_fits_their_study(place: Path) -> None:
    served = application(URL, write=False)
    label = b"Selection score on validation"
    for path, own in (("", False), ("/studies/1", True), ("/studies/1/note", True), ("/studies/2", False)):
        code, page = answer(served, f"/dashboard{path}")
        assert (code, label in page) == (200, own)
        assert page.count(b"</head>") == 1
        assert b"rename study" in page
        assert b"rename study" not in answer(application(URL, write=True), f"/dashboard{path}")[1]
    assert answer(served, "/dashboard/studies/1", QUERY_STRING="first")[0] == 302
    assert answer(served, "/dashboard/studies/2", QUERY_STRING="first")[0] == 200
    assert answer(served, "/dashboard/studies/77", QUERY_STRING="first")[0] == 200
    assert answer(served, "/api/studies/77")[0] == 404


BUTTONS = (
    'button:has([data-testid="AddBoxIcon"])',
    '[aria-label="rename study"]',
    '[aria-label="delete study"]',
    'button:has([data-testid="EditIcon"])',
    '[aria-label="delete artifact"]',
    '[data-testid="UploadFileIcon"]',
)


@seen
@pytest.mark.parametrize("write", [False, True])
def test_buttons_that_can_only_fail_are_hidden(
    browser: Browser, dashboard: Callable[..., str], place: Path, write: bool
) -> None:
    address, _, token = dashboard(*(["--write"] if write else [])).partition("?token=")
    page = browser.new_page(viewport={"width": 1300, "height": 3600})
    shown = dict.fromkeys(BUTTONS, 0)
    for path, ready in (
        ("", "Direction"),
        ("/studies/1", "Study Artifacts"),
        ("/studies/1/note", "what is searched"),
    ):
        page.goto(f"{address}{path}" + (f"?token={token}" if token and not path else ""))
        page.get_by_text(ready).first.wait_for()
        page.wait_for_timeout(500)
        for button in BUTTONS:
            shown[button] += page.locator(f"{button}:visible").count()
    assert [button for button in BUTTONS if bool(shown[button]) != write] == []
    page.close()


@seen
def test_a_study_opens_with_its_note(browser: Browser, dashboard: Callable[..., str], place: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(dashboard())
    page.get_by_text("1. s").click()
    page.get_by_text(worth(place).value).first.wait_for()
    assert page.url.endswith("/studies/1/note")
    page.goto(page.url.split("/studies")[0])
    page.get_by_text("2. plain").click()
    page.wait_for_url("**/studies/2?first")
    page.close()


@seen
def test_the_best_value_is_called_a_selection_score(
    browser: Browser, dashboard: Callable[..., str], place: Path
) -> None:
    page = browser.new_page(viewport={"width": 1300, "height": 3600})
    page.goto(f"{dashboard()}/studies/1")
    best = page.locator("h6 + h3")
    best.wait_for()
    style = "(one, what) => getComputedStyle(one, what)"
    assert "Selection score on validation" in best.evaluate(f"one => ({style})(one, '::before').content")
    assert best.evaluate(f"one => ({style})(one).color") == page.locator("h6").first.evaluate(
        f"one => ({style})(one).color"
    )
    page.close()


@seen
@pytest.mark.parametrize("path", ["", "/studies/1", "/studies/1/note", "/studies/1/trials?numbers=0"])
def test_nothing_is_wider_than_a_phone(browser: Browser, dashboard: Callable[..., str], place: Path, path: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(f"{dashboard()}{path}")
    page.locator("main .MuiCard-root").first.wait_for()
    page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
