"""What the best network so far takes for what: kept while a study runs, drawn when it is looked at."""

import io
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from study.config.schema import StudyConfig
from study.result.pictures import confusion_picture, mistakes_picture
from study.search import best as module
from study.search.best import best_of, read_best
from study.search.trial import objective
from study.search.worker import search
from study.training.workspace import Workspace
from tests.conftest import open_work

Make = Callable[..., Any]


@pytest.fixture
def searched(workspace: Callable[[StudyConfig], Workspace], tiny: Make, tmp_path: Path) -> tuple[Any, Workspace]:
    work = workspace(tiny(trials=5))
    study = open_work(work, f"sqlite:///{tmp_path}/optuna.db")
    list(search(study, objective(work)))
    return study, work


def test_what_is_kept_is_of_the_best_trial(searched: tuple[Any, Workspace]) -> None:
    study, work = searched
    best, kept = best_of(study.own_trials()), read_best(work.folder)
    assert best
    assert kept
    assert kept.trial == best.number == study.study.best_trial.number
    assert kept.classes == list(work.dataset.classes)
    assert kept.confusion.sum() == len(work.parts.val)
    assert np.trace(kept.confusion) / kept.confusion.sum() == pytest.approx(best.value)
    wrong = int(kept.confusion.sum() - np.trace(kept.confusion))
    assert len(kept.mistakes) == min(wrong, module.MISTAKES)
    sure = [mistake.probability for mistake in kept.mistakes]
    assert sure == sorted(sure, reverse=True)
    for mistake in kept.mistakes:
        index = work.dataset.paths.index(mistake.path)
        assert index in work.parts.val
        assert mistake.true == work.dataset.classes[work.dataset.labels[index]] != mistake.predicted
        assert np.array_equal(mistake.image, work.dataset.images[index])


@pytest.mark.parametrize("kind", ["pipe", "packed", "endless", "text"])
def test_a_file_that_is_not_ours_is_read_as_nothing(tmp_path: Path, kind: str) -> None:
    """The folder may be a stranger's: nothing is waited for, unpacked, or read without an end."""
    file = tmp_path / module.FILE
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "packed":
        np.savez_compressed(file, path=np.zeros(2**28, np.uint8))
        assert file.stat().st_size < 2**20
    elif kind == "endless":
        with file.open("wb") as handle:
            handle.truncate(2**40)
    else:
        file.write_text("hello")
    tracemalloc.start()
    try:
        assert read_best(tmp_path) is None
        assert tracemalloc.get_traced_memory()[1] < 2 * module.MOST_BYTES
    finally:
        tracemalloc.stop()


def test_pictures_are_drawn(searched: tuple[Any, Workspace]) -> None:
    kept = read_best(searched[1].folder)
    assert kept
    strange = module.Best(
        study="s",
        value=0.5,
        trial=3,
        classes=["a$b$c", "<b>", "x" * 60],
        confusion=np.diag([3, 0, 100]),
        mistakes=kept.mistakes[:1],
    )
    none = module.Best(study="s", value=1.0, trial=0, classes=["a", "b"], confusion=np.diag([1, 1]), mistakes=[])
    names = [f"class {number}" for number in range(150)]
    many = module.Best(study="s", value=1.0, trial=0, classes=names, confusion=np.eye(150, dtype=int), mistakes=[])
    for best in (kept, strange, none, many):
        for draw in (confusion_picture, mistakes_picture):
            with Image.open(io.BytesIO(draw(best))) as image:
                assert image.format == "PNG"
                assert 200 < image.width <= 2000


def test_a_worse_trial_changes_nothing_and_no_room_costs_no_trial(
    searched: tuple[Any, Workspace], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study, work = searched
    before = read_best(work.folder)
    side = work.config.image_size
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, len(work.dataset.classes)))
    module.keep_if_best(study, work, 99, -1.0, model)
    assert before
    kept = read_best(work.folder)
    assert kept
    assert kept.trial == before.trial

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.files, "write", full)
    module.keep_if_best(study, work, 99, 2.0, model)
    assert "could not save the confusion matrix of trial 99" in caplog.text


def test_of_two_that_end_together_the_better_one_is_kept(searched: tuple[Any, Workspace]) -> None:
    """Neither is told yet when both are compared: what the file holds counts too, unless it is of another study."""
    study, work = searched
    side = work.config.image_size
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, len(work.dataset.classes)))
    for number, value, kept in ((98, 2.0, 98), (99, 1.5, 98), (100, 2.0, 98), (97, 2.0, 97), (101, 2.5, 101)):
        module.keep_if_best(study, work, number, value, model)
        best = read_best(work.folder)
        assert best
        assert (best.trial, best.confusion.sum()) == (kept, len(work.parts.val)), number
    study.study.set_user_attr("identity", "of another study of this name")
    module.keep_if_best(study, work, 102, 1.2, model)
    best = read_best(work.folder)
    assert best
    assert best.trial == 102


def array_file() -> bytes:
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    return content.getvalue()


@pytest.mark.parametrize("content", [array_file(), b"", b"PK\x03\x04", b"nonsense", b"\x93NUMPY\x01\x00"])
def test_a_file_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    assert read_best(tmp_path) is None
    (tmp_path / module.FILE).write_bytes(content)
    assert read_best(tmp_path) is None
