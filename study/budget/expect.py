"""Expected times on this machine, from the counted cost of a network and the measured speed of the machine."""

import json
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.splits import SHARES
from models.architecture import SMALLEST, BackboneConfig
from models.cost import Cost, cost
from models.scores.views import views_of
from models.training.recipe import batch_for
from study.config.draw import draw_uniform
from study.config.limit import cheapest, cost_of
from study.config.schema import StudyConfig
from study.config.space import backbones, distributions

TRAINED, VALIDATED = SHARES["train"], SHARES["val"]
"""Shares of the images to train on and to validate on."""
PRETRAINED = 0.8e9 / 224**2
"""Operations of the pretrained network (efficientnet-lite0) for each pixel of an image."""
SLOWER = 3.0
"""Factor by which the pretrained network takes longer than ours for the same operations: it has many thin layers."""
DRAWS = 32
"""Number of points that are drawn to see what networks of the space cost."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Speed of a machine, as it was measured."""

    flops: float  # operations a second, in training
    numbers: float  # activations a second
    pixels: float  # augmented pixels a second
    step: float  # seconds that a step takes in addition
    decode: float  # seconds to decode an image
    group: float  # seconds for each image to find out which images share a source
    result: float  # seconds to score, export and report, for any study
    result_image: float  # seconds in addition for each image
    slower: float = 1.0  # times as slow as a quiet machine, because other programs used it too
    before: float = 0.0  # seconds from the command to the end of measuring

    def faster(self, times: float) -> "Throughput":
        """Return the throughput of a machine that does everything `times` times as fast."""
        return Throughput(
            flops=self.flops * times,
            numbers=self.numbers * times,
            pixels=self.pixels * times,
            slower=self.slower,
            **{name: getattr(self, name) / times for name in SECONDS},
        )


SECONDS = ("step", "decode", "group", "result", "result_image", "before")
"""Fields of a throughput that are seconds."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Facts about a folder of images that a plan needs."""

    count: int
    side: int | None  # median shorter side of the files, pixels; None where unknown
    grouped: bool  # whether the user says which images share a source
    imbalance: float = 1.0  # images of the largest class, divided by those of the smallest
    proposal: str | None = None  # which images may share a source, and how to declare it
    account: tuple[str, ...] = ()  # lines that say what was found and left out, and what is odd


def epoch_seconds(config: StudyConfig, images: Images, throughput: Throughput, network: Cost) -> float:
    """Return the seconds of one epoch of a trial: training on one part, validation on another."""
    trained, checked = TRAINED * images.count, VALIDATED * images.count
    batch = batch_for(int(trained)) if config.batch_size == "auto" else config.batch_size
    if network.frozen_flops > HEAD_ALONE * network.flops:  # its features are kept: see known_seconds
        return HEAD_STEP * throughput.step * math.ceil(trained / batch)
    # The backward pass takes twice the forward pass; frozen layers need the forward pass only.
    operations, numbers = 3 * network.flops - 2 * network.frozen_flops, network.numbers - 2 / 3 * network.frozen_numbers
    image = operations / throughput.flops + numbers / throughput.numbers
    pixels = config.image_size**2 / throughput.pixels
    forward = network.flops / throughput.flops + network.numbers / throughput.numbers / 3
    deep = max(1.0, network.layers / LAYERS)
    return trained * (image + pixels) + checked * forward + deep * throughput.step * math.ceil(trained / batch)


HEAD_ALONE, HEAD_STEP = 0.99, 0.1
"""Share of arithmetic in frozen layers above which only the last layer is trained, on features that are kept; and the
time of a step then, as a share of a usual step."""
EXPORT_SECONDS = 0.04
"""Seconds for each layer of a network with many layers, to write it in two formats and to compare them."""
LAYERS = 20
"""Number of layers up to which a step takes the measured time; with more it takes longer in proportion."""


def known_seconds(config: StudyConfig, images: Images, throughput: Throughput) -> tuple[float, float]:
    """Return the seconds that pretrained networks take in addition to their trainings.

    The first number is for the features of all views, computed once; the second for the scores.
    """
    costs = _costs(config)
    views = len(views_of(config.tta, hflip=config.augment.hflip, vflip=config.augment.vflip))
    each = [one.flops / throughput.flops + one.numbers / 3 / throughput.numbers for one in costs]
    waits = [max(1.0, one.layers / LAYERS) * throughput.step / 64 for one in costs]  # for each image, in batches of 64
    image = views * (sum(each) + sum(waits))
    return (TRAINED + VALIDATED) * images.count * image, (1 - TRAINED - VALIDATED) * images.count * image


def export_seconds(config: StudyConfig, throughput: Throughput) -> float:
    """Return the additional seconds that the export takes if the winner began from a pretrained network."""
    layers = [one.layers for one in _costs(config)]
    return EXPORT_SECONDS * max(layers, default=0) * throughput.slower


def _costs(config: StudyConfig) -> list[Cost]:
    """Return the costs of the pretrained networks of the space, frozen."""
    return [
        cost(BackboneConfig(num_classes=1, image_size=config.image_size, backbone=name, trained=0.0, dropout=0.0))
        for name in backbones(config.space)
    ]


def pretrained_seconds(config: StudyConfig, images: Images, throughput: Throughput) -> float:
    """Return the seconds of the rival that uses a pretrained network's features, see study.result.pretrained."""
    if not config.pretrained:
        return 0.0
    operations = PRETRAINED * max(SMALLEST, config.image_size) ** 2
    return 1.5 * images.count * SLOWER * operations / throughput.flops


def final_share(config: StudyConfig) -> float:
    """Return the length of an epoch of the final training as a multiple of an epoch of a trial."""
    whole = TRAINED + VALIDATED / 3
    return (TRAINED + VALIDATED) / whole if config.final_data == "train+val" else 1.0


def usual_cost(config: StudyConfig) -> Cost:
    """Return the cost of a network that the search may prefer: the upper quartile of drawn points within the limit."""
    key = json.dumps(config.model_dump(mode="json", include={"space", "image_size", "limit"}), sort_keys=True)
    return _quartile(key)


@lru_cache(maxsize=256)
def _quartile(key: str) -> Cost:
    fields = json.loads(key)
    config = StudyConfig.model_validate({"trials": 1, "pruner": "none", "final_data": "train", **fields})
    rng = np.random.default_rng(0)
    kinds = distributions(config.space)
    points = [draw_uniform(kinds, rng) for _ in range(DRAWS)]
    inside = [cost_of(config.space, point, config.image_size) for point in points if not config.above_limit(point)]
    inside.append(cost_of(config.space, cheapest(config.space, config.image_size), config.image_size))
    inside.sort(key=lambda one: (one.flops, one.numbers))
    return inside[(3 * (len(inside) - 1)) // 4]
