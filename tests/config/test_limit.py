"""Limits on networks: counted on the network itself, kept by the sampler, refused where nothing is left."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState
from torch.utils.flop_counter import FlopCounterMode

from models.cnn import build_cnn, count_parameters
from models.cost import cost
from study import StudyError
from study.config.limit import SHAPING, cheapest, cost_of, limit_violation
from study.config.resolve import resolve
from study.config.schema import StudyConfig
from study.config.space import contains, distributions, full_point, network_config
from study.search.trial import objective
from study.search.worker import search
from tests.conftest import open_work


@pytest.mark.parametrize("name", ["quick", "reference", "full"])
def test_the_cost_is_torchs_own_count(name: str) -> None:
    config = resolve(None, {"preset": name, "image_size": 32})
    point = full_point(config.space, cheapest(config.space, 32))
    architecture = network_config(point, 7, 32)
    model = build_cnn(architecture).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert cost(architecture).flops == counter.get_total_flops()
    assert cost(architecture).params == count_parameters(model)


def test_counting_draws_nothing() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    config = resolve(None, {"preset": "full", "seed": 77})
    cost.cache_clear()
    cost_of(config.space, cheapest(config.space, 64), 64)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", ["quick", "reference", "full"])
def test_no_point_is_cheaper_than_the_cheapest(name: str) -> None:
    config = resolve(None, {"preset": name})
    first = cheapest(config.space, config.image_size)
    assert first.keys() == distributions(config.space).keys()
    assert all(contains(config.space, key, value) for key, value in first.items())
    least = cost_of(config.space, first, config.image_size)
    for key, kind in distributions(config.space).items():
        if key not in SHAPING:
            continue
        for value in getattr(kind, "choices", None) or (kind.low, kind.high):  # type: ignore[attr-defined]
            other = cost_of(config.space, {**first, key: value}, config.image_size)
            assert (other.flops, other.numbers) >= (least.flops, least.numbers)


def test_drawn_points_lie_within_the_limit_and_an_enqueued_one_above_it_is_closed(
    tiny: Callable[..., StudyConfig], workspace: Callable[..., Any], tmp_path: Path
) -> None:
    space = {"space.num_conv_blocks": [1, 2], "space.filters_multiplier": [1, 2, 4], "space.base_filters": 4}
    free = tiny(**space)
    points = [{**cheapest(free.space, 8), "filters_multiplier": times} for times in (1, 2, 4)]
    middle = cost_of(free.space, points[1], 8)
    config = tiny(**space, limit={"gflops": 1.01 * middle.gflops}, trials=9, starts=[points[2], points[0]])
    work = workspace(config)
    study = open_work(work, f"sqlite:///{tmp_path}/optuna.db")
    list(search(study, objective(work)))
    closed, start, *drawn = study.trials()
    assert (closed.state, closed.user_attrs["why"]) == (TrialState.FAIL, "above_limit")
    assert "above the limit on networks: gflops" in closed.user_attrs["failed_because"]
    assert start.params == points[0]
    assert len(study.own_trials()) == 9
    for trial in drawn:
        assert limit_violation(config.limit, config.space, trial.params, 8) is None
    again = open_work(workspace(config), f"sqlite:///{tmp_path}/again.db")
    list(search(again, objective(work)))
    assert [trial.params for trial in again.trials()] == [trial.params for trial in study.trials()]


def test_a_depth_that_leaves_nothing_of_an_image_is_drawn_again(
    tiny: Callable[..., StudyConfig], workspace: Callable[..., Any], tmp_path: Path
) -> None:
    config = tiny(**{"space.num_conv_blocks": [1, 3], "space.stem_stride": [1, 2]}, trials=12, epochs=2, pruner="none")
    work = workspace(config)
    study = open_work(work, f"sqlite:///{tmp_path}/optuna.db")
    study.study.enqueue_trial({**cheapest(config.space, 8), "num_conv_blocks": 3, "stem_stride": 2})
    list(search(study, objective(work)))
    closed, *drawn = study.trials()
    assert closed.user_attrs["failed_because"].endswith("blocks 3, stem_stride 2: nothing is left of 8 pixels")
    seen = {(trial.params["num_conv_blocks"], trial.params["stem_stride"]) for trial in drawn}
    assert seen == {(1, 1), (1, 2), (3, 1)}


def test_a_limit_under_which_nothing_lies_is_refused() -> None:
    with pytest.raises(StudyError, match=r"no point of the space lies within the limit: the cheapest has params "):
        resolve(None, {"limit": {"params": 10}})
    with pytest.raises(StudyError, match=r"limit\.gflops"):
        resolve(None, {"limit": {"gflops": -1.0}})
    with pytest.raises(StudyError, match=r"limit\.gflops"):
        resolve(None, {"limit": {"gflops": math.inf}})
