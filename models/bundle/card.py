"""The card of a model folder, card.json: what a program or a person must know of the model, in one schema."""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, ValidationError, field_validator

from models import ModelError
from models.scores.conformal import Refused, Sets
from models.scores.evaluation import Comparison, HeldOutScores
from models.scores.intervals import Interval
from models.scores.views import AS_IT_IS, View, views_of

FORMAT = 1
"""Raised when a card no longer means what it meant to earlier versions."""

NOTICE = "Research use only; not a medical device."

LEAKY = (
    "LEAKY: the published random 80/20 split. Copies of one source lie on both sides, and the same images chose the "
    "architecture: compare this number with published ones, believe neither."
)
"""Stands wherever a number of the random protocol is shown."""

LEAKY_AS_GIVEN = (
    "LEAKY: the images came divided, and images of one source lie in several parts, which was allowed: the score is no "
    "measure of new sources."
)
"""Stands wherever a number is shown that such parts gave."""


INCOMPLETE = "No trial of the search ran to its end: the one that was trained longest was taken."
"""Stands beside the score of a model whose search was cut short."""


Positive = Annotated[float, Field(ge=1e-4, le=1e4)]
"""A divisor of numbers in single precision, that leaves them numbers."""


Pixels = Annotated[int, Field(ge=1)]


Ranges = dict[Literal["whole", "float", "colour"], tuple[FiniteFloat, FiniteFloat]]
"""What is black and what is white, by the kind of numbers in a file."""


class Section(BaseModel):
    """A part of the card. Fields of later versions are passed over."""

    model_config = ConfigDict(frozen=True)


class Preprocessing(Section):
    """How an image file becomes the network's input."""

    size: Pixels  # height and width
    decoding: str = ""
    ranges: Ranges = {}  # of numbers of more than 8 bits
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[Positive, Positive, Positive]
    views: tuple[View, ...] = AS_IT_IS  # of an image, whose probabilities are averaged

    @field_validator("ranges")
    @classmethod
    def _ordered(cls, ranges: Ranges) -> Ranges:
        for low, high in ranges.values():
            if not low < high:
                raise ValueError(f"{low} to {high} is no range")
        return ranges

    @field_validator("views")
    @classmethod
    def _known(cls, views: tuple[View, ...]) -> tuple[View, ...]:
        known = views_of("square", hflip=True, vflip=True)
        if views[:1] != AS_IT_IS or len(set(views)) < len(views) or not set(views) <= set(known):
            raise ValueError(f"views must be some of {known}, the image itself first")
        return views


class Opening(Section):
    """A look at the held-out part."""

    number: int  # from 1
    time: str  # UTC
    weights_sha256: list[str]  # of everything that was scored
    parts: str  # hash of the split


class Confirmed(Section):
    """What one of the best trials reached when it was trained anew."""

    trial: int
    values: list[float]  # by seed
    mean: float


class Origin(Section):
    """The study and the trial that the model comes from."""

    name: str
    trial: int
    winner: int
    confirmed: list[Confirmed] | None = None
    params: dict[str, bool | int | float | str]
    metric: str
    selection_score: float | None
    epochs: int | None = None  # of the trial in the search
    complete: bool = True  # it was trained to its end; else no trial was, and this one the longest
    trials: int
    config: dict[str, JsonValue]  # the study's, as a TOML file would have it


class Final(Section):
    """The final training."""

    data: str  # parts
    epochs: int
    trainings: int
    seconds: float  # of all
    epoch_seconds: list[float]  # of the shipped one
    num_params: int | None


class Begun(Section):
    """The pretrained network that the model began from."""

    name: str
    made_by: str
    licence: str  # of its weights
    weights_sha256: str
    trained: float  # share of its layers that was trained


class Data(Section):
    """The images."""

    source: str
    source_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = (
        None  # median width and height of the files, pixels
    )
    images: int
    groups: int
    groups_from: str
    parts: dict[str, int]
    parts_from: str | None = None  # where the images came divided
    parts_hash: str
    content: str  # hash
    skipped: list[str] = []


