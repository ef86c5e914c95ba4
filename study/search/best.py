"""Confusion matrix and mistakes on val of the best network so far, kept in a file to show while a study runs."""

import io
import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from data.images import read_file
from models import files
from models.memory import is_out_of_memory
from models.scores.calibration import softmax
from models.scores.evaluation import predict_logits
from study.attributes import IDENTITY
from study.search.open_study import OpenStudy
from study.search.standing import best_first
from study.storage.owners.locks import BEST, alone
from study.training.mistakes import Mistake, confusion_of, worst_mistakes
from study.training.workspace import Workspace

FILE = "best.npz"
MISTAKES = 16
MOST_BYTES = 1 << 28
"""Largest file that is read, in bytes: far more than MISTAKES pictures take."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Best:
    """Confusion matrix and mistakes on val of a trial that was better than all others when it ended."""

    study: str  # its identity, since the file may be of an older study of the same name
    trial: int
    value: float
    classes: list[str]
    confusion: NDArray[np.int64]  # [K, K] images of val; rows: true class
    mistakes: list[Mistake]  # most confident first


def best_of(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the complete trial with the highest value, the earliest among equals; None before there is one."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return next(iter(best_first(complete)), None)


def keep_if_best(study: OpenStudy, work: Workspace, number: int, value: float, model: nn.Module) -> None:
    """Keep the confusion matrix and mistakes of a network that ends with `value`, if no other trial is better.

    The network predicts in full precision. The file is only for looking at: if the device or the disk has no room
    for it, the log says so.
    """
    if not _is_best(study, number, value):
        return
    try:
        probabilities = softmax(predict_logits(model, work.eval_batches("val")))
        kept = Best(
            study=_identity(study),
            trial=number,
            value=value,
            classes=list(work.dataset.classes),
            confusion=confusion_of(work, "val", probabilities),
            mistakes=worst_mistakes(work, "val", probabilities, MISTAKES),
        )
        with alone(study.storage, work.folder, BEST):  # another worker's trial may end at this moment
            if _is_best(study, number, value):
                files.write(work.folder / FILE, _packed(kept))
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        logger.warning(f"could not save the confusion matrix of trial {number} ({error})")


def _is_best(study: OpenStudy, number: int, value: float) -> bool:
    """Return whether no trial, complete or about to be, has a higher value, or an equal one and a lower number."""
    kept = read_best(study.folder)
    others = [(trial.value or 0.0, trial.number) for trial in [best_of(study.own_trials())] if trial]
    others += [(kept.value, kept.trial)] if kept and kept.study == _identity(study) else []
    return all((value, -number) > (one, -other) for one, other in others if other != number)


def _identity(study: OpenStudy) -> str:
    return study.attribute(IDENTITY, str) or ""


def _packed(best: Best) -> bytes:
    names = ("path", "true", "predicted")
    words = {name: np.array([getattr(one, name) for one in best.mistakes], dtype=np.str_) for name in names}
    content = io.BytesIO()
    np.savez(
        content,
        study=np.array(best.study, dtype=np.str_),
        trial=np.array(best.trial),
        value=np.array(best.value),
        classes=np.array(best.classes, dtype=np.str_),
        confusion=best.confusion,
        probability=np.array([one.probability for one in best.mistakes]),
        images=np.array([one.image for one in best.mistakes], dtype=np.uint8),
        allow_pickle=False,
        **words,
    )
    return content.getvalue()


def read_best(folder: Path) -> Best | None:
    """Read what was kept in the folder of a study; return None if there is nothing that can be read."""
    try:
        content = read_file(folder / FILE, MOST_BYTES)
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            if sum(one.file_size for one in packed.infolist()) > len(content):  # we never compress
                return None
        with np.load(io.BytesIO(content), allow_pickle=False) as kept:
            rows = zip(*(kept[name] for name in ("path", "true", "predicted", "probability", "images")), strict=True)
            return Best(
                study=str(kept["study"]),
                trial=int(kept["trial"]),
                value=float(kept["value"]),
                classes=[str(name) for name in kept["classes"]],
                confusion=kept["confusion"],
                mistakes=[
                    Mistake(str(path), str(true), str(predicted), float(probability), image)
                    for path, true, predicted, probability, image in rows
                ],
            )
    except (OSError, KeyError, ValueError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return None
