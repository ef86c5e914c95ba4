"""What a network costs here: seconds of an epoch, from what was counted on the network and measured on the machine."""

import json
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from models.architecture import SMALLEST, BackboneConfig
from models.cost import Cost, cost
from models.scores.views import views_of
from models.training.recipe import batch_for
from study.config.draw import anywhere
from study.config.limit import cheapest, cost_of
from study.config.schema import StudyConfig
from study.config.space import backbones, distributions

TRAINED, VALIDATED = 0.60, 0.14
"""Shares of the images."""
PRETRAINED = 0.8e9 / 224**2
"""Operations for each of an image's pixels, of the pretrained network (efficientnet-lite0)."""
SLOWER = 3.0
"""Its many thin layers take so many times the seconds of ours, operation for operation."""
DRAWS = 32
"""Points that tell what a network of the space costs."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """What a machine does, as it was measured."""

    flops: float  # operations a second, in training
    numbers: float  # activations a second
    pixels: float  # augmented pixels a second
    step: float  # seconds that a step takes besides
    decode: float  # seconds an image
    group: float  # seconds an image, to find out who shares a source
    result: float  # seconds to score, export and report, for any study
    result_image: float  # and for each image
    slower: float = 1.0  # than on a quiet machine: other programs used it, too

    def faster(self, times: float) -> "Throughput":
        """A machine that does everything so many times as fast."""
        return Throughput(
            flops=self.flops * times,
            numbers=self.numbers * times,
            pixels=self.pixels * times,
            slower=self.slower,
            **{name: getattr(self, name) / times for name in ("step", "decode", "group", "result", "result_image")},
        )


@dataclass(frozen=True, kw_only=True)
class Images:
    """What a plan must know of a folder."""

    count: int
    side: int | None  # median shorter side of the files, pixels; None where unknown
    grouped: bool  # somebody says who shares a source
    imbalance: float = 1.0  # images of the largest class over those of the smallest
    proposal: str | None = None  # who may share a source, and how to say it
    account: tuple[str, ...] = ()  # what was found and left out, and what is odd, in lines


def epoch_seconds(config: StudyConfig, images: Images, throughput: Throughput, network: Cost) -> float:
    """Seconds of one epoch of a trial: training on one part, validation on another."""
    trained, checked = TRAINED * images.count, VALIDATED * images.count
    batch = batch_for(int(trained)) if config.batch_size == "auto" else config.batch_size
    # Forward, and twice that backward; of layers that stay as they are, forward alone.
    operations, numbers = 3 * network.flops - 2 * network.frozen_flops, network.numbers - 2 / 3 * network.frozen_numbers
    image = operations / throughput.flops + numbers / throughput.numbers
    pixels = config.image_size**2 / throughput.pixels
    forward = network.flops / throughput.flops + network.numbers / throughput.numbers / 3
    deep = max(1.0, network.layers / LAYERS)
    return trained * (image + pixels) + checked * forward + deep * throughput.step * math.ceil(trained / batch)


EXPORT_SECONDS = 0.04
"""For each layer of a network of many, to write and to compare it in two formats."""
LAYERS = 20
"""Of the networks by which a step was measured: one with more has more to begin, and more to wait for."""


def known_seconds(config: StudyConfig, images: Images, throughput: Throughput) -> tuple[float, float]:
    """What a pretrained network takes besides its trainings: features of all views once; the scores and the export."""
    costs = [
        cost(BackboneConfig(num_classes=1, image_size=config.image_size, backbone=name, trained=0.0, dropout=0.0))
        for name in backbones(config.space)
    ]
    views = len(views_of(config.tta, hflip=config.augment.hflip, vflip=config.augment.vflip))
    each = [one.flops / throughput.flops + one.numbers / 3 / throughput.numbers for one in costs]
    waits = [max(1.0, one.layers / LAYERS) * throughput.step / 64 for one in costs]  # for each image of a batch
    image = views * (sum(each) + sum(waits))
    export = EXPORT_SECONDS * max((one.layers for one in costs), default=0) * throughput.slower
    return (TRAINED + VALIDATED) * images.count * image, (1 - TRAINED - VALIDATED) * images.count * image + export


def pretrained_seconds(config: StudyConfig, images: Images, throughput: Throughput) -> float:
    """Of the rival with a pretrained network's features, see study.result.pretrained."""
    if not config.pretrained:
        return 0.0
    operations = PRETRAINED * max(SMALLEST, config.image_size) ** 2
    return 1.5 * images.count * SLOWER * operations / throughput.flops


def final_share(config: StudyConfig) -> float:
    """An epoch of the final training beside one of a trial."""
    whole = TRAINED + VALIDATED / 3
    return (TRAINED + VALIDATED) / whole if config.final_data == "train+val" else 1.0


def usual_cost(config: StudyConfig) -> Cost:
    """What a network costs that the search may come to like: the upper quartile of points within the limit."""
    key = json.dumps(config.model_dump(mode="json", include={"space", "image_size", "limit"}), sort_keys=True)
    return _quartile(key)


@lru_cache(maxsize=256)
def _quartile(key: str) -> Cost:
    fields = json.loads(key)
    config = StudyConfig.model_validate({"trials": 1, "pruner": "none", "final_data": "train", **fields})
    rng = np.random.default_rng(0)
    kinds = distributions(config.space)
    points = [anywhere(kinds, rng) for _ in range(DRAWS)]
    inside = [cost_of(config.space, point, config.image_size) for point in points if not config.above_limit(point)]
    inside.append(cost_of(config.space, cheapest(config.space, config.image_size), config.image_size))
    inside.sort(key=lambda one: (one.flops, one.numbers))
    return inside[(3 * (len(inside) - 1)) // 4]
