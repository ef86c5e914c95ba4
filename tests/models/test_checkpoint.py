"""Checkpoints: going on from one gives the same bits; a torn, altered or foreign one is never used."""

import itertools
import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models import files
from models.cnn import build_cnn, prepare
from models.training import checkpoint
from models.training.checkpoint import Checkpoints
from models.training.learner import Learner, make_learner
from models.training.loop import EpochResult, fit
from models.training.recipe import TrainConfig, derive_seed
from study.config.schema import StudyConfig
from study.search.open_study import OpenStudy
from study.search.trial import objective
from study.search.worker import search
from study.training import start as training
from study.training.workspace import Workspace
from tests.conftest import open_work
from tests.models.test_training import SMALL, easy_batches


def learner_of(config: TrainConfig, seed: int = 0) -> Learner:
    torch.manual_seed(derive_seed(seed, "weights"))
    return make_learner(prepare(build_cnn(SMALL), torch.device("cpu")), config)


def epochs_of(learner: Learner, config: TrainConfig, done: int = 0) -> Iterator[EpochResult]:
    train, steps = easy_batches()
    torch.manual_seed(7)
    fixed = easy_batches()[0]()
    return fit(learner, config, train, steps, lambda: fixed, 0, done)


def numbers(results: list[EpochResult]) -> list[tuple[object, ...]]:
    return [(one.epoch, one.train_loss, one.val_loss, one.val_accuracy, one.learning_rate) for one in results]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle", "plateau"])
def test_going_on_gives_the_same_bits(tmp_path: Path, optimizer: str, schedule: str) -> None:
    config = TrainConfig(epochs=7, learning_rate=0.01, optimizer=optimizer, schedule=schedule)  # type: ignore[arg-type]
    whole = learner_of(config)
    expected = list(epochs_of(whole, config))
    cut = learner_of(config)
    behind = list(itertools.islice(epochs_of(cut, config), 4))
    Checkpoints(tmp_path, "me", 0).after_epoch(cut, behind)
    resumed = learner_of(config, seed=9)  # other weights: all of them must come from the file
    found = Checkpoints(tmp_path, "me", 0).restore(resumed)
    assert found == behind
    assert numbers([*found, *epochs_of(resumed, config, 4)]) == numbers(expected)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def two_checkpoints(folder: Path) -> tuple[TrainConfig, list[EpochResult]]:
    """One after epoch 1 and one after epoch 2, as a kill between writing and removing leaves them."""
    config = TrainConfig(epochs=3, learning_rate=0.01)
    learner = learner_of(config)
    results: list[EpochResult] = []
    for result in itertools.islice(epochs_of(learner, config), 2):
        results.append(result)
        checkpoint.write(folder / str(result.epoch), "me", learner.state(), results)
    for part in ("1", "2"):
        for file in (folder / part).iterdir():
            shutil.move(file, folder)
        (folder / part).rmdir()
    return config, results


@pytest.mark.parametrize("damage", ["torn", "altered", "empty", "renamed"])
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    config, results = two_checkpoints(tmp_path)
    newest = max(tmp_path.iterdir())
    content = newest.read_bytes()
    if damage == "torn":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        newest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.rename(newest.with_name(f"epoch-000002-{'0' * 64}.safetensors"))
    assert Checkpoints(tmp_path, "me", 0).restore(learner_of(config)) == results[:1]


def test_a_foreign_one_is_not_used(tmp_path: Path) -> None:
    config, results = two_checkpoints(tmp_path)
    assert Checkpoints(tmp_path, "somebody else", 0).restore(learner_of(config)) == []
    assert Checkpoints(tmp_path, "me", 0).restore(learner_of(config)) == results
    assert Checkpoints(tmp_path / "nowhere", "me", 0).restore(learner_of(config)) == []


def test_the_one_before_goes_only_when_the_new_one_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(epochs=3, learning_rate=0.01)
    learner = learner_of(config)
    results = list(itertools.islice(epochs_of(learner, config), 2))
    checkpoint.write(tmp_path, "me", learner.state(), results[:1])
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", fails)  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="Input/output error"):
            checkpoint.write(tmp_path, "me", learner.state(), results)
    assert len(Checkpoints(tmp_path, "me", 0).restore(learner_of(config))) == 1
    checkpoint.write(tmp_path, "me", learner.state(), results)
    assert [file.name[:12] for file in tmp_path.iterdir()] == ["epoch-000002"]


