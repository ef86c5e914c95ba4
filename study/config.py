"""What a study is: its configuration, where it comes from, and the arithmetic of its budget."""

import binascii
import math
import re
import tomllib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from data.batches import Augment
from study import StudyError
from study.presets import PRESETS
from study.space import PARAMETERS, Entry, Range, Value, contains, distributions, nearest, validated

MAY_CHANGE = (
    *("preset", "data", "groups", "skip_bad", "trials", "hours", "workers", "checkpoint_seconds"),
    *("positive", "leaky_score"),  # they only report
)
"""Fields that may differ when a study is continued; everything else defines it.

The images and the parts are compared by their content, so that a moved folder or list is still the same."""


class AugmentConfig(BaseModel):
    """Augmentation of training images at strength 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotation: float = Field(0.0, ge=0, le=180, description="degrees, either way")
    hflip: bool = Field(False, description="left and right, half of the time")
    vflip: bool = Field(False, description="up and down, half of the time")
    crop: float = Field(1.0, gt=0, le=1, description="smallest share of the area that is kept")
    jitter: float = Field(0.0, ge=0, le=0.9, description="brightness, contrast and saturation, either way")
    stain: float = Field(0.0, ge=0, le=0.9, description="amount of haematoxylin and eosin, either way")

    def at(self, strength: float) -> Augment:
        """The augmentation of a trial with this augment_strength."""
        return Augment(**self.model_dump()).scaled(strength)


def _batch_size(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65536):
        return value
    raise ValueError('allowed is a whole number from 1 to 65536, or "auto"')


BatchSize = Annotated[int | Literal["auto"], BeforeValidator(_batch_size)]


class StudyConfig(BaseModel):
    """Everything that defines a study. TOML files, presets and --set use these names."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    preset: str = Field("full", description="where unnamed fields come from: " + ", ".join(PRESETS))
    data: str = Field("digits", min_length=1, description="digits, tissue, or a folder of class folders")
    groups: str | None = Field(
        None,
        description="who shares a source: a CSV file, a pattern with (?P<group>...), auto (from the pixels) or none; "
        "by default groups.csv where the folder has one, else auto",
    )
    protocol: Literal["grouped", "random"] = Field(
        "grouped", description="grouped (parts whole by source), or random: the published, leaky 80/20"
    )
    image_size: int = Field(128, ge=8, le=1024, description="pixels, height and width")
    seed: int = Field(0, ge=0, lt=2**32, description="of the parts, the sampler and all training")
    trials: int | None = Field(None, ge=1, description="total number of trials")
    hours: float | None = Field(None, gt=0, description="no trial starts after this much training time")
    workers: int = Field(1, ge=1, le=256, description="processes on this machine that search at the same time")
    epochs: int = Field(27, ge=1, description="of a trial that is not pruned")
    min_epochs: int = Field(3, ge=1, description="the first rung: epochs before a trial may be pruned")
    eta: int = Field(3, ge=2, description="one of eta trials is promoted at each rung")
    sampler: Literal["tpe", "random"] = Field("tpe", description="tpe or random")
    pruner: Literal["hyperband", "none"] = Field("hyperband", description="hyperband or none")
    metric: Literal["accuracy", "balanced_accuracy"] = Field("accuracy", description="reported each epoch")
    batch_size: BatchSize = Field(
        64, description="images per step in the search; auto: 16 to 256, such that an epoch has 50 steps"
    )
    rate_batch_size: int | None = Field(
        None,
        ge=1,
        description="learning rates are meant for batches of this size; by default for whatever size is used",
    )
    augment: AugmentConfig = Field(AugmentConfig(), description="augmentation of training images")
    space: dict[str, Entry] = Field({}, description="what is searched")
    baseline: dict[str, Value] = Field({}, description="a point of the space that is tried first")
    confirm: int = Field(
        1,
        ge=1,
        le=100,
        description="so many of the best trials are trained anew; the best of them on val is chosen",
    )
    final_epochs: int = Field(54, ge=1, description="of the final training")
    final_batch_size: BatchSize = Field(64, description="images per step in the final training, or auto")
    final_seeds: int = Field(
        1, ge=1, le=100, description="final trainings; the first is shipped, the others show the spread"
    )
    final_data: Literal["train", "train+val"] = Field("train+val", description="images of the final training")
    positive: tuple[str, ...] = Field(
        (), description="classes that are a finding, such as the malignant ones: adds sensitivity and specificity"
    )
    leaky_score: bool = Field(
        False, description="score the architecture on a random 80/20 split too, to compare with published numbers"
    )
    checkpoint_seconds: float = Field(
        30.0, ge=0, description="of training between two checkpoints of a network; 0: after every epoch"
    )
    skip_bad: bool = Field(False, description="leave unreadable files out instead of stopping")

    @field_validator("positive", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("hours", "checkpoint_seconds", mode="before")
    @classmethod
    def _whole_hours(cls, value: object) -> object:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.trials is None and self.hours is None:
            raise ValueError("a budget is needed: trials, or hours, or both")
        object.__setattr__(self, "space", validated(self.space))  # the model is frozen, and not yet handed out
        if not distributions(self.space):
            raise ValueError("the space has nothing to search: give at least one list or range")
        if self.pruner == "hyperband":
            check_rungs(self.min_epochs, self.epochs, self.eta)
        self._check_depth()
        self._check_schedule()
        if self.protocol == "random" and self.final_data != "train":
            raise ValueError('protocol = "random" scores on val, the only held-out part: set final_data = "train"')
        self._check_baseline()
        return self

    def _check_depth(self) -> None:
        entry = self.space.get("num_conv_blocks", PARAMETERS["num_conv_blocks"].default)
        deepest = int(entry.high if isinstance(entry, Range) else max(entry) if isinstance(entry, list) else entry)
        if self.image_size >> deepest < 1:
            raise ValueError(
                f"image_size {self.image_size} is too small for {deepest} blocks, each of which halves the image: "
                f"at least {1 << deepest} pixels, or num_conv_blocks up to {self.image_size.bit_length() - 1}"
            )

    def _check_schedule(self) -> None:
        entry = self.space.get("schedule", PARAMETERS["schedule"].default)
        if "plateau" in (entry if isinstance(entry, list) else [entry]) and self.final_data != "train":
            raise ValueError('the plateau schedule needs a validation loss: set final_data = "train"')

    def _check_baseline(self) -> None:
        if not self.baseline:
            return
        searched = distributions(self.space)
        for name in self.baseline:
            if name not in searched:
                raise ValueError(f"baseline.{name} is not searched{nearest(name, searched)}")
        for name in searched:
            if name not in self.baseline:
                raise ValueError(f"baseline lacks {name} (baseline = {{}} leaves the baseline out)")
            if not contains(self.space, name, self.baseline[name]):
                raise ValueError(
                    f"baseline.{name} = {self.baseline[name]!r} lies outside the space "
                    "(change it with baseline.NAME = VALUE, or leave the baseline out with baseline = {})"
                )

    def contract(self) -> dict[str, Any]:
        """The fields that define the study, as JSON."""
        return self.model_dump(mode="json", exclude=set(MAY_CHANGE))

    def with_budget(self, trials: int | None, hours: float | None, workers: int | None) -> Self:
        """The same study with what is given changed. Raises StudyError."""
        given = {"trials": trials, "hours": hours, "workers": workers}
        changes = {name: value for name, value in given.items() if value is not None}
        try:
            return self.model_validate({**self.model_dump(mode="json"), **changes})
        except ValidationError as error:
            raise StudyError(explain(error)) from error


def check_rungs(min_epochs: int, epochs: int, eta: int) -> None:
    """Raise ValueError for a budget that Hyperband cannot serve."""
    if min_epochs >= epochs:
        raise ValueError(
            f"Hyperband cannot prune before epoch {min_epochs} of {epochs}: min_epochs must be below epochs "
            '(or pruner = "none")'
        )
    counted = math.floor(math.log(epochs / min_epochs, eta)) + 1  # as Optuna does
    if counted != len(brackets(min_epochs, epochs, eta)):
        raise ValueError(
            f"Optuna's rounding loses a bracket for min_epochs={min_epochs}, epochs={epochs}, eta={eta}; "
            f"use epochs={epochs + 1}"
        )


def brackets(min_epochs: int, epochs: int, eta: int) -> tuple[tuple[int, ...], ...]:
    """The rungs (epochs completed) of each Hyperband bracket, counted in whole numbers (Li et al. 2018).

    (3, 27, 3) -> ((3, 9, 27), (9, 27), (27,)). A rung at `epochs` is the end of training and judges nobody.
    """
    rungs = [min_epochs]
    while rungs[-1] * eta <= epochs:
        rungs.append(rungs[-1] * eta)
    return tuple(tuple(rungs[start:]) for start in range(len(rungs)))


def bracket_of(study_name: str, number: int, config: StudyConfig) -> int | None:
    """The bracket that Optuna's HyperbandPruner gives to a trial; None without Hyperband."""
    if config.pruner != "hyperband":
        return None
    count = len(brackets(config.min_epochs, config.epochs, config.eta))
    shares = [math.ceil(count * config.eta**s / (s + 1)) for s in range(count - 1, -1, -1)]
    place = binascii.crc32(f"{study_name}_{number}".encode()) % sum(shares)
    for bracket, share in enumerate(shares):
        place -= share
        if place < 0:
            return bracket
    raise AssertionError("a place below the sum of the shares lies in one of them")


def resolve(file: Path | None, overrides: Mapping[str, Any]) -> StudyConfig:
    """A configuration from (last wins) a preset, a TOML file, and overrides by field name.

    A table of the file ([space], [augment]) replaces the preset's; overrides may name one field of a table with a
    dot ("space.head"). Without any preset named, the embedded digits take "quick" and everything else "full".
    Raises StudyError with one line.
    """
    fields = read_toml(file) if file else {}
    fields.update({name: value for name, value in overrides.items() if "." not in name})
    data = fields.get("data", "digits")
    preset = fields.setdefault("preset", "quick" if data == "digits" else "full")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise StudyError(f"unknown preset {preset!r}{nearest(str(preset), PRESETS)}")
    for name, value in overrides.items():
        table = name.partition(".")[0]
        if "." in name:  # one field of a table: the rest of it comes from the preset
            fields.setdefault(table, deepcopy(PRESETS[preset].get(table, {})))
            set_field(fields, name, value)
    try:
        config = StudyConfig.model_validate({**PRESETS[preset], "baseline": {}, **fields})
        return config if "baseline" in fields else _with_preset_baseline(config, PRESETS[preset])
    except ValidationError as error:
        raise StudyError(explain(error)) from error


def _with_preset_baseline(config: StudyConfig, preset: Mapping[str, Any]) -> StudyConfig:
    """The preset's baseline too, as far as the user's space still holds it; otherwise none."""
    searched = distributions(config.space)
    baseline = {name: value for name, value in preset.get("baseline", {}).items() if name in searched}
    try:
        return StudyConfig.model_validate({**config.model_dump(), "baseline": baseline})
    except ValidationError:
        return config


def read_toml(file: Path) -> dict[str, Any]:
    """The fields of a study file; StudyError when it is missing or does not parse."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudyError(f"no such study file: {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"cannot read {file}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{file} is not valid TOML: {error}") from error


def parse_setting(text: str) -> tuple[str, Any]:
    """ "field=value" -> (field, value); the value as in TOML, else taken as a string."""
    name, equals, raw = text.partition("=")
    if not equals or not name.strip():
        raise StudyError(f"--set takes field=value, not {text!r} (for example --set epochs=9)")
    try:
        return name.strip(), tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), raw.strip()


def set_field(fields: dict[str, Any], name: str, value: Any) -> None:
    """Set a field by its dotted name; StudyError when a part of the name is no table."""
    *tables, last = name.split(".")
    for table in tables:
        inner = fields.setdefault(table, {})
        if not isinstance(inner, dict):
            raise StudyError(f"{name}: {table} is not a table of fields")
        fields = inner
    fields[last] = value


def explain(error: ValidationError) -> str:
    """One line from pydantic's error: the field, what was given, what is allowed."""
    first, *others = error.errors()
    types = r"(list|Range|bool|int|float|str|function-\w+|tagged-union)\b"  # pydantic names the union's branches too
    place = ".".join(str(part) for part in first["loc"] if not re.match(types, str(part)))
    more = f" (and {len(others)} more)" if others and first["type"] == "extra_forbidden" else ""
    if first["type"] == "extra_forbidden":
        table = AugmentConfig.model_fields if place.startswith("augment.") else StudyConfig.model_fields
        return f"unknown field {place!r}{nearest(place.rpartition('.')[2], list(table))}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if not place:
        return message
    message = message[0].lower() + message[1:]
    return f"{place} = {first['input']!r}: {message}"
