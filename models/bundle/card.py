"""The card of a model folder, card.json: one schema for all that a program or a person must know of the model."""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, ValidationError, field_validator

from models import ModelError
from models.scores.conformal import PredictionSets, RefusedLevel
from models.scores.evaluation import Comparison, HeldOutScores
from models.scores.intervals import Interval
from models.scores.views import AS_IT_IS, View, views_of

FORMAT = 1
"""Version of the card's format; it is raised when a field no longer means what it meant to earlier versions."""

NOTICE = "Research use only; not a medical device."

LEAKY = (
    "LEAKY: the published random 80/20 split. Copies of one source lie on both sides, and the same images chose the "
    "architecture: compare this number with published ones, believe neither."
)
"""Warning that is shown beside every number of the random protocol."""

LEAKY_AS_GIVEN = (
    "LEAKY: the images came divided, and images of one source lie in several parts, which was allowed: the score is no "
    "measure of new sources."
)
"""Warning that is shown beside every number from such parts."""


INCOMPLETE = "No trial of the search ran to its end."
"""Note beside the score of a model whose search was cut short."""


PositiveDivisor = Annotated[float, Field(ge=1e-4, le=1e4)]
"""A divisor that keeps numbers in single precision finite."""


Pixels = Annotated[int, Field(ge=1)]


Ranges = dict[Literal["whole", "float", "colour"], tuple[FiniteFloat, FiniteFloat]]
"""For each kind of numbers in image files, the number that is black and the number that is white."""


class Section(BaseModel):
    """A section of the card. Fields of later versions are ignored."""

    model_config = ConfigDict(frozen=True)


class Preprocessing(Section):
    """Preprocessing: the way from an image file to the input of the network."""

    size: Pixels  # height and width
    decoding: str = ""
    ranges: Ranges = {}  # black and white for numbers of more than 8 bits
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[PositiveDivisor, PositiveDivisor, PositiveDivisor]
    views: tuple[View, ...] = AS_IT_IS  # views of an image whose probabilities are averaged

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
    """One opening of the held-out test part: the moment when final models were scored on it."""

    number: int  # from 1
    time: str  # UTC
    weights_sha256: list[str]  # of all models that were scored
    parts: str  # hash of the split
    study: str = ""  # name of the older study that made this opening, if it was one


class Confirmation(Section):
    """Scores that one of the best trials reached when it was trained again with other seeds."""

    trial: int
    values: list[float]  # one for each seed
    mean: float


class Origin(Section):
    """The study and the trial that the model comes from."""

    name: str
    trial: int
    winner: int
    leader: int | None = None  # the trial with the best selection score, if that is another one: see `choice`
    tied: int = 0  # number of other trials with the selection score of the best one
    confirmed: list[Confirmation] | None = None
    params: dict[str, bool | int | float | str]
    metric: str
    selection_score: float | None
    epochs: int | None = None  # epochs of the trial in the search
    complete: bool = True  # whether the trial was trained to its end
    trials: int
    config: dict[str, JsonValue]  # the study's configuration, as in a TOML file

    @property
    def chosen(self) -> int:
        """The trial that the study itself chose, whichever was shipped."""
        return self.confirmed[0].trial if self.confirmed else self.winner

    @property
    def no_complete_trial(self) -> bool:
        """Whether no trial of the search ran to its end, so that the one that was trained longest was chosen."""
        return not self.complete and self.trial == self.chosen


class FinalTraining(Section):
    """The final training of the model."""

    data: str  # the parts that it was trained on
    epochs: int
    trainings: int
    seconds: float  # of all trainings
    epoch_seconds: list[float]  # of the shipped training
    num_params: int | None


class PretrainedStart(Section):
    """The pretrained network that the model began from."""

    name: str
    made_by: str
    licence: str  # of its weights
    weights_sha256: str
    trained: float  # share of its layers that were trained further


class Data(Section):
    """The images of the study: source, counts and parts."""

    source: str
    source_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = (
        None  # median width and height of the files, pixels
    )
    source_span: tuple[tuple[int, int], tuple[int, int]] | None = None  # 5 % of the files are smaller, and 5 % larger
    field_um: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # side of what an image shows, µm
    images: int
    groups: int
    groups_from: str
    parts: dict[str, int]
    parts_from: str | None = None  # what names the parts, if the images came divided
    parts_hash: str
    content: str  # hash of the images
    skipped: list[str] = []


