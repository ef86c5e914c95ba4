"""Configuration of a study: its fields, validated."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from data.augment import Augment
from data.images import MOST_MEGAPIXELS
from models.architecture import side_after
from models.scores.views import Views
from study import StudyError
from study.config.limit import Limit, cheapest, limit_violation
from study.config.presets import PRESETS
from study.config.rungs import bracket_of, brackets, check_rungs
from study.config.space import (
    PARAMETERS,
    Entry,
    Range,
    Value,
    backbones,
    contains,
    distributions,
    nearest,
    validated,
)

MAY_CHANGE = (
    "preset",
    "data",
    "groups",
    "parts",
    "skip_bad",
    "max_megapixels",
    "trials",
    "hours",
    "workers",
    "checkpoint_seconds",
    "runs",
    "weights",
    "positive",  # this field and the next two concern the report alone
    "leaky_score",
    "pretrained",
)
"""Fields that may differ when a study is continued; everything else defines it.

The images, the parts and the weights of backbones are compared by their content, so that a moved folder, list or file
counts as unchanged.
"""


def _batch_size(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65536):
        return value
    raise ValueError('allowed is a whole number from 1 to 65536, or "auto"')


Rival = Literal["runner-up", "best start", "baseline"]

BatchSize = Annotated[
    int | Literal["auto"],
    BeforeValidator(_batch_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65536}, {"const": "auto"}]}),
]


MOST = 1_000_000
"""Largest number of trials, and of epochs."""


STORED = "stored"
"""Context for validating a stored configuration: it was valid when stored, so no network is built to check it again."""


class StudyConfig(BaseModel):
    """All settings of a study. TOML files, presets and --set use these names."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    preset: str = Field("full", description="where unnamed fields come from: " + ", ".join(PRESETS))
    data: str = Field(
        "digits",
        min_length=1,
        description="digits, tissue, a folder of class folders (perhaps inside train, val and test), or a CSV list "
        "with the columns path and label, perhaps group and part",
    )
    groups: str | None = Field(
        None,
        description="which images share a source: a CSV file, column:NAME (of the list), level:2 (the second folder "
        "of each path), a pattern with (?P<group>...), dicom (by PatientID), auto (from the pixels) or none; by "
        "default groups.csv where the folder has one, else auto",
    )
    labels_from: Literal["first", "last"] = Field(
        "first", description="which folder of a path (inside a part) is the class: first, or last as in patient/class"
    )
    without: tuple[str, ...] = Field((), description="classes that are left out")
    only: str | None = Field(
        None, min_length=1, description="names of the files that are taken, such as *.jpg; all others are left out"
    )
    parts: str | None = Field(
        None,
        description="division of the images into parts: a CSV file (path, part), or none to pass over what folders and "
        "lists say; by default theirs, else the parts are made here",
    )
    allow_leaks: bool = Field(
        False, description="take parts that share sources as they come, and mark every number as leaky"
    )
    protocol: Literal["grouped", "random"] = Field(
        "grouped", description="grouped (no source in two parts), or random: the published, leaky 80/20"
    )
    image_size: int = Field(128, ge=8, le=1024, description="pixels, height and width")
    seed: int = Field(0, ge=0, lt=2**32, description="random seed of the parts, the sampler and all training")
    trials: int | None = Field(None, ge=1, le=MOST, description="total number of trials")
    hours: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="time for everything, from the command to the exported model; a plan refuses too few",
    )
    workers: int = Field(1, ge=1, le=256, description="processes that search at the same time")
    runs: str | None = Field(
        None,
        min_length=1,
        description="folder for the files of studies that all workers see; for PostgreSQL, by default runs/ in the "
        "current one (beside a SQLite database it is always there)",
    )
    epochs: int = Field(27, ge=1, le=MOST, description="epochs a full trial trains")
    min_epochs: int = Field(3, ge=1, le=MOST, description="the first rung: epochs before a trial may be pruned")
    eta: int = Field(3, ge=2, le=MOST, description="one of eta trials is promoted at each rung")
    sampler: Literal["tpe", "random"] = Field("tpe", description="how points are proposed: tpe or random")
    pruner: Literal["hyperband", "none"] = Field("hyperband", description="what ends trials early: hyperband or none")
    metric: Literal["accuracy", "balanced_accuracy"] = Field(
        "accuracy", description="metric on val, reported each epoch: accuracy, or balanced_accuracy (the mean recall)"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: each class counts the same in the loss, however many images it has"
    )
    batch_size: BatchSize = Field(
        64, description="images per step in the search; auto: 16 to 256, such that an epoch has 50 steps"
    )
    rate_batch_size: int | None = Field(
        None,
        ge=1,
        description="learning rates are meant for batches of this size; by default for whatever size is used",
    )
    augment: Augment = Field(Augment(), description="augmentation of training images")
    space: dict[str, Entry] = Field({}, description="what is searched")
    baseline: dict[str, Value] = Field({}, description="a point of the space that is tried first")
    weights: str | None = Field(
        None,
        min_length=1,
        description="a file with the weights of the space's backbone (.safetensors, or a .pth of tensors); by default "
        "what is at hand: a package's, or torchvision's",
    )
    starts: list[dict[str, Value]] = Field([], description="points that are tried next, before any is drawn")
    begin_from: str | None = Field(
        None,
        min_length=1,
        description="an older study whose best points are put before `starts`: its name, or URL#NAME in another "
        "database (--from)",
    )
    near_starts: float = Field(
        0.0, ge=0, le=1, description="share of the first 10 trials that are drawn near a start instead of anywhere"
    )
    prune_starts: bool = Field(
        True, description="prune the starts too; without it each of them is trained to its end, and judges the others"
    )
    limit: Limit = Field(Limit(), description="the largest network that may be proposed")
    confirm: int = Field(
        1,
        ge=1,
        le=100,
        description="how many of the best trials to retrain before choosing; the best of them on val is taken",
    )
    confirm_epochs: int | None = Field(
        None, ge=1, le=MOST, description="epochs of each such training; by default as many as of the final one"
    )
    final_epochs: int = Field(54, ge=1, le=MOST, description="epochs of the final training")
    final_batch_size: BatchSize = Field(64, description="images per step in the final training, or auto")
    final_seeds: int = Field(
        1, ge=1, le=100, description="final trainings; the first is shipped, the others show the spread"
    )
    rivals: tuple[Rival, ...] = Field(
        ("runner-up", "baseline"),
        description="what is trained and scored beside the winner: runner-up, best start (of those that the search "
        "began with, if the winner was drawn), baseline",
    )
    pretrained: bool = Field(
        True, description="score a pretrained network's features with a logistic regression beside the winner"
    )
    tta: Views = Field(
        "none",
        description="views of an image at test time: none, flips (those of augment), or square (also quarter turns)",
    )
    final_data: Literal["train", "train+val"] = Field("train+val", description="images of the final training")
    positive: tuple[str, ...] = Field(
        (), description="classes that are a finding, such as the malignant ones: adds sensitivity and specificity"
    )
    leaky_score: bool = Field(
        False, description="score the architecture on a random 80/20 split too, to compare with published numbers"
    )
    checkpoint_seconds: float = Field(
        30.0,
        ge=0,
        description="seconds of training between two checkpoints of a network; 0: after every epoch",
    )
    max_megapixels: float = Field(
        MOST_MEGAPIXELS,
        gt=0,
        le=1000,
        description="larger images count as unreadable",
    )
    skip_bad: bool = Field(False, description="leave unreadable files out instead of stopping")

    @field_validator("positive", "rivals", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("without", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        """Accept one name without a list, and numbers: a class named 3 looks like one."""
        names = value if isinstance(value, list | tuple) else [value]
        return tuple(str(name) if isinstance(name, int | float) else name for name in names)

    @field_validator("hours", "checkpoint_seconds", "near_starts", "max_megapixels", mode="before")
    @classmethod
    def _whole_hours(cls, value: object) -> object:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check(self, given: ValidationInfo) -> Self:
        if self.trials is None and self.hours is None:
            raise ValueError("a budget is needed: trials, or hours, or both")
        object.__setattr__(self, "space", validated(self.space))  # the model is frozen, and not yet handed out
        if not distributions(self.space):
            raise ValueError("the space has nothing to search: give at least one list or range")
        if self.pruner == "hyperband":
            check_rungs(self.min_epochs, self.epochs, self.eta)
        if self.weights is not None and len(backbones(self.space)) != 1:
            raise ValueError("weights are those of one backbone, and the space names another number of them")
        self._check_depth()
        self._check_schedule()
        if self.protocol == "random" and self.final_data != "train":
            raise ValueError('protocol = "random" scores on val, the only held-out part: set final_data = "train"')
        if self.baseline:
            self._check_point("baseline", self.baseline)
        for number, point in enumerate(self.starts):
            self._check_point(f"starts[{number}]", point)
        if given.context != STORED:
            self._check_limit()
            if not math.isfinite(self.checkpoint_seconds):
                raise ValueError(f"checkpoint_seconds = {self.checkpoint_seconds}: a finite number is needed")
        return self

    def _check_depth(self) -> None:
        shallowest, deepest = self._ends("num_conv_blocks")
        if side_after(self.image_size, (1,) * deepest) < 1:  # the sampler draws again where a stride leaves nothing
            raise ValueError(
                f"image_size {self.image_size} is too small for {deepest} blocks, each of which halves the image: "
                f"at least {1 << deepest} pixels, or num_conv_blocks up to {self.image_size.bit_length() - 1}"
            )
        stride = self._ends("stem_stride")[0]
        if side_after(self.image_size, (stride, *[1] * (shallowest - 1))) < 1:
            raise ValueError(
                f"image_size {self.image_size} is too small for every point of the space: {shallowest} blocks and a "
                f"stem_stride of {stride} leave nothing of it"
            )

    def _ends(self, name: str) -> tuple[int, int]:
        """Return the smallest and the largest value of a whole-numbered parameter."""
        entry = self.space.get(name, PARAMETERS[name].default)
        if isinstance(entry, Range):
            return int(entry.low), int(entry.high)
        values = [int(value) for value in (entry if isinstance(entry, list) else [entry])]
        return min(values), max(values)

    def _check_schedule(self) -> None:
        entry = self.space.get("schedule", PARAMETERS["schedule"].default)
        if "plateau" in (entry if isinstance(entry, list) else [entry]) and self.final_data != "train":
            raise ValueError('the plateau schedule needs a validation loss: set final_data = "train"')

    @field_validator("baseline", "starts")
    @classmethod
    def _in_its_type(cls, given: Any) -> Any:
        """Convert the values of points to their parameters' types, 3.0 to 3; leave what cannot be converted."""
        if isinstance(given, Mapping):
            return {name: _typed(name, value) for name, value in given.items()}
        return type(given)(cls._in_its_type(one) for one in given)

    def _check_point(self, name: str, point: Mapping[str, Value]) -> None:
        searched = distributions(self.space)
        for key in point:
            if key not in searched:
                raise ValueError(f"{name}.{key} is not searched{nearest(key, searched)}")
        for key in searched:
            if key not in point:
                raise ValueError(f"{name} lacks {key} ({self._left_out(name)})")
            if not contains(self.space, key, point[key]):
                raise ValueError(
                    f"{name}.{key} = {point[key]!r} lies outside the space "
                    f"(change it with {name}.NAME = VALUE; {self._left_out(name)})"
                )

    @staticmethod
    def _left_out(name: str) -> str:
        """Return advice on how to leave out a point: the baseline, or one of a list of points."""
        if "[" in name:
            return f"or remove {name}; {name.partition('[')[0]} = [] leaves all of them out"
        return f"{name} = {{}} leaves the {name} out"

    def _check_limit(self) -> None:
        if self.limit == Limit():
            return
        if too_much := limit_violation(self.limit, self.space, cheapest(self.space, self.image_size), self.image_size):
            raise ValueError(f"no point of the space lies within the limit: the cheapest has {too_much}")

    @property
    def leaky(self) -> bool:
        """Return whether every number is marked as leaky: images of one source may lie on both sides."""
        return self.protocol == "random" or self.allow_leaks

    def contract(self) -> dict[str, JsonValue]:
        """Return the fields that define the study, as JSON."""
        return self.model_dump(mode="json", exclude=set(MAY_CHANGE))

    def above_limit(self, params: Mapping[str, Value]) -> str | None:
        """Return why the network at a point (all searched parameters) is too large; None when it is not."""
        return limit_violation(self.limit, self.space, params, self.image_size)

    @property
    def brackets(self) -> tuple[tuple[int, ...], ...]:
        """Return the rungs of each Hyperband bracket; none without Hyperband."""
        return brackets(self.min_epochs, self.epochs, self.eta) if self.pruner == "hyperband" else ()

    def bracket_of(self, study_name: str, number: int) -> int | None:
        """Return the bracket of a trial; None without Hyperband."""
        return bracket_of(study_name, number, len(self.brackets), self.eta) if self.brackets else None

    def with_fields(self, fields: Mapping[str, object]) -> Self:
        """Return the configuration with these fields changed. Raises ValidationError."""
        return self.model_validate({**self.model_dump(mode="json"), **fields})

    def changed(self, **given: str | float | None) -> Self:
        """Return the configuration with the given fields (those not None) changed. Raises StudyError."""
        changes = {name: value for name, value in given.items() if value is not None}
        try:
            return self.with_fields(changes)
        except ValidationError as error:
            raise StudyError(in_one_line(error)) from error


def _typed(name: str, value: Value) -> Value:
    """Return a value converted to its parameter's type; unchanged if it cannot be converted."""
    with suppress(ValueError, KeyError):
        return PARAMETERS[name].check(value)
    return value


def in_one_line(error: ValidationError) -> str:
    """Return pydantic's error in one line: the field, what was given, what is allowed."""
    first, *others = error.errors()
    types = r"(list|Range|bool|int|float|str|function-\w+|tagged-union)\b"  # pydantic names the union's branches too
    place = ".".join(str(part) for part in first["loc"] if not re.match(types, str(part)))
    unknown = first["type"] in ("extra_forbidden", "unexpected_keyword_argument")
    more = f" (and {len(others)} more)" if others and unknown else ""
    if unknown:
        table = [field.name for field in fields(Augment)] if place.startswith("augment.") else StudyConfig.model_fields
        return f"unknown field {place!r}{nearest(place.rpartition('.')[2], list(table))}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if not place:
        return message
    message = message[0].lower() + message[1:]
    return f"{place} = {first['input']!r}: {message}"
