"""The steps of a training; on CUDA they are replayed as one graph, because launching them one by one is slow.

A step of a small network consists of some 200 short kernels, which the CPU launches one by one: on an H100, with 16
images, the launches take 4 ms for work of 1 ms (BENCHMARKS.md, "On an H100").
"""

import logging

import torch
from torch import Tensor

from models.memory import in_words
from models.training.learner import SHARE, Learner
from models.training.recipe import TrainConfig
from models.training.step import fitting, train_step

WARM = 3
"""Number of steps before a graph is captured, in which cuDNN and the optimiser set up what they keep."""

AHEAD = 16
"""Number of steps after which the CPU waits until the GPU has done the previous ones, so that a training stops soon
after it is told to."""

logger = logging.getLogger(__name__)


class Steps:
    """Runner of the optimiser steps of a training; a graph does not change the results.

    On CUDA the first few steps run without a graph; then, if memory is left, a step on a batch of that size is captured
    as a graph. Batches of another size, and batches that are split because memory was short, run without a graph.
    Random numbers are drawn from the device's generator in the same order either way.
    """

    def __init__(self, learner: Learner, config: TrainConfig) -> None:
        self._learner, self._config = learner, config
        self._device = next(learner.model.parameters()).device
        self._graph: _Graph | None = None
        self._warm = WARM if self._device.type == "cuda" else -1  # steps until the capture; -1: none will follow
        self._needed = 0  # bytes that a step needs
        if self._device.type == "cuda":
            self._rate_on_device()

    def _rate_on_device(self) -> None:
        """Hold the learning rates in tensors, which a graph reads at each replay; it would not see new numbers."""
        for group in self._learner.optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=self._device)
            if "capturable" in group:
                group["capturable"] = True

    def set_rate(self, rate: float) -> None:
        """Set the learning rate from the next step on, for each parameter group times its share (1 by default)."""
        for group in self._learner.optimizer.param_groups:
            mine = rate * group.get(SHARE, 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(mine)
            else:
                group["lr"] = mine

    def take(self, x: Tensor, y: Tensor) -> Tensor:
        """Make one step on a batch and return the sums of loss and hits. Raises OutOfMemoryError."""
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
        return fitting(
            self._learner, x, lambda micro: train_step(self._learner, self._config, x, y, micro), "micro_batch"
        )

    def _warming(self, x: Tensor, y: Tensor) -> Tensor:
        """Make a step on a separate stream, as the graph will be captured on one, and record the memory it needs."""
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
        """Free the memory of the graph and of the gradients; from now on no graph is used."""
        self._warm = -1
        if self._graph:
            self._graph = None
            self._learner.optimizer.zero_grad(set_to_none=True)


class _Graph:
    """A captured step, with the batch that it reads and the sums that it writes."""

    def __init__(self, graph: torch.cuda.CUDAGraph, x: Tensor, y: Tensor, sums: Tensor) -> None:
        self._graph, self._x, self._y, self._sums = graph, x, y, sums
        self._done, self._count = torch.cuda.Event(), 0  # type: ignore[no-untyped-call]

    def fits(self, x: Tensor) -> bool:
        """Return whether a batch has the size of the captured one."""
        return x.shape == self._x.shape

    def replay(self, x: Tensor, y: Tensor) -> Tensor:
        """Run the step on another batch and return the sums of loss and hits."""
        self._x.copy_(x)
        self._y.copy_(y)
        self._graph.replay()
        self._count += 1
        if self._count % AHEAD == 0:
            self._done.synchronize()
            self._done.record()
        return self._sums.clone()


def _captured(learner: Learner, config: TrainConfig, x: Tensor, y: Tensor, needed: int) -> _Graph | None:
    """Capture a step as a graph; return None and log it if memory is too short, or this driver cannot capture it."""
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
    except RuntimeError as error:  # another process took the memory meanwhile, or the driver cannot capture the step
        logger.warning(f"steps run one by one, which may be slower ({str(error).splitlines()[0]})")
    learner.optimizer.zero_grad(set_to_none=True)  # outside the `except`: the exception keeps the tensors alive
    torch.cuda.empty_cache()
    return None
