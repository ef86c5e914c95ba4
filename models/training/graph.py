"""The steps of a training; on CUDA replayed as one graph, where the processor would take longer to ask for them.

A step of a small network is some 200 short pieces of work, which a processor asks for one by one: on an H100, with 16
images, 4 ms for what is done in 1 ms (BENCHMARKS.md, "On an H100").
"""

import logging

import torch
from torch import Tensor

from models.memory import in_words
from models.training.learner import SHARE, Learner
from models.training.recipe import TrainConfig
from models.training.step import fitting, train_step

WARM = 3
"""Steps before the graph, in which cuDNN and the optimiser make what they keep."""

AHEAD = 16
"""Steps that are asked for before the GPU has done the last ones, so that a training ends soon after it is told to."""

logger = logging.getLogger(__name__)


class Steps:
    """The steps of one training, of one optimiser each, with the same results on a device whichever way they are run.

    On CUDA the first few run one by one; then, where memory is left, a step on a batch of that size becomes a graph.
    Batches of another size, and batches in parts because memory was short, run one by one. Random numbers are drawn
    from the device's generator in the same order.
    """

    def __init__(self, learner: Learner, config: TrainConfig) -> None:
        self._learner, self._config = learner, config
        self._device = next(learner.model.parameters()).device
        self._graph: _Graph | None = None
        self._warm = WARM if self._device.type == "cuda" else -1  # steps until the graph; -1: there will be none
        self._needed = 0  # bytes of a step
        if self._device.type == "cuda":
            self._rate_on_device()

    def _rate_on_device(self) -> None:
        """A graph keeps numbers as they were; a tensor it reads anew."""
        for group in self._learner.optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=self._device)
            if "capturable" in group:
                group["capturable"] = True

    def set_rate(self, rate: float) -> None:
        """The learning rate from the next step on; groups that have a share of it get that."""
        for group in self._learner.optimizer.param_groups:
            mine = rate * group.get(SHARE, 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(mine)
            else:
                group["lr"] = mine

    def take(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on a batch; returns the sums of loss and hits. Raises OutOfMemoryError."""
        if self._learner.micro_batch is not None:
            self.release()
        elif self._warm == 0:
            self._warm = -1
            self._graph = _captured(self._learner, self._config, x, y, self._needed)
        if self._graph and self._graph.fits(x):
            return self._graph.replay(x, y)
        if self._warm > 0:
            return self._warming(x, y)
        return self._plain(x, y)

    def _plain(self, x: Tensor, y: Tensor) -> Tensor:
        return fitting(self._learner, x, lambda micro: train_step(self._learner, self._config, x, y, micro))

    def _warming(self, x: Tensor, y: Tensor) -> Tensor:
        """A step on a stream of its own, as the graph will be captured on one; notes what memory it takes."""
        self._warm -= 1
        here, beside = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        beside.wait_stream(here)
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        with torch.cuda.stream(beside):
            sums = self._plain(x, y)
        here.wait_stream(beside)
        self._needed = torch.cuda.max_memory_allocated(self._device) - before
        return sums

    def release(self) -> None:
        """Give back the graph's memory, the gradients with it."""
        self._warm = -1
        if self._graph:
            self._graph = None
            self._learner.optimizer.zero_grad(set_to_none=True)


class _Graph:
    """A captured step, the batch that it reads and the sums that it writes."""

    def __init__(self, graph: torch.cuda.CUDAGraph, x: Tensor, y: Tensor, sums: Tensor) -> None:
        self._graph, self._x, self._y, self._sums = graph, x, y, sums
        self._done, self._count = torch.cuda.Event(), 0  # type: ignore[no-untyped-call]

    def fits(self, x: Tensor) -> bool:
        """Whether a batch has the size of the one that was captured."""
        return x.shape == self._x.shape

    def replay(self, x: Tensor, y: Tensor) -> Tensor:
        """The step on another batch."""
        self._x.copy_(x)
        self._y.copy_(y)
        self._graph.replay()
        self._count += 1
        if self._count % AHEAD == 0:
            self._done.synchronize()
            self._done.record()
        return self._sums.clone()


def _captured(learner: Learner, config: TrainConfig, x: Tensor, y: Tensor, needed: int) -> _Graph | None:
    """The step as a graph; None, and a line in the log, where there is no memory for it beside everything else."""
    device = x.device
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    left = torch.cuda.mem_get_info(device)[0] + cached
    if 2 * needed > left:
        logger.debug(f"steps run one by one: each takes {in_words(needed)}, {in_words(left)} are left")
        return None
    images, labels = x.clone(memory_format=torch.preserve_format), y.clone()
    graph = torch.cuda.CUDAGraph()
    try:
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device), torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
            sums = train_step(learner, config, images, labels, len(images))
        return _Graph(graph, images, labels, sums)
    except RuntimeError as error:  # memory that another process took meanwhile, or what this driver cannot capture
        logger.warning(f"steps run one by one, which may be slower ({str(error).splitlines()[0]})")
    learner.optimizer.zero_grad(set_to_none=True)  # outside the exception, which keeps the tensors alive
    torch.cuda.empty_cache()
    return None
