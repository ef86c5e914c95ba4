"""Checkpoints of a training on disk: written atomically, and used again only by the very same training.

The name of a checkpoint file holds the epoch and the hash of the content, so a torn or altered file is noticed before
it is used. The previous checkpoint stays until the new one is safely on disk.
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
"""Errors that mean that a checkpoint cannot be used."""

COST = 0.02
"""Largest share of the training time that may be spent on writing checkpoints."""


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    `identity` names the training; a checkpoint with another identity is never used. After an epoch a checkpoint is
    written if at least `seconds` have passed since the last one; the wait is longer if writing is so slow that it would
    take more than 2 % of the time. With 0 seconds a checkpoint is written after every epoch, whatever it costs.

    Use it in a `with` statement. Leaving it normally means that the training has ended, and removes the checkpoints.
    If a signal interrupts the training, the last complete epoch is written, whether it is due or not.
    """

    def __init__(self, folder: Path, identity: str, seconds: float) -> None:
        self._folder = folder
        self._identity = identity
        self._seconds = seconds
        self._cost = 0.0  # seconds that the last checkpoint took to write
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
            with suppress(OSError):  # if writing fails, those epochs are trained again
                write(self._folder, self._identity, *self._unwritten)

    def restore(self, learner: Learner) -> list[EpochResult]:
        """Load the newest usable checkpoint into the learner; return the results of its epochs, [] if there is none."""
        for file in sorted(self._folder.glob("epoch-*.safetensors"), reverse=True):
            try:
                tensors, fields = _read(file)
                if fields["identity"] != self._identity:
                    continue
                results = [EpochResult(**result) for result in fields["results"]]
            except UNUSABLE:
                continue  # torn, altered or foreign: try the one before it, or else train from the first epoch
            tensors_before, state_before = _copied(learner.state())
            try:
                learner.load(tensors, fields["state"])
                return results
            except UNUSABLE:  # the checkpoint may be partly loaded by now
                learner.load(tensors_before, state_before)
        return []

    def after_epoch(self, learner: Learner, results: Sequence[EpochResult]) -> None:
        """Write a checkpoint if one is due, else keep a copy in memory. Raises OSError if it cannot be written."""
        wait = max(self._seconds, self._cost / COST) if self._seconds else 0.0
        if time.monotonic() - self._last < wait:
            try:
                self._unwritten = _copied(learner.state()), list(results)
            except RuntimeError:  # no memory for a copy: after a signal these epochs are lost, as after a kill
                self._unwritten = None
            return
        start = time.monotonic()
        self._unwritten = None
        try:
            write(self._folder, self._identity, learner.state(), results)
        finally:  # a failed attempt took time too
            self._last = time.monotonic()
            self._cost = self._last - start

    def remove(self) -> None:
        """Remove all checkpoints, because the training has ended and will not be continued."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _copied(learned: State) -> State:
    """Return a copy of a state, on the same device, that further training does not change."""
    tensors, state = learned
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}, state


def write(folder: Path, identity: str, learned: State, results: Sequence[EpochResult]) -> None:
    """Write a checkpoint atomically (see models.files.write), and only then remove the earlier ones."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors, state = learned
    fields = {"identity": identity, "results": [asdict(result) for result in results], "state": state}
    content = save(
        {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, {"training": json.dumps(fields)}
    )
    name = f"epoch-{len(results):06d}-{hashlib.sha256(content).hexdigest()}.safetensors"
    files.write(folder / name, content)
    for file in folder.glob("epoch-*"):  # also what was half written when a process was killed
        if file.name != name:
            file.unlink(missing_ok=True)


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and fields of a checkpoint. Raises ValueError if the content does not match the file's name."""
    content = file.read_bytes()
    named = re.fullmatch(r"epoch-\d+-([0-9a-f]{64})", file.stem)
    if named is None or hashlib.sha256(content).hexdigest() != named[1]:
        raise ValueError(f"{file} is torn or altered")
    length = int.from_bytes(content[:8], "little")
    fields: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["training"])
    with torch.no_grad():
        return load(content), fields
