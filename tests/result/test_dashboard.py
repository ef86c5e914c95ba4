"""The dashboard's answers, asked as a WSGI application: who is answered, what may be written, and what is gone."""

import io
import json
import shutil
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from study import dashboard
from study.dashboard import application, note, require_own_pages
from tests import killer
from tests.conftest import tiny_options

URL = "sqlite:///optuna.db"
OWN = {"HTTP_HOST": "127.0.0.1:8080"}


def answer(served: WSGIApplication, path: str, method: str = "GET", **more: str) -> tuple[int, bytes]:
    """Status and content."""
    status: list[str] = []
    environment: dict[str, Any] = {}
    setup_testing_defaults(environment)
    environment |= {"PATH_INFO": path, "REQUEST_METHOD": method, "wsgi.input": io.BytesIO(), **OWN, **more}
    content = b"".join(served(environment, lambda code, *_: status.append(code)))
    return int(status[0].split()[0]), content


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a database of one study of plain Optuna."""
    monkeypatch.chdir(tmp_path)
    optuna.create_study(study_name="plain", storage=URL).optimize(lambda trial: trial.suggest_float("x", 0, 1), 2)
    return tmp_path


@pytest.mark.parametrize("write", [False, True])
def test_another_origin_is_refused_whatever_else_it_brings(made: Path, write: bool) -> None:
    served = require_own_pages(application(URL, write=write), 8080, "token" if write else None)
    token = {"QUERY_STRING": "token=token"}
    for origin in ("http://evil.example", "http://127.0.0.1:9999", "https://127.0.0.1:8080", "null"):
        code, content = answer(served, "/api/studies", HTTP_ORIGIN=origin, **token)
        assert (code, b"another page asked" in content) == (403, True)
        assert answer(served, "/api/studies/1", "DELETE", HTTP_ORIGIN=origin, **token)[0] == 403
    assert answer(served, "/api/studies", HTTP_ORIGIN="http://127.0.0.1:8080", **token)[0] == 200
    assert answer(served, "/api/studies", **token)[0] == 200
    assert (answer(served, "/api/studies")[0] == 200) is not write
    assert answer(served, "/api/studies", QUERY_STRING="token=other")[0] == (403 if write else 200)


@pytest.mark.slow
def test_files_have_addresses_that_nobody_can_guess_and_may_vanish(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tiny_options(small_folder, trials=2, epochs=2, final_epochs=1)
    assert killer.run(["run", *options, "--name", "s"], tmp_path) == 0
    monkeypatch.chdir(tmp_path)

    def offered() -> tuple[WSGIApplication, dict[str, str]]:
        served = application(URL, write=False)
        answer(served, "/api/studies")
        artifacts = json.loads(answer(served, "/api/studies/1", QUERY_STRING="after=0")[1])["artifacts"]
        return served, {one["filename"]: one["artifact_id"] for one in artifacts}

    served, first = offered()
    assert "card.json" in first
    assert json.loads(answer(served, f"/artifacts/1/{first['card.json']}")[1])["study"]["name"] == "s"
    monkeypatch.setattr(dashboard, "SECRET", dashboard.uuid.uuid4())  # as in another process
    assert not set(first.values()) & set(offered()[1].values())
    shutil.rmtree(tmp_path / "runs" / "s" / "model")
    assert answer(served, f"/artifacts/1/{first['card.json']}") == (200, b"this file no longer exists\n")


def test_a_study_whose_files_lie_in_another_store_can_be_deleted(made: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("a note")
    (tmp_path / "elsewhere").mkdir()
    study = optuna.load_study(study_name="plain", storage=URL)
    store = FileSystemArtifactStore(tmp_path / "elsewhere")
    upload_artifact(artifact_store=store, file_path=str(tmp_path / "note.txt"), study_or_trial=study)
    served = application(URL, write=True)
    code, content = answer(served, "/api/studies/1", "DELETE")
    assert code == 204, content
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    assert not optuna.get_all_study_names(URL)


def test_commands_in_a_note_go_to_the_database_that_is_shown(tiny: Any) -> None:
    said = note("s", tiny(), "No model here.", "sqlite:///other.db")
    assert "`study resume s --trials N --storage sqlite:///other.db`" in said
    assert "`study resume s`" in note("s", tiny(), "No model here.", URL)
