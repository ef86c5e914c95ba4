"""Export of a network to files that run without this project: a torch.export program and an ONNX model.

The exported files are compared with the network and timed.
"""

import io
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.export import ExportedProgram

from models.bundle.card import ExportedFile, Speed

Images = NDArray[np.uint8]
Run = Callable[[Images], NDArray[np.float32]]
"""A function from uint8 images [N, S, S, 3] to probabilities [N, K]."""

OPSET = 18
"""ONNX operator set version: new enough for the exporter, old enough for onnxruntime since 1.18 (2024)."""

BATCHES = (1, 16, 64)
"""Batch sizes that are timed."""
SECONDS = 0.05
"""Seconds for which each batch size is timed."""
TOO_LONG = 0.1
"""Seconds; if one batch takes longer, larger batches are not timed."""


@contextmanager
def without_lines() -> Iterator[None]:
    """Leave stack traces out of the nodes of a graph: they take half of an export's time, and reveal our folders."""
    before, fx.config.do_not_emit_stack_traces = fx.config.do_not_emit_stack_traces, True
    try:
        yield
    finally:
        fx.config.do_not_emit_stack_traces = before


def program(predictor: nn.Module, image_size: int) -> ExportedProgram:
    """Trace a predictor (uint8 [N, S, S, 3] -> probabilities [N, K], on the CPU, in eval mode) for any N."""
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    with torch.no_grad(), without_lines():  # with gradients, the frozen layers would become a separate graph
        return torch.export.export(predictor, (example,), dynamic_shapes=({0: batch},), strict=False)


def program_bytes(exported: ExportedProgram) -> bytes:
    """Return the content of a .pt2 file."""
    file = io.BytesIO()
    torch.export.save(exported, file)
    return file.getvalue()


def onnx_bytes(exported: ExportedProgram) -> bytes:
    """Return the content of an .onnx file with input `images` and output `probabilities`; the first axis of both is
    named batch."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with without_lines():
        converted = torch.onnx.export(
            exported,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
    assert converted is not None
    content: bytes = converted.model_proto.SerializeToString()
    return content


def run_module(module: nn.Module) -> Run:
    """Return a function on arrays that runs a predictor, or the module of an exported program."""

    def run(images: Images) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images)).numpy())

    return run


def run_program(content: bytes) -> Run:
    """Load the content of a .pt2 file with torch and return a function on arrays that runs it."""
    return run_module(torch.export.load(io.BytesIO(content)).module())


def run_onnx(content: bytes) -> Run:
    """Load the content of an .onnx file in onnxruntime, with as many threads as torch has, and return a function on
    arrays that runs it."""
    import onnxruntime  # imported late, like the exporter: needed once, at the end of a study

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Images) -> NDArray[np.float32]:
        return np.asarray(session.run(None, {"images": images})[0])

    return run


def speed(run: Run, images: Images) -> list[Speed]:
    """Measure latency and throughput by batch size: the median of the runs within SECONDS, after a warm-up run."""
    rows = []
    for size in BATCHES:
        batch = np.resize(images, (size, *images.shape[1:]))
        seconds = _median_seconds(run, batch)
        rows.append(
            Speed(batch=size, milliseconds=round(1000 * seconds, 3), images_per_second=round(size / seconds, 1))
        )
        if seconds > TOO_LONG:
            break
    return rows


def milliseconds(run: Run, side: int) -> float:
    """Time one image of side x side pixels on the processor, in milliseconds; it does not depend on the weights."""
    return round(1000 * _median_seconds(run, np.zeros((1, side, side, 3), np.uint8)), 3)


def _median_seconds(run: Run, batch: Images) -> float:
    run(batch)
    taken: list[float] = []
    while sum(taken) < SECONDS:
        start = time.perf_counter()
        run(batch)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def compare(run: Run, expected: NDArray[np.float32], images: Images) -> float:
    """Return the largest difference of any probability from `expected`, which the trained network gives in full
    precision."""
    return float(np.abs(run(images) - expected).max(initial=0.0))


def card_entry(run: Run, expected: NDArray[np.float32], images: Images, *, timed: bool = True) -> ExportedFile:
    """Compare and, if `timed`, time an exported file; return the entry for the card."""
    return ExportedFile(max_difference=compare(run, expected, images), speed_cpu=speed(run, images) if timed else [])
