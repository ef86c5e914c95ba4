"""Attributes that this program adds to Optuna's studies and trials: their names, and why a trial ended."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from pydantic import JsonValue, TypeAdapter, ValidationError

from study import StudyError

T = TypeVar("T")

# Attributes of a study.
IDENTITY = "identity"  # identifies the study; also written into its folder
CONTRACT = "contract"  # what defines the study and may not change
CONFIG = "config"  # the whole configuration as last given, so that `resume` needs only the name
OPENINGS = "openings"  # when the test part was opened, and for which weights
CONFIRMED = "confirmed"  # what the best trials reached when they were trained anew
MODELS = "models"  # the model folders that were written, with their scores
ASKED = "asked"  # the fields as they were given, if some were left to a plan ("auto")
PLANNED = "planned"  # the plan, with the seconds expected for each stage
STAGES = "stages"  # what the clock said when each stage ended
PRETRAINED = "pretrained"  # image size of the pretrained rival, fixed before the test part is opened
FINAL_STAGE = "final_stage"  # what the stage after the search does, fixed before its first epoch
FOUND_BY = "groups_found_by"  # the version that found the groups from pixels
THREADS = "threads"  # threads of a process, fixed when the study was begun: results depend on them
CLOCK = "clock"  # seconds of work so far, and the process that adds to them

# Attributes of a trial.
BASELINE = "baseline"  # true for the trial of the configuration's `baseline`
BRACKET = "bracket"  # bracket of Hyperband
LEAKY = "leaky"  # true if the parts may share sources
VERSIONS = "versions"  # what exact results depend on besides the configuration
NUM_PARAMS = "num_params"
SECONDS = "seconds"  # seconds of training and validation
EPOCH_SECONDS = "epoch_seconds"  # mean seconds of an epoch
IMAGES_PER_SECOND = "images_per_second"
BEST_ACCURACY = "best_accuracy"  # highest value of any epoch
BEST_EPOCH = "best_epoch"
TRAIN_ACCURACY = "train_accuracy"  # in the last epoch
MICRO_BATCH = "micro_batch"  # size of the parts of a batch that did not fit: its gradient was accumulated
REPLAY_DIFFERS = "replay_differs"  # another machine or version trained an epoch again, with another result
WHY = "why"  # code of the reason why the trial ended
PRUNED_BECAUSE = "pruned_because"  # sentence for that reason
FAILED_BECAUSE = "failed_because"  # sentence for a trial that does not count

Why = Literal["not_promoted", "diverged", "out_of_memory", "worker_died", "above_limit", "not_of_this_study"]
"""Code of the reason why a trial ended before its last epoch."""

INFEASIBLE: tuple[Why, ...] = ("diverged", "out_of_memory", "worker_died")
"""Reasons that mean that a trial's network cannot be trained here."""

_CODES: dict[str, Why] = {code: code for code in get_args(Why)}

_BEGINNINGS: dict[str, Why] = {
    "not among the best": "not_promoted",
    "diverged": "diverged",
    "out of memory": "out_of_memory",
    "its worker died": "worker_died",
}
"""Beginning of a sentence by a version that wrote no code -> its code."""


@dataclass(frozen=True)
class Reason:
    """Reason why a trial ended: a code for programs and a sentence for people."""

    code: Why
    sentence: str


def why(attributes: Mapping[str, JsonValue]) -> Why | None:
    """Return the code in a trial's attributes; None if there is none.

    For trials of versions that wrote no code, it is read from their sentence.
    """
    if code := _CODES.get(str(attributes.get(WHY))):
        return code
    sentence = str(attributes.get(PRUNED_BECAUSE, ""))
    return next((one for beginning, one in _BEGINNINGS.items() if sentence.startswith(beginning)), None)


def kept(attributes: Mapping[str, object], key: str, kind: type[T]) -> T | None:
    """Return an attribute of a study as `kind`; None if the study has no such attribute.

    Raises StudyError if another program has put something else there.
    """
    if key not in attributes:
        return None
    try:
        if kind not in _READERS:
            _READERS[kind] = TypeAdapter(kind)
        found: T = _READERS[kind].validate_python(attributes[key])
        return found
    except ValidationError as error:
        raise StudyError(
            f"the study's attribute {key!r} cannot be read: another program has changed it ({error.errors()[0]['msg']})"
        ) from error


_READERS: dict[object, TypeAdapter[Any]] = {}
"""Type -> its validator, made once, since that takes a while."""


def number(attributes: Mapping[str, object], key: str) -> float | None:
    """Return a finite number from a trial's attributes; None if there is none, whatever is in its place."""
    found = attributes.get(key)
    try:
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else None
    except OverflowError:
        return None
