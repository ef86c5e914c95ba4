"""Too large for the memory: batches are halved, single images refused, and the study goes on."""

import copy
import re
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import memory
from models.architecture import Block, CNNConfig, plain_blocks
from models.cnn import build_cnn
from models.memory import OutOfMemoryError, activation_bytes, total_bytes, training_bytes
from models.scores.evaluation import predict_logits
from models.training import step as step_of_training
from models.training.learner import make_learner
from models.training.loop import fit
from models.training.recipe import TrainConfig
from models.training.step import Batch
from study.config.schema import StudyConfig
from study.search.trial import objective
from study.search.worker import search
from study.training import start as training
from study.training.workspace import Workspace
from tests.conftest import open_config
from tests.models.test_training import SMALL

MakeWork = Callable[..., Workspace]
MakeConfig = Callable[..., StudyConfig]


class MemoryLimit:
    """No more than so many bytes of address space beyond what is used now."""

    def __init__(self, count: int) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        self._limit = used + count

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (self._limit, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)


def wide(**changes: object) -> CNNConfig:
    fields = {
        "image_size": 128,
        "blocks": plain_blocks((64,), (3,)),
        "batch_norm": False,
        "conv_dropout": 0.0,
        "dense_dropout": 0.0,
    }
    return CNNConfig(**{**vars(SMALL), "dense_units": (), **fields, **changes})  # type: ignore[arg-type]


def one_batch(size: int, pixels: int = 128) -> Callable[[], Iterator[Batch]]:
    def batches() -> Iterator[Batch]:
        torch.manual_seed(3)
        yield torch.randn(size, 3, pixels, pixels), torch.randint(0, 2, (size,))

    return batches


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_trained_in_parts_with_the_same_gradient() -> None:
    torch.manual_seed(0)
    whole = build_cnn(wide())
    parts = copy.deepcopy(whole)
    recipe = TrainConfig(epochs=1, learning_rate=0.01, optimizer="sgd")
    learner, halved = make_learner(whole, recipe), make_learner(parts, recipe)
    (first,) = fit(learner, recipe, one_batch(128), 1, one_batch(128), 0)
    with MemoryLimit(900 * 2**20):  # the whole batch leaves more than that behind
        (second,) = fit(halved, recipe, one_batch(128), 1, one_batch(128), 0)
    assert learner.micro_batch is None
    assert halved.micro_batch in (16, 32, 64)
    assert halved.state()[1]["micro_batch"] == halved.micro_batch
    assert second.train_loss == pytest.approx(first.train_loss, rel=1e-5)
    assert (second.train_accuracy, second.images) == (first.train_accuracy, first.images)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_single_image_that_does_not_fit_ends_the_training() -> None:
    recipe = TrainConfig(epochs=1, learning_rate=0.01)
    learner = make_learner(
        build_cnn(wide(image_size=2048, blocks=plain_blocks((512,), (3,)))), recipe
    )  # 8 GB of activations
    with MemoryLimit(3 * 2**30), pytest.raises(OutOfMemoryError, match="a single image"):
        next(fit(learner, recipe, one_batch(2, 2048), 1, None, 0))


