"""What the hours buy: properties over made-up machines and folders."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from models.cost import Cost
from study import StudyError
from study.budget.expect import Images, Throughput, epoch_seconds
from study.budget.plan import FULL_TRAININGS, plan
from study.budget.stages import (
    AFTER,
    SPARE,
    Plan,
    expected_seconds,
    extend_final_stage,
    replan,
    shorten_final_stage,
    taken,
)
from study.budget.starts import START_SHARE
from study.config.limit import cost_of, limit_violation
from study.config.resolve import StudyRequest, ask, resolve
from study.config.rungs import brackets, expected_epochs
from study.config.schema import StudyConfig
from study.config.space import Range

HERE = Throughput(
    flops=6e10, numbers=8e8, pixels=3e7, step=0.002, decode=0.003, group=0.015, result=15.0, result_image=0.006
)
"""About two cores of 2026."""

SPEEDS = st.floats(-2, 3).map(lambda exponent: 10.0**exponent)
HOURS = st.floats(math.log(0.02), math.log(48)).map(math.exp)
COUNTS = st.floats(math.log(60), math.log(100_000)).map(lambda exponent: round(math.exp(exponent)))
FOLDERS: SearchStrategy[Images] = st.builds(
    Images, count=COUNTS, side=st.none() | st.sampled_from([8, 48, 224, 768]), grouped=st.booleans()
)


def asked(hours: float, **given: object) -> StudyRequest:
    return ask(None, {"data": "somewhere", "hours": hours, **given})  # type: ignore[dict-item]


def planned(hours: float, images: Images, throughput: Throughput, **given: object) -> tuple[StudyConfig, Plan]:
    config, found = plan(asked(hours, **given), images, throughput)
    assert found is not None
    return config, found


def test_the_strong_starts_are_as_wide_as_their_share_of_the_limit_allows() -> None:
    config, _ = planned(2.0, Images(count=5000, side=96, grouped=True), HERE)
    assert config.limit.gflops is not None
    room = config.limit.model_copy(update={"gflops": START_SHARE * config.limit.gflops})
    entry = config.space["base_filters"]
    assert isinstance(entry, Range)
    for start in config.starts[1:]:
        assert limit_violation(room, config.space, start, config.image_size) is None
        wider = {**start, "base_filters": int(start["base_filters"]) + 1}
        assert start["base_filters"] == entry.high or limit_violation(room, config.space, wider, config.image_size)
    assert all(int(start["base_filters"]) > entry.low for start in config.starts[1:])


@settings(max_examples=60, deadline=None)
@given(hours=HOURS, images=FOLDERS, speed=SPEEDS)
def test_a_plan_fits_its_hours_or_says_how_many_would_do(hours: float, images: Images, speed: float) -> None:
    machine = HERE.faster(speed)
    try:
        config, found = planned(hours, images, machine)
    except StudyError as error:
        enough = float(str(error).rpartition("--hours ")[2].rstrip(")"))
        assert enough > hours
        config, found = planned(enough, images, machine)
        hours = enough
    seconds = 3600 * hours
    assert sum(found.stages.values()) <= seconds * (1 + 1e-9)
    after = found.stages["confirmation"] + found.stages["final training"] + found.stages["result"]
    if not found.given_up:
        assert after <= AFTER * seconds * (1 + 1e-9)
        assert found.after_search >= AFTER * seconds * (1 - 1e-9)
    assert brackets(config.min_epochs, config.epochs, config.eta)  # and StudyConfig refuses what Optuna would not serve
    assert config.trials is not None
    assert 1 <= len(config.starts) <= 4
    costs = [cost_of(config.space, start, config.image_size).flops for start in config.starts]
    assert costs[0] == min(costs)  # there is always a model
    assert not any(config.above_limit(start) for start in config.starts)
    assert StudyConfig.model_validate(config.model_dump(mode="json")) == config


@settings(max_examples=40, deadline=None)
@given(hours=HOURS, images=FOLDERS, speed=SPEEDS, times=st.floats(1.0, 50.0))
def test_a_faster_machine_never_gets_less(hours: float, images: Images, speed: float, times: float) -> None:
    try:
        slow, _ = planned(hours, images, HERE.faster(speed))
    except StudyError:
        return  # then nothing was given
    fast, _ = planned(hours, images, HERE.faster(speed * times))
    assert fast.image_size >= slow.image_size
    assert (fast.limit.gflops or 0) >= (slow.limit.gflops or 0)
    assert (fast.limit.megabytes or 0) >= (slow.limit.megabytes or 0)
    assert fast.epochs >= slow.epochs
    assert fast.final_epochs >= slow.final_epochs


@settings(max_examples=30, deadline=None)
@given(hours=HOURS, images=FOLDERS, speed=SPEEDS)
def test_the_search_affords_several_full_trainings(hours: float, images: Images, speed: float) -> None:
    try:
        config, found = planned(hours, images, HERE.faster(speed))
    except StudyError:
        return
    if found.given_up:
        return
    before = found.stages["measuring"] + found.stages["images"]
    epoch = epoch_seconds(config, images, HERE.faster(speed), Cost(flops=0, numbers=0, params=0))
    assert (1 - AFTER) * 3600 * hours - before >= FULL_TRAININGS * config.epochs * epoch


def test_what_was_given_is_never_overruled() -> None:
    given = {"image_size": 96, "epochs": 9, "min_epochs": 3, "final_seeds": 2, "trials": 5}
    config, _ = planned(8.0, Images(count=2000, side=224, grouped=True), HERE, **given)
    assert {name: getattr(config, name) for name in given} == given
    with pytest.raises(StudyError, match=r"hours = 0\.05 is too short .* --hours "):
        planned(0.05, Images(count=100_000, side=224, grouped=True), HERE, **given)


def test_unequal_classes_count_the_same() -> None:
    def of(imbalance: float, **given: str) -> tuple[str, str]:
        images = Images(count=2000, side=224, grouped=True, imbalance=imbalance)
        config, _ = planned(8.0, images, HERE, **given)
        return config.metric, config.class_weights

    assert of(2.9) == ("accuracy", "none")
    assert of(3.0) == ("balanced_accuracy", "balanced")
    assert of(10.0, metric="accuracy") == ("accuracy", "balanced")
    assert of(1.0, class_weights="balanced") == ("accuracy", "balanced")


def test_small_files_get_no_more_pixels_than_they_have() -> None:
    config, _ = planned(48.0, Images(count=500, side=40, grouped=True), HERE.faster(100))
    assert config.image_size <= 40


def test_the_least_hours_are_refused_with_those_that_do() -> None:
    images = Images(count=5000, side=224, grouped=True)
    with pytest.raises(StudyError, match=r"hours = 0\.01 is too short here for the images, one epoch") as refused:
        planned(0.01, images, HERE)
    enough = float(str(refused.value).rpartition("--hours ")[2].rstrip(")"))
    assert planned(enough, images, HERE)[1].given_up
    with pytest.raises(StudyError, match="is too short"):
        planned(0.85 * enough, images, HERE)


def test_few_hours_buy_less_of_a_search_and_it_is_said() -> None:
    images = Images(count=5000, side=224, grouped=True)
    found = [planned(hours, images, HERE) for hours in (0.01772, 0.024, 0.028, 0.033, 0.05, 0.08, 0.3, 1.0)]
    for config, one in found:
        assert sum(one.stages.values()) <= 3600 * one.hours
        assert one.after_search <= 3600 * one.hours
        assert config.trials is not None
    words = [one.given_up for _, one in found]
    order = [
        "these hours hold little more than an epoch of the cheapest network",
        "these hours hold little more than the cheapest network",
        "these hours hold little more than the networks that are tried first",
        "these hours hold a short search only",
        "",
    ]
    assert [order.index(one) for one in words] == sorted(order.index(one) for one in words)
    assert set(words) == set(order)
    for (config, one), (richer, _) in pairwise(found):
        if one.given_up:
            assert richer.final_epochs >= config.final_epochs


def test_a_scarce_plan_that_is_made_again_keeps_its_search() -> None:
    images = Images(count=5000, side=224, grouped=True)
    config, found = planned(0.03, images, HERE)
    assert found.given_up
    network = cost_of(config.space, config.starts[0], config.image_size)
    usual = epoch_seconds(config, images, HERE, network)
    for times in (2.0, 0.5):
        again = replan(config, found, images, [(network, times * usual)] * 3)
        assert again is not None
        assert again.after_search == pytest.approx(again.stages["final training"] + again.stages["result"])
        assert sum(again.stages.values()) <= 3600 * found.hours + 1e-6
        assert (again.stages["search"] > found.stages["search"]) == (times < 1)


@settings(max_examples=40, deadline=None)
@given(hours=HOURS, images=FOLDERS, speed=SPEEDS)
def test_the_search_gets_what_nothing_else_needs(hours: float, images: Images, speed: float) -> None:
    machine = HERE.faster(speed)
    try:
        config, found = planned(hours, images, machine)
    except StudyError:
        return
    if found.given_up:
        return
    stages = expected_seconds(config.with_fields({"trials": None}), images, machine, hours)
    before = stages["measuring"] + stages["images"]
    others = sum(stages.values()) - stages["search"]
    assert stages["search"] == pytest.approx(max(0.0, min((1 - AFTER) * 3600 * hours - before, 3600 * hours - others)))


def test_without_hours_there_is_nothing_to_plan() -> None:
    images = Images(count=100, side=8, grouped=True)
    assert plan(StudyRequest(resolve(None, {}).model_dump(mode="json")), images, HERE)[1] is None
    fields = {name: value for name, value in asked(1.0).fields.items() if name != "hours"}
    with pytest.raises(StudyError, match="'auto' needs hours to plan with"):
        plan(StudyRequest(fields), images, HERE)


def test_a_study_that_names_every_field_gets_seconds_and_stays_as_it_is() -> None:
    given = resolve(None, {"hours": 1.0})
    config, found = plan(StudyRequest(given.model_dump(mode="json")), Images(count=1797, side=8, grouped=True), HERE)
    assert config == given
    assert found is not None
    assert found.stages["final training"] > 0


def test_a_stage_that_takes_too_long_leaves_out_what_only_compares_first() -> None:
    config = resolve(None, {"preset": "full", "confirm_epochs": 10, "final_epochs": 50})
    whole = 2 * 3 * 10 + 50 * (3 + 2)
    steps = [shorten_final_stage(config, 1.0, seconds) for seconds in (whole, whole - 1, 211, 161, 100, 80, 49, 9, -5)]
    shown = [(one.confirm, one.final_seeds, one.rivals, one.final_epochs) for one in steps]
    both = ("runner-up", "baseline")
    assert shown == [
        (3, 3, both, 50),
        (3, 3, ("runner-up",), 50),
        (3, 1, ("runner-up",), 50),
        (3, 1, ("runner-up",), 50),
        (2, 1, (), 50),
        (1, 1, (), 50),
        (1, 1, (), 49),
        (1, 1, (), 9),
        (1, 1, (), 8),
    ]
    for more, less in pairwise(steps):
        assert less.final_epochs <= more.final_epochs


def test_time_that_is_left_buys_what_was_left_to_the_plan() -> None:
    config = resolve(None, {"preset": "quick", "final_epochs": 20, "confirm_epochs": 10})
    autos = ("confirm", "rivals", "final_seeds", "final_epochs")
    steps = [
        extend_final_stage(config, autos, 1.0, seconds / SPARE)
        for seconds in (10, 20.5, 25.5, 30.5, 90.5, 130.5, 170.5)
    ]
    shown = [(one.final_epochs, one.confirm, one.final_seeds, one.rivals) for one in steps]
    both = ("runner-up", "baseline")
    assert shown == [
        (20, 1, 1, both),
        (20, 1, 1, both),
        (25, 1, 1, both),
        (30, 1, 1, both),
        (45, 1, 2, both),
        (45, 2, 1, both),
        (45, 3, 1, both),
    ]
    assert extend_final_stage(config, ("rivals",), 1.0, 1e9).rivals == (*both, "best start")
    for one in steps[2:]:
        assert shorten_final_stage(one, 1.0, 171) == one


def test_what_several_workers_do_at_once_takes_the_time_of_one() -> None:
    """Six confirmations of 10 epochs and five trainings of 50 are two rounds of each for four workers."""
    config = resolve(None, {"preset": "full", "confirm_epochs": 10, "final_epochs": 50})
    assert shorten_final_stage(config, 1.0, 120, at_once=4) == config
    assert shorten_final_stage(config, 1.0, 119, at_once=4) != config
    assert shorten_final_stage(config, 1.0, 309) != config == shorten_final_stage(config, 1.0, 310)
    assert shorten_final_stage(config, 1.0, 49, at_once=64).final_epochs == 49  # no training is shared
    quick = resolve(None, {"preset": "quick", "final_epochs": 20, "confirm_epochs": 10})
    alone, together = (extend_final_stage(quick, ("final_seeds",), 1.0, 20 / SPARE, at_once=count) for count in (1, 5))
    assert (alone.final_seeds, together.final_seeds) == (1, 3)


@given(st.floats(1, 2000))
def test_what_is_shortened_and_then_extended_fits_and_uses_what_is_left(seconds: float) -> None:
    config = resolve(None, {"preset": "full", "confirm_epochs": 10, "final_epochs": 50})
    autos = ("confirm", "rivals", "final_seeds", "final_epochs")
    short = shorten_final_stage(config, 1.0, seconds)
    found = extend_final_stage(short, autos, 1.0, seconds)
    assert found.final_epochs >= short.final_epochs
    if found != short:
        assert shorten_final_stage(found, 1.0, seconds) == found
    alone = found.confirm == 1 and found.final_seeds == 1 and not found.rivals
    if alone and seconds >= 50:  # a training alone is as long as there is time, up to twice its length
        assert found.final_epochs >= min(100, int(SPARE * seconds))


def test_a_space_that_leaves_nothing_of_small_images_gets_larger_ones() -> None:
    given = {"limit": {}, "space.num_conv_blocks": 5, "space.stem_stride": 2}
    config, _ = planned(1.0, Images(count=200, side=224, grouped=True), HERE, **given)
    assert config.image_size >= 64
    with pytest.raises(StudyError, match="too small for every point of the space: 5 blocks and a stem_stride of 2"):
        resolve(
            None,
            {"preset": "full", "image_size": 32, "baseline": {}, "space.stem_stride": 2, "space.num_conv_blocks": 5},
        )


def test_what_each_stage_took() -> None:
    ends = {"measuring": 5.0, "images": 8.0, "search": 100.0, "confirmation": 100.0, "final training": 140.5}
    took = {"measuring": 5.0, "images": 3.0, "search": 92.0, "confirmation": 0.0, "final training": 40.5}
    assert taken(ends) == took
    assert taken({}) == {}


def test_expected_epochs_by_hand() -> None:
    # Two brackets of (1, 3) with eta 3: shares ceil(2 * 3 / 2) = 3 and 2; one trains 1 + 2 / 3 epochs, the other all 3.
    assert expected_epochs(1, 3, 3) == pytest.approx((3 * (1 + 2 / 3) + 2 * 3) / 5)
    # After the last rung the rest of the epochs.
    assert expected_epochs(2, 8, 3) == pytest.approx((3 * (2 + 4 / 3 + 2 / 9) + 2 * (6 + 2 / 3)) / 5)


def test_where_the_first_trials_take_longer_the_rest_is_planned_again() -> None:
    images = Images(count=5000, side=224, grouped=True)
    config, found = planned(2.0, images, HERE)
    network = cost_of(config.space, config.starts[1], config.image_size)
    usual = epoch_seconds(config, images, HERE, network)

    def again(times: float, trials: int = 3) -> Plan | None:
        return replan(config, found, images, [(network, times * usual)] * trials)

    assert again(1.4) is None
    assert again(0.7) is None
    assert again(2.0, trials=2) is None
    assert again(2.0, trials=4) == again(2.0)  # the first three count, also where two ended at once
    assert replan(config, found, images, [*[(network, usual)] * 3, (network, 9 * usual)]) is None
    slower, faster = again(2.0), again(0.5)
    assert slower is not None
    assert faster is not None
    assert slower.again == "an epoch of the first 3 trials took 2.0 times as long as planned"
    assert slower.epoch == pytest.approx(2 * found.epoch)
    assert slower.after_search >= found.after_search >= faster.after_search
    assert slower.stages["final training"] > 1.5 * found.stages["final training"]
    assert slower.stages["images"] == found.stages["images"]
    assert sum(slower.stages.values()) <= 2 * 3600
    slowest = again(
        6.0
    )  # too slow for all of it: what only compares is left out, and then the final training is shorter
    assert slowest is not None
    assert sum(slowest.stages.values()) <= 2 * 3600
    assert slowest.stages["confirmation"] == 0
    assert slowest.stages["final training"] > 0
    assert replan(config, slower, images, [(network, 9 * usual)] * 3) is None  # not again and again
