"""Points that a planned study tries first: the cheapest network, and strong ones of different kinds."""

from bisect import bisect_left
from collections.abc import Mapping

from pydantic import JsonValue

from study.config.limit import SHAPING, cheapest, limit_violation
from study.config.presets import BACKBONE_STARTS, STARTS, STRONG
from study.config.schema import StudyConfig
from study.config.space import Range, Value, backbones, contains

START_SHARE = 0.5
"""Share of the limit's arithmetic that the networks tried first may have, so that they do not use up the search."""


def starts(config: StudyConfig, *, scarce: bool = False) -> list[dict[str, Value]]:
    """Return the cheapest network, and those of STARTS that the space holds, each as wide as START_SHARE allows.

    If networks may begin from a pretrained one, it is tried twice: first (second if time is `scarce`) with only a new
    last layer trained, later trained as a whole.
    """
    usual = cheapest(config.space, config.image_size)
    recipe = {name: value for name, value in _inside(config, usual, STRONG).items() if name not in SHAPING}
    found = [{**usual, **recipe}]
    for name in backbones(config.space):
        known = [_inside(config, usual, {**STRONG, "backbone": name, **row}) for row in BACKBONE_STARTS]
        known = [one for one in known if config.above_limit(one) is None]
        found = [*found, *known] if scarce else [*known[:1], *found, *known[1:]]
    for row in STARTS:
        point = _widened(config, _inside(config, usual, row))
        if point not in found and config.above_limit(point) is None:
            found.append(point)
    return found


def _inside(config: StudyConfig, usual: Mapping[str, Value], row: Mapping[str, JsonValue]) -> dict[str, Value]:
    """Return the point `usual` with those values of a row that the space holds."""
    given = {name: value for name, value in row.items() if isinstance(value, bool | int | float | str)}
    held = {name: value for name, value in given.items() if name in usual and contains(config.space, name, value)}
    return {**usual, **held}


def _widened(config: StudyConfig, point: dict[str, Value]) -> dict[str, Value]:
    """Return the point with the largest first width that keeps to START_SHARE of the limit."""
    entry = config.space.get("base_filters")
    if not isinstance(entry, Range):
        return point
    low, high = int(entry.low), int(entry.high)
    if config.limit.gflops is None and config.limit.megabytes is None:  # without a limit: the geometric mean
        high = round((low * high) ** 0.5)
    most = config.limit.gflops
    room = config.limit.model_copy(update={"gflops": None if most is None else START_SHARE * most})
    widths = [width for width in range(low, high + 1) if contains(config.space, "base_filters", width)]

    def fits(width: int) -> bool:
        return limit_violation(room, config.space, {**point, "base_filters": width}, config.image_size) is None

    held = bisect_left(widths, True, key=lambda width: not fits(width))  # number of widths that are narrow enough
    return {**point, "base_filters": widths[held - 1]} if held else point