@pytest.mark.parametrize(
    "words",
    [
        "GET was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "MPS backend out of memory (MPS allocated: 1 GB)",
        "[enforce fail at alloc_cpu.cpp:128] data. DefaultCPUAllocator: can't allocate memory: you tried",
    ],
)
def test_whatever_torch_says_of_memory_is_out_of_memory(words: str) -> None:
    """A batch is halved until it fits; of a single image the words stay, for they may mean something else."""
    assert memory.is_out_of_memory(RuntimeError(words))
    learner = make_learner(build_cnn(SMALL), TrainConfig(epochs=1, learning_rate=0.01))
    tried: list[int] = []

    def work(images: int) -> Tensor:
        tried.append(images)
        if images > fits:
            raise RuntimeError(words)
        return torch.ones(2)

    fits = 3
    step_of_training.fitting(learner, torch.zeros(16, 3, 8, 8), work, "micro_batch")
    assert (tried, learner.micro_batch) == ([16, 8, 4, 2], 2)
    fits = 0
    with pytest.raises(OutOfMemoryError, match=re.escape(words.splitlines()[0])):
        step_of_training.fitting(learner, torch.zeros(16, 3, 8, 8), work, "micro_batch")
    assert not memory.is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_what_an_optimiser_half_made_is_made_anew() -> None:
    """Memory that ends between Adam's two moments: torch would take the state for whole."""
    config = TrainConfig(epochs=1, learning_rate=0.01)
    learner, whole = make_learner(build_cnn(SMALL), config), make_learner(build_cnn(SMALL), config)
    whole.model.load_state_dict(learner.model.state_dict())
    x, y = torch.rand(16, 3, SMALL.image_size, SMALL.image_size), torch.arange(16) % SMALL.num_classes
    tried: list[int] = []

    def work(images: int) -> Tensor:
        tried.append(images)
        if len(tried) == 1:
            learner.optimizer.state[next(learner.model.parameters())]["step"] = torch.tensor(0.0)
            raise torch.OutOfMemoryError("CUDA out of memory")
        torch.manual_seed(0)
        return step_of_training.train_step(learner, config, x, y, images)

    step_of_training.fitting(learner, x, work, "micro_batch")
    assert tried == [16, 8]
    torch.manual_seed(0)
    step_of_training.train_step(whole, config, x, y, 8)
    for one, other in zip(learner.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


class Few(nn.Module):
    """A network for five images at once at most."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.layer(images.flatten(1))  # type: ignore[no-any-return]


def test_scoring_takes_as_many_images_as_fit() -> None:
    images, network = torch.rand(40, 3, 2, 2), Few()
    found = predict_logits(network, [(part, torch.zeros(len(part))) for part in torch.split(images, 16)])
    with torch.inference_mode():
        expected = torch.cat([network(part) for part in torch.split(images, 4)])
    assert torch.equal(torch.from_numpy(found).float(), expected)


def test_a_lack_of_memory_beside_the_steps_is_told_as_such() -> None:
    def batches() -> Iterator[Batch]:
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    config = TrainConfig(epochs=1, learning_rate=0.01)
    with pytest.raises(OutOfMemoryError, match="the device does not hold a batch of images"):
        list(fit(make_learner(build_cnn(SMALL), config), config, batches, 2, None, seed=0))


@pytest.mark.parametrize(
    ("batch_norm", "blocks"),
    [
        (False, plain_blocks((16, 32), (3, 3))),
        (True, plain_blocks((16, 32), (3, 3))),
        (True, (Block(kind="residual", filters=16, stride=2), Block(kind="residual", filters=32))),
    ],
)
def test_the_estimate_is_what_autograd_keeps(batch_norm: bool, blocks: tuple[Block, ...]) -> None:
    config = wide(blocks=blocks, batch_norm=batch_norm, image_size=64)
    model = build_cnn(config)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.randn(8, 3, 64, 64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(images).sum()
    assert 0.97 * sum(kept.values()) < 8 * activation_bytes(config, 4) <= sum(kept.values())
    del loss


def test_the_weights_count_without_being_made() -> None:
    config = wide(dense_units=(100_000, 100_000))
    assert training_bytes(config, 1, 4) > 16 * 10**10
    assert sys.getsizeof(config) < 1000


def test_the_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    line = Path("/proc/self/cgroup").read_text().splitlines()[-1]
    _, kinds, place = line.split(":", 2)
    folder = (tmp_path / "memory" if kinds else tmp_path) / place.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("memory.limit_in_bytes" if kinds else "memory.max")).write_text(f"{2**30}\n")
    assert min(memory._limits(tmp_path)) == 2**30
    (folder / "memory.max").write_text("max\n")
    assert 2**28 < total_bytes(torch.device("cpu")) < 2**45


def test_a_network_larger_than_the_memory_is_pruned_unbuilt_and_told_to_the_sampler(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path
) -> None:
    space = {"dense_units": ["99999-99999", "8"], "num_conv_blocks": 1, "learning_rate": 0.01}
    config = tiny(space=space, trials=6, epochs=2)
    study = open_config(f"sqlite:///{tmp_path}/optuna.db", config)
    with MemoryLimit(8 * 2**30):
        list(search(study, objective(workspace(config))))
    large = [trial for trial in study.own_trials() if trial.params["dense_units"] != "8"]
    assert large
    assert len(study.own_trials()) == 6
    for trial in large:
        assert trial.state.name == "PRUNED"
        assert "out of memory: the network needs at least 14" in trial.user_attrs["pruned_because"]  # 149 GB


def test_what_the_allocator_refuses_is_pruned_too(
    tiny: MakeConfig, workspace: MakeWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that others have taken meanwhile: the machine is large enough, and yet there is none."""
    monkeypatch.setattr(training, "total_bytes", lambda device: 2**60)
    space = {"dense_units": ["99999-99999", "8"], "num_conv_blocks": 1, "learning_rate": 0.01}
    config = tiny(space=space, trials=6, epochs=2)
    study = open_config(f"sqlite:///{tmp_path}/optuna.db", config)
    with MemoryLimit(8 * 2**30):
        list(search(study, objective(workspace(config))))
    reasons = {trial.user_attrs.get("pruned_because") for trial in study.own_trials()}
    assert "out of memory: the device does not hold the network" in reasons
    assert len(study.own_trials()) == 6
