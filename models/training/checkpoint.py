"""A training on disk: written whole or not at all, found again only when it is the very same training.

The file's name carries the epoch and the hash of its content, so a torn or altered file is known before it is read,
and the one before it stays until the new one is safe.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from models import files
from models.training.learner import Learner, State
from models.training.loop import EpochResult

UNUSABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError)

COST = 0.02
"""Largest share of the training time that may go into writing checkpoints."""


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    `identity` says which training it is; a file with another one is never used. After an epoch a file is written when
    `seconds` have passed since the last, or longer where writing is so slow that it would take more than 2 % of the
    time. 0 seconds: after every epoch, whatever it costs.

    Leaving `with` says that the training has ended, and nothing will go on from here; but when a signal ends it, the
    last whole epoch is written, due or not.
    """

    def __init__(self, folder: Path, identity: str, seconds: float) -> None:
        self._folder = folder
        self._identity = identity
        self._seconds = seconds
        self._cost = 0.0  # seconds that the last one took
        self._last = time.monotonic()
        self._unwritten: tuple[State, list[EpochResult]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.remove()
        elif issubclass(kind, KeyboardInterrupt) and self._unwritten:
            with suppress(OSError):  # then those epochs are trained again
                write(self._folder, self._identity, *self._unwritten)

    def restore(self, learner: Learner) -> list[EpochResult]:
        """Put the newest good checkpoint into the learner; returns the results of its epochs, [] when there is none."""
        for file in sorted(self._folder.glob("epoch-*.safetensors"), reverse=True):
            try:
                tensors, fields = _read(file)
                if fields["identity"] != self._identity:
                    continue
                results = [EpochResult(**result) for result in fields["results"]]
            except UNUSABLE:
                continue  # torn, altered or foreign: the one before it, or a replay from the first epoch
            tensors_before, state_before = _copied(learner.state())
            try:
                learner.load(tensors, fields["state"])
                return results
            except UNUSABLE:  # half of it may be loaded by now
                learner.load(tensors_before, state_before)
        return []

    def after_epoch(self, learner: Learner, results: Sequence[EpochResult]) -> None:
        """Write a checkpoint when one is due, else keep one in memory. Raises OSError when the disk refuses it."""
        wait = max(self._seconds, self._cost / COST) if self._seconds else 0.0
        if time.monotonic() - self._last < wait:
            try:
                self._unwritten = _copied(learner.state()), list(results)
            except RuntimeError:  # no memory for a copy: a signal costs what a kill costs
                self._unwritten = None
            return
        start = time.monotonic()
        self._unwritten = None
        try:
            write(self._folder, self._identity, learner.state(), results)
        finally:  # an attempt that failed took its time too
            self._last = time.monotonic()
            self._cost = self._last - start

    def remove(self) -> None:
        """The training has ended: nothing will go on from here."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _copied(learned: State) -> State:
    """A copy of a state that training does not change, beside it on the device."""
    tensors, state = learned
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}, state


def write(folder: Path, identity: str, learned: State, results: Sequence[EpochResult]) -> None:
    """Write beside, flush, rename, and only then remove what came before."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors, state = learned
    fields = {"identity": identity, "results": [asdict(result) for result in results], "state": state}
    content = save(
        {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, {"training": json.dumps(fields)}
    )
    name = f"epoch-{len(results):06d}-{hashlib.sha256(content).hexdigest()}.safetensors"
    files.write(folder / name, content)
    for file in folder.glob("epoch-*"):  # what a kill cut off too
        if file.name != name:
            file.unlink(missing_ok=True)


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and fields of a checkpoint; ValueError when the content is not what the name says."""
    content = file.read_bytes()
    named = re.fullmatch(r"epoch-\d+-([0-9a-f]{64})", file.stem)
    if named is None or hashlib.sha256(content).hexdigest() != named[1]:
        raise ValueError(f"{file} is torn or altered")
    length = int.from_bytes(content[:8], "little")
    fields: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["training"])
    with torch.no_grad():
        return load(content), fields
