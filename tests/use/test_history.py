"""A study in a notebook: frames, figures, and the model as a function."""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas
import pytest
from PIL import Image

from data import DataError
from models.bundle import folder as bundle
from study import StudyError
from study.use.history import History
from study.use.predict import predict_files
from tests.conftest import Shell, tiny_options

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ran(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a small study has run, to its model."""
    place = tmp_path_factory.mktemp("ran")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("sys.argv", ["study", "run", *tiny_options(small_folder), "--name", "its"])
        from study import cli

        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return place


@pytest.fixture
def history(ran: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    monkeypatch.chdir(ran)
    return History()


def test_frames_are_the_views_of_one_study(history: History) -> None:
    trials = optuna.load_study(study_name="its", storage="sqlite:///optuna.db").trials
    frame = history.frame()
    assert frame["number"].tolist() == [trial.number for trial in trials]
    assert frame["value"].tolist() == [trial.value for trial in trials]
    assert len(history.frame("epochs")) == sum(len(trial.intermediate_values) for trial in trials)
    assert history.frame("models")["path"].tolist() == ["model"]
    assert repr(history) == "History('its', 6 trials)"
    with pytest.raises(StudyError, match="no view 'trials'"):
        history.frame("trials")
    with pytest.raises(StudyError, match="is refused"):
        history.sql("DELETE FROM trials")


def test_figures_are_plotlys(history: History) -> None:
    assert set(history.figures) >= {"learning-curves", "score-against-parameters", "rung-survival"}
    assert len(history.figures["learning-curves"].data) == 6


def test_the_model_takes_files_pictures_and_arrays(history: History, small_folder: Path) -> None:
    files = sorted((small_folder / "0").iterdir())[:2]
    found = history.model([*files, str(files[0]), Image.open(files[0]), np.asarray(Image.open(files[0]))])
    assert list(found.columns) == ["label", *history.model.bundle.classes]
    rows = list(predict_files(bundle.load(Path("runs/its/model")), files))
    assert len(rows) == 2
    for row, ours in zip(rows, found.to_dict("records"), strict=False):
        assert ours.pop("label") == row["label"]
        assert ours == pytest.approx(row["probabilities"])
    for again in (2, 3, 4):
        pandas.testing.assert_series_equal(found.iloc[again], found.iloc[0], check_names=False)
    assert list(history.model([]).columns) == list(found.columns)
    for wrong, words in ((str(small_folder), "no regular file|not"), (np.zeros((3, 3, 9)), "image 0")):
        with pytest.raises(DataError, match=words):
            history.model([wrong])


def test_what_is_not_there_is_said(history: History, ran: Path, tmp_path: Path, shell: Shell) -> None:
    with pytest.raises(StudyError, match="no study named 'x'"):
        History("x", f"sqlite:///{ran}/optuna.db")
    with pytest.raises(StudyError, match=r"optuna\.db"):
        History("x", f"sqlite:///{tmp_path}/optuna.db")
    storage = f"sqlite:///{tmp_path}/two.db"
    for name in ("a", "b"):
        optuna.create_study(storage=storage, study_name=name)
    with pytest.raises(StudyError, match=r"which study\? \(there are: a, b\)"):
        History(storage=storage)
    other = History("a", storage)
    assert other.frame().empty
    with pytest.raises(StudyError, match="another program"):
        other.figures  # noqa: B018


def test_a_turned_photograph_is_seen_as_its_file_is(history: History, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    file, picture = history.model([tmp_path / "turned.png", Image.open(tmp_path / "turned.png")]).to_dict("records")
    assert file == picture
    Image.fromarray(pixels).convert("L").save(tmp_path / "turned.tif", exif=exif)  # Pillow maps it, and garbles it
    file_too, picture = history.model([tmp_path / "turned.tif", Image.open(tmp_path / "turned.tif")]).to_dict("records")
    assert file_too == picture
    upright = history.model([pixels]).to_dict("records")[0]
    assert upright != file


def test_a_model_of_another_database_is_refused(history: History, ran: Path) -> None:
    with sqlite3.connect(ran / "optuna.db") as source, sqlite3.connect(ran / "copy.db") as target:
        source.backup(target)
    with pytest.raises(StudyError, match="belongs to the study"):
        History("its", "sqlite:///copy.db").model  # noqa: B018


@pytest.mark.slow
def test_the_notebook_runs(shell: Shell, tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    small = ["--trials", "3", "--set", "epochs=2", "--set", "min_epochs=1", "--set", "eta=2", "--set", "final_epochs=1"]
    assert shell("run", "--preset", "quick", "--data", "digits", *small)[0] == 0
    notebook: Any = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type != "stream"]
    assert any("application/vnd.plotly.v1+json" in output["data"] for output in shown)
    assert "label" in shown[-1]["data"]["text/plain"]
