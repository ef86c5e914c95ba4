"""What this program writes into a study and its trials beside Optuna's own: the names, and why a trial ended."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from pydantic import JsonValue, TypeAdapter, ValidationError

from study import StudyError

# Of studies.
IDENTITY = "identity"  # of the study, also written into its folder
CONTRACT = "contract"  # what may not change
CONFIG = "config"  # the whole configuration as last given, so that `resume` needs only the name
OPENINGS = "openings"  # when the test was opened, and for which weights
CONFIRMED = "confirmed"  # what the best trials reached when they were trained anew
MODELS = "models"  # the model folders that were written, with their scores
ASKED = "asked"  # the fields as they were given, where some were left to a plan
PLANNED = "planned"  # seconds of each stage, as they were expected
STAGES = "stages"  # what the clock said when each stage ended
PRETRAINED = "pretrained"  # how many pixels the pretrained rival sees, fixed before the test part is opened
FINAL_STAGE = "final_stage"  # what the stage after the search does, fixed before its first epoch
FOUND_BY = "groups_found_by"  # the version that found the groups from pixels
THREADS = "threads"  # of a process, decided when the study was begun: numbers depend on it
CLOCK = "clock"  # seconds of work, and the process that adds to them

# Of trials.
BASELINE = "baseline"  # enqueued by the configuration instead of drawn
BRACKET = "bracket"  # of Hyperband
LEAKY = "leaky"  # the parts share sources
VERSIONS = "versions"  # what exact numbers depend on besides the configuration
NUM_PARAMS = "num_params"
SECONDS = "seconds"  # of training and validation
EPOCH_SECONDS = "epoch_seconds"  # mean
IMAGES_PER_SECOND = "images_per_second"
BEST_ACCURACY = "best_accuracy"  # highest value of any epoch
BEST_EPOCH = "best_epoch"
TRAIN_ACCURACY = "train_accuracy"  # in the last epoch
MICRO_BATCH = "micro_batch"  # the batch did not fit: its gradient was added up from parts
REPLAY_DIFFERS = "replay_differs"  # another machine or version trained an epoch again, with another result
WHY = "why"  # a code
PRUNED_BECAUSE = "pruned_because"  # the sentence beside it
FAILED_BECAUSE = "failed_because"  # the same of a trial that does not count

Why = Literal["not_promoted", "diverged", "out_of_memory", "worker_died", "above_limit", "not_of_this_study"]
"""Why a trial ended before its last epoch."""

INFEASIBLE: tuple[Why, ...] = ("diverged", "out_of_memory", "worker_died")
"""It could not be trained at all."""

_CODES: dict[str, Why] = {code: code for code in get_args(Why)}

_BEGINNINGS: dict[str, Why] = {
    "not among the best": "not_promoted",
    "diverged": "diverged",
    "out of memory": "out_of_memory",
    "its worker died": "worker_died",
}
"""How the sentences of versions without a code begin."""


@dataclass(frozen=True)
class Reason:
    """Why a trial ended: a code for programs and a sentence for people."""

    code: Why
    sentence: str


def why(attributes: Mapping[str, JsonValue]) -> Why | None:
    """The code in a trial's attributes; of versions that had none, what their sentence meant."""
    if code := _CODES.get(str(attributes.get(WHY))):
        return code
    sentence = str(attributes.get(PRUNED_BECAUSE, ""))
    return next((one for beginning, one in _BEGINNINGS.items() if sentence.startswith(beginning)), None)


def kept(attributes: Mapping[str, Any], key: str, kind: Any) -> Any:
    """An attribute of a study, as `kind`; None where it has none.

    Raises StudyError where another program has put something else there.
    """
    if key not in attributes:
        return None
    try:
        return _reader(kind).validate_python(attributes[key])
    except ValidationError as error:
        raise StudyError(
            f"the study's attribute {key!r} cannot be read: another program has changed it ({error.errors()[0]['msg']})"
        ) from error


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def number(attributes: Mapping[str, Any], key: str) -> float | None:
    """A finite number among the attributes of a trial; None where there is none, whatever stands in its place."""
    found = attributes.get(key)
    try:
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else None
    except OverflowError:
        return None