class Speed(Section):
    """How fast a file runs at one batch size."""

    batch: int
    milliseconds: float
    images_per_second: float


class Smaller(Section):
    """Another trial that is far cheaper to use and scored the same within the interval."""

    trial: int
    score: float  # selection score
    milliseconds: float  # an image alone, on the processor that wrote this
    shipped_milliseconds: float
    command: str  # that makes a model of it


class Format(Section):
    """A file that runs, beside the network as it was trained."""

    max_difference: float  # of a probability
    speed_cpu: list[Speed] = []
    one_view_cpu: list[Speed] = []  # the same without the others, where there are several
    note: str = ""


class Leaky(Section):
    """What the published random split would report."""

    leaky: bool
    accuracy: float
    accuracy_interval: Interval
    images: int


class Conformal(Section):
    """Prediction sets by error level."""

    method: str = ""
    groups: int = 0  # of the calibration part
    levels: dict[str, Sets | Refused] = {}

    @field_validator("levels")
    @classmethod
    def _shares(cls, levels: dict[str, Sets | Refused]) -> dict[str, Sets | Refused]:
        for level, one in levels.items():
            if not 0 < float(level) < 1:
                raise ValueError(f"{level!r} is no error level")
            if isinstance(one, Sets) and not 0 <= one.threshold <= 1:
                raise ValueError(f"{one.threshold} is no threshold")
        return levels

    def at(self, level: float) -> Sets | Refused | None:
        """What is known of a level."""
        return {float(key): one for key, one in self.levels.items()}.get(level)


class Card(Section):
    """What any model folder says of its model."""

    format: int = FORMAT
    notice: str = NOTICE
    synthetic_data: bool = False
    protocol: str = "grouped"
    leaky: bool = False
    made: str | None = None  # UTC
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    preprocessing: Preprocessing
    temperature: Positive
    conformal: Conformal | None = None
    versions: dict[str, str | int] = {}
    test_opening: Opening | None = None
    test_openings: int | None = None
    study: Origin | None = None
    final: Final | None = None
    begun: Begun | None = None
    sibling_sha256: str | None = None  # weights that were scored, where these have learned from all images, test too
    data: Data | None = None
    test: HeldOutScores | None = None
    test_accuracy_of_seeds: list[float] = []
    comparison: list[Comparison] = []
    not_compared: dict[str, str] = {}  # name -> why
    leaky_score: Leaky | None = None
    smaller: Smaller | None = None
    weights_sha256: str = ""
    formats: dict[str, Format] = {}
    files: dict[str, str] = {}  # name -> SHA-256; none in folders of versions that exported weights alone

    @field_validator("classes")
    @classmethod
    def _different(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("two classes have one name")
        return classes

    @property
    def mark(self) -> str | None:
        """What stands wherever a leaky number is shown."""
        if not self.leaky:
            return None
        return LEAKY if self.protocol == "random" else LEAKY_AS_GIVEN

    @property
    def score_name(self) -> str:
        """What the final score is called: one metric, the one that was searched for."""
        metric = self.study.metric if self.study else "accuracy"
        return f"{'leaky' if self.leaky else 'test'} {metric.replace('_', ' ')}"


class StudyCard(Card):
    """The card of a model that a study made: nothing is missing."""

    test_opening: Opening
    test_openings: int
    study: Origin
    final: Final
    data: Data
    test: HeldOutScores


Kind = TypeVar("Kind", bound=Card)


def parsed(raw: dict[str, JsonValue], kind: type[Kind]) -> Kind:
    """A card from its JSON, whose hash the caller has compared. Raises ModelError where this version cannot read it."""
    if raw.get("format", FORMAT) != FORMAT:
        raise ModelError(
            f"its card has format {raw['format']!r}, this version reads {FORMAT} (use the version that wrote it, or "
            "export the model again with this one: study retrain NAME)"
        )
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ModelError(
            f"its card does not fit: {place}: {first['msg']} (export it again: study retrain NAME)"
        ) from error


def percent(share: float) -> str:
    """0.97531 -> "97.5 %"; less than all is never "100.0 %"."""
    return "over 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"