def fails(handle: int) -> None:
    raise OSError(5, "Input/output error")


def test_slow_writing_makes_them_rarer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes 3 seconds gets a checkpoint every 150, not every 30; a fast one every 30."""
    for cost, expected in ((3.0, 150), (0.1, 30)):
        clock = [0.0]
        written: list[float] = []

        def slow(*_: object, clock: list[float] = clock, written: list[float] = written, cost: float = cost) -> None:
            written.append(clock[0])
            clock[0] += cost

        monkeypatch.setattr(checkpoint.time, "monotonic", lambda clock=clock: clock[0])  # type: ignore[attr-defined]
        monkeypatch.setattr(checkpoint, "write", slow)
        keeper = Checkpoints(tmp_path, "me", 30)
        learner = learner_of(TrainConfig(epochs=1, learning_rate=0.01))
        while clock[0] < 1000:
            clock[0] += 1
            keeper.after_epoch(learner, [])
        assert written[0] == 30
        gaps = [later - earlier - cost for earlier, later in itertools.pairwise(written)]
        assert all(expected - 1e-6 < gap < expected + 1.01 for gap in gaps)


def test_a_trial_goes_on_from_its_checkpoint(
    tiny: Callable[..., StudyConfig], workspace: Callable[..., Workspace], tmp_path: Path, monkeypatch: Any
) -> None:
    """Three epochs behind: the next worker trains only the fourth, and nothing is left of the files."""
    work = workspace(tiny(trials=1, pruner="none", checkpoint_seconds=0))

    def opened() -> OpenStudy:
        return open_work(work, f"sqlite:///{tmp_path}/optuna.db")

    news = search(opened(), objective(work))
    for _ in range(1 + 3):  # its beginning, and three epochs
        next(news)
    news.close()  # type: ignore[attr-defined]
    begun: list[int] = []
    original = training.fit

    def counting(*arguments: Any) -> Iterator[EpochResult]:
        for result in original(*arguments):
            begun.append(result.epoch)
            yield result

    monkeypatch.setattr(training, "fit", counting)
    study = opened()
    list(search(study, objective(work)))
    assert begun == [4]
    trial = study.study.trials[0]
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4]
    assert "replay_differs" not in trial.user_attrs
    assert list((work.folder / "checkpoints").iterdir()) == []


def test_a_full_disk_costs_the_checkpoint_and_not_the_trial(
    tiny: Callable[..., StudyConfig],
    workspace: Callable[..., Workspace],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A real file system of 4 kB below runs/s/checkpoints."""
    work = workspace(tiny(trials=2, checkpoint_seconds=0))
    place = work.folder / "checkpoints"
    place.mkdir(parents=True)
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=4k", "tmpfs", place], check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        study = open_work(work, f"sqlite:///{tmp_path}/optuna.db")
        with caplog.at_level(logging.WARNING):
            list(search(study, objective(work)))
    finally:
        subprocess.run(["umount", place], check=True)
    assert all(trial.state.is_finished() for trial in study.study.trials)
    assert "no checkpoint was written (No space left on device); the training goes on without" in caplog.text


def test_a_rate_that_lies_on_the_device_is_kept_as_a_number(tmp_path: Path) -> None:
    """On CUDA the learning rate is a tensor, which the schedule remembers too."""
    config = TrainConfig(epochs=4, learning_rate=0.01, schedule="plateau")
    learner = make_learner(build_cnn(SMALL), config)
    for group in learner.optimizer.param_groups:
        group["lr"] = torch.tensor(0.01)
    for loss in (1.0, *[2.0] * 4):
        learner.plateau.step(loss)
    tensors, fields = learner.state()
    assert json.loads(json.dumps(fields)) == fields
    assert fields["rates"] == pytest.approx([0.005])
    other = make_learner(build_cnn(SMALL), config)
    other.load(tensors, fields)
    assert other.rates == fields["rates"]
