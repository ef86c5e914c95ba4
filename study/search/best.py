"""What the best network so far takes for what on val: kept in a file, for whoever looks at a running study."""

import io
import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from models import files
from models.memory import is_out_of_memory
from models.scores.calibration import softmax
from models.scores.evaluation import predict_logits
from study.search.open_study import OpenStudy
from study.training.mistakes import Mistake, confusion_of, worst_mistakes
from study.training.workspace import Workspace

FILE = "best.npz"
MISTAKES = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Best:
    """Of the trial that was the best complete one when it ended."""

    trial: int
    classes: list[str]
    confusion: NDArray[np.int64]  # [K, K] images of val; rows: true class
    mistakes: list[Mistake]  # the surest first


def best_of(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial with the highest value, the earliest of equals; None before there is one."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


def keep_if_best(study: OpenStudy, work: Workspace, number: int, value: float, model: nn.Module) -> None:
    """Keep what a network that ends with `value` takes for what, where no complete trial is as good.

    It is for looking at only: where there is no room for it, on the device or the disk, the log says so.
    """
    before = best_of(study.own_trials())
    if before is not None and before.number != number and (before.value or 0.0) >= value:
        return
    try:
        probabilities = softmax(predict_logits(model, work.eval_batches("val")))
        mistakes = worst_mistakes(work, "val", probabilities, MISTAKES)
        kept = Best(
            trial=number,
            classes=list(work.dataset.classes),
            confusion=confusion_of(work, "val", probabilities),
            mistakes=mistakes,
        )
        files.write(work.folder / FILE, _packed(kept))
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        logger.warning(f"what trial {number} takes for what was not kept ({error})")


def _packed(best: Best) -> bytes:
    names = ("path", "true", "predicted")
    words = {name: np.array([getattr(one, name) for one in best.mistakes], dtype=np.str_) for name in names}
    content = io.BytesIO()
    np.savez(
        content,
        trial=np.array(best.trial),
        classes=np.array(best.classes, dtype=np.str_),
        confusion=best.confusion,
        probability=np.array([one.probability for one in best.mistakes]),
        images=np.array([one.image for one in best.mistakes], dtype=np.uint8),
        allow_pickle=False,
        **words,
    )
    return content.getvalue()


def read_best(folder: Path) -> Best | None:
    """What was kept in the folder of a study; None where there is nothing that can be read."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as kept:
            rows = zip(*(kept[name] for name in ("path", "true", "predicted", "probability", "images")), strict=True)
            return Best(
                trial=int(kept["trial"]),
                classes=[str(name) for name in kept["classes"]],
                confusion=kept["confusion"],
                mistakes=[
                    Mistake(str(path), str(true), str(predicted), float(probability), image)
                    for path, true, predicted, probability, image in rows
                ],
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