class Speed(Section):
    """Speed of an exported file at one batch size."""

    batch: int
    milliseconds: float
    images_per_second: float


class SmallerTrial(Section):
    """Another trial that is far cheaper to use and whose score is the same within the interval."""

    trial: int
    score: float  # selection score
    milliseconds: float  # time for a single image, on the CPU of the machine that wrote this
    shipped_milliseconds: float  # the same for the shipped model
    command: str  # command that makes a model of that trial


class ExportedFile(Section):
    """An exported file compared with the network as it was trained: difference and speed."""

    max_difference: float  # largest difference of any probability
    speed_cpu: list[Speed] = []
    one_view_cpu: list[Speed] = []  # speed with one view only, if the model uses several
    note: str = ""


class LeakyScore(Section):
    """The score that the published, leaky random split would report."""

    leaky: bool
    accuracy: float
    accuracy_interval: Interval
    images: int


class Conformal(Section):
    """Conformal prediction sets for several error levels."""

    method: str = ""
    groups: int = 0  # number of groups in the calibration part
    levels: dict[str, PredictionSets | RefusedLevel] = {}  # by error level, as text

    @field_validator("levels")
    @classmethod
    def _shares(cls, levels: dict[str, PredictionSets | RefusedLevel]) -> dict[str, PredictionSets | RefusedLevel]:
        for level, one in levels.items():
            if not 0 < float(level) < 1:
                raise ValueError(f"{level!r} is no error level")
            if isinstance(one, PredictionSets) and not 0 <= one.threshold <= 1:
                raise ValueError(f"{one.threshold} is no threshold")
        return levels

    def at(self, level: float) -> PredictionSets | RefusedLevel | None:
        """Return the prediction sets of an error level, or why there are none; None if the level is not in the card."""
        return {float(key): one for key, one in self.levels.items()}.get(level)


class Card(Section):
    """The content of any model folder's card."""

    format: int = FORMAT
    notice: str = NOTICE
    synthetic_data: bool = False
    protocol: str = "grouped"
    leaky: bool = False
    made: str | None = None  # UTC
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    preprocessing: Preprocessing
    temperature: PositiveDivisor
    conformal: Conformal | None = None
    versions: dict[str, str | int] = {}
    test_opening: Opening | None = None
    test_openings: int | None = None
    study: Origin | None = None
    final: FinalTraining | None = None
    begun: PretrainedStart | None = None
    sibling_sha256: str | None = None  # the scored weights, if these have learned from all images, test too
    data: Data | None = None
    test: HeldOutScores | None = None
    test_accuracy_of_seeds: list[float] = []
    comparison: list[Comparison] = []
    not_compared: dict[str, str] = {}  # name of a model -> why it was not compared
    leaky_score: LeakyScore | None = None
    smaller: SmallerTrial | None = None
    weights_sha256: str = ""
    formats: dict[str, ExportedFile] = {}
    files: dict[str, str] = {}  # name -> SHA-256; empty in folders of versions that exported only weights

    @field_validator("classes")
    @classmethod
    def _different(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("two classes have one name")
        if any(one != one.encode(errors="replace").decode() for one in classes):
            raise ValueError("the name of a class is no text")
        return classes

    @property
    def mark(self) -> str | None:
        """Warning that is shown beside every number of a leaky model; None if the model is not leaky."""
        if not self.leaky:
            return None
        return LEAKY if self.protocol == "random" else LEAKY_AS_GIVEN

    @property
    def score_name(self) -> str:
        """Name of the final score, such as "test accuracy": the one metric that the search optimised."""
        metric = self.study.metric if self.study else "accuracy"
        return f"{'leaky' if self.leaky else 'test'} {metric.replace('_', ' ')}"


class StudyCard(Card):
    """The card of a model that a study made; none of its sections is missing."""

    test_opening: Opening
    test_openings: int
    study: Origin
    final: FinalTraining
    data: Data
    test: HeldOutScores


Kind = TypeVar("Kind", bound=Card)


def parse_card(raw: dict[str, JsonValue], kind: type[Kind]) -> Kind:
    """Make a card from its JSON, whose hash is already checked. Raises ModelError if this version cannot read it."""
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
    """Write a share in percent: 0.97531 -> "97.5 %"; a share below 1 never becomes "100.0 %"."""
    return "over 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"
