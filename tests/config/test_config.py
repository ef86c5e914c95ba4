"""Where a configuration comes from, what it refuses and how it says so; rung arithmetic against Optuna's own."""

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import HyperbandPruner

from study import StudyError
from study.config.limit import cheapest
from study.config.presets import PRESETS
from study.config.resolve import PLANNED, ask, parse_setting, resolve
from study.config.rungs import brackets, check_rungs
from study.config.schema import StudyConfig
from study.config.space import (
    FROM_BACKBONE,
    FROM_SCRATCH,
    PARAMETERS,
    Range,
    contains,
    distributions,
    misfit,
    network_config,
    train_config,
    used_parameters,
    validated,
)
from study.search.sampling import make_pruner

PLAIN = [name for name in PRESETS if name != "auto"]
"""Presets that leave nothing to a plan."""


@pytest.mark.parametrize("name", PLAIN)
def test_presets_are_valid_and_survive_json(name: str) -> None:
    config = resolve(None, {"preset": name})
    assert StudyConfig.model_validate(config.model_dump(mode="json")) == config
    assert StudyConfig.model_validate(config.model_dump()) == config


def test_defaults_by_data(tmp_path: Path) -> None:
    assert resolve(None, {}).preset == "quick"
    asked = ask(None, {"data": str(tmp_path)})
    assert asked.fields["preset"] == "auto"
    assert set(asked.autos) == set(PLANNED) - {"trials"}
    with pytest.raises(StudyError, match=r"image_size, limit, .* = 'auto' is left to a plan"):
        asked.plain()
    assert resolve(None, {"data": str(tmp_path), "preset": "reference"}).sampler == "random"


def test_full_is_as_promised() -> None:
    config = resolve(None, {"preset": "full"})
    assert config.trials is not None
    assert config.trials >= 64
    assert 0.06 <= config.min_epochs / config.epochs <= 0.12
    assert config.baseline["filters_multiplier"] == 4
    assert all(contains(config.space, name, value) for name, value in config.baseline.items())


def test_a_file_with_settings_over_it(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'preset = "full"\ndata = "tissue"\ntrials = 8\nhours = 2\n'
        "[space]\nnum_conv_blocks = [3, 4]\nlearning_rate = { low = 1e-4, high = 1e-2, log = true }\n"
        'head = "gap"\n'
    )
    config = resolve(tmp_path / "s.toml", {"trials": 9, "space.num_conv_blocks": [3], "augment.hflip": False})
    assert (config.trials, config.hours, config.data) == (9, 2.0, "tissue")
    assert config.space["num_conv_blocks"] == [3]
    assert config.space["learning_rate"] == Range(low=1e-4, high=1e-2, log=True)
    assert set(distributions(config.space)) == {"num_conv_blocks", "learning_rate"}
    assert config.augment.hflip is False
    assert config.augment.vflip is True  # from the preset
    assert config.baseline == {}  # the preset's does not lie in this space


def test_the_preset_baseline_follows_a_space_that_still_holds_it() -> None:
    config = resolve(None, {"preset": "full", "space.head": "flatten"})
    assert "head" not in config.baseline
    assert config.baseline["num_conv_blocks"] == 4
    assert resolve(None, {"preset": "full", "baseline": {}}).baseline == {}


@pytest.mark.parametrize(
    ("given_fields", "message"),
    [
        ({"preset": "fulll"}, "unknown preset 'fulll'; did you mean full?"),
        ({"epoch": 3}, "unknown field 'epoch'; did you mean epochs?"),
        ({"augment.rotate": 3.0}, "unknown field 'augment.rotate'; did you mean rotation?"),
        ({"sampler": "tpee"}, "sampler = 'tpee': input should be 'tpe' or 'random'"),
        ({"trials": -3}, "trials = -3: input should be greater than or equal to 1"),
        ({"trials": 1.5}, "trials = 1.5: input should be a valid integer"),
        ({"epochs": "9"}, "epochs = '9': input should be a valid integer"),
        (
            {"space.num_conv_block": [3]},
            "unknown parameter 'num_conv_block' in the space; did you mean num_conv_blocks?",
        ),
        ({"space.head": ["gap", "flat"]}, "space.head: 'flat' is not allowed (allowed: flatten or gap)"),
        (
            {"space.num_conv_blocks": [0, 3]},
            "space.num_conv_blocks: 0 is not allowed (allowed: a whole number from 1 to 8)",
        ),
        ({"space.kernel_sizes": ["4-3"]}, "space.kernel_sizes: '4-3' is not allowed"),
        ({"space.use_batch_norm": [1]}, "space.use_batch_norm: 1 is not allowed (allowed: true or false)"),
        ({"space.learning_rate": {"low": 0.1, "high": 0.01}}, "low must be below high, not 0.1 and 0.01"),
        ({"space.conv_dropout": {"low": 0.0, "high": 0.5, "step": -0.1}}, "step must lie above 0 and within the range"),
        ({"space.conv_dropout": {"low": 0.0, "high": 0.5, "step": 0.6}}, "step must lie above 0 and within the range"),
        ({"space.head": {"low": 1, "high": 2}}, "space.head: takes a list of values, not a range"),
        ({"min_epochs": 9}, "Hyperband cannot prune before epoch 9 of 9"),
        ({"min_epochs": 1, "epochs": 243}, "use epochs=244"),
        ({"image_size": 8, "space.num_conv_blocks": [4]}, "image_size 8 is too small for 4 blocks"),
        ({"space.schedule": "plateau"}, 'set final_data = "train"'),
        ({"trials": None}, "a budget is needed: trials, or hours, or both"),
        ({"space": {"head": "gap"}}, "the space has nothing to search"),
        ({"baseline": {"head": "gap"}}, "baseline.head is not searched"),
        ({"baseline": {"num_conv_blocks": 2}}, "baseline lacks conv_dropout"),
    ],
)
def test_mistakes_are_named_in_one_line(given_fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError) as caught:
        resolve(None, given_fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_toml_mistakes_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("trials = 3\nepochs = = 4\n")
    with pytest.raises(StudyError, match=r"s\.toml is not valid TOML: .*line 2"):
        resolve(tmp_path / "s.toml", {})
    with pytest.raises(StudyError, match="no such study file"):
        resolve(tmp_path / "none.toml", {})


def test_settings_are_toml_values_or_strings() -> None:
    assert parse_setting("epochs=9") == ("epochs", 9)
    assert parse_setting('space.head = ["gap"]') == ("space.head", ["gap"])
    assert parse_setting("sampler=random") == ("sampler", "random")
    assert parse_setting(r"groups=(?P<group>patient\d+)_") == ("groups", r"(?P<group>patient\d+)_")
    with pytest.raises(StudyError, match="--set takes field=value, not 'epochs'"):
        parse_setting("epochs")


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 9), st.integers(2, 300), st.integers(2, 5))
def test_brackets_agree_with_optuna_wherever_they_are_accepted(first: int, epochs: int, eta: int) -> None:
    try:
        check_rungs(first, epochs, eta)
    except ValueError:
        count = math.floor(math.log(epochs / first, eta)) + 1 if epochs > first else 0
        assert first >= epochs or count != len(brackets(first, epochs, eta))
        return
    pruner = HyperbandPruner(min_resource=first, max_resource=epochs, reduction_factor=eta)
    pruner._try_initialization(optuna.create_study())
    ours = brackets(first, epochs, eta)
    assert len(ours) == len(pruner._pruners)
    for rungs, halving in zip(ours, pruner._pruners, strict=True):
        expected = [first * eta ** (halving._min_early_stopping_rate + rung) for rung in range(len(rungs))]
        assert list(rungs) == expected
        assert expected[-1] * eta > epochs


@pytest.mark.parametrize("name", PLAIN)
def test_brackets_of_trials_agree_with_optuna(name: str) -> None:
    config = resolve(None, {"preset": name})
    study = optuna.create_study(study_name="anything", pruner=make_pruner(config))
    pruner = study.pruner
    assert isinstance(pruner, HyperbandPruner)
    pruner._try_initialization(study)
    for number in range(50):
        trial = optuna.trial.create_trial(value=0.0)
        trial.number = number
        assert config.bracket_of("anything", number) == pruner._get_bracket_id(study, trial)


def test_parameters_all_have_a_valid_default_and_a_meaning() -> None:
    for parameter in PARAMETERS.values():
        assert parameter.check(parameter.default) == parameter.default
        assert parameter.meaning


@pytest.mark.parametrize("backbone", ["none", "efficientnet-lite0"])
def test_parameters_that_are_not_in_use_change_nothing(backbone: str) -> None:
    point: dict[str, Any] = {name: parameter.default for name, parameter in PARAMETERS.items()}
    other = {**point, "block": "residual", "num_conv_blocks": 2, "base_filters": 3, "filters_multiplier": 2}
    other |= {"kernel_sizes": "5", "stem_stride": 2, "use_batch_norm": False, "conv_dropout": 0.4, "head": "gap"}
    other |= {"dense_units": "7", "backbone_trained": 1.0, "backbone_rate": 0.7}
    point["backbone"] = other["backbone"] = backbone
    shown = used_parameters({}, point)
    assert used_parameters(
        {"backbone": backbone}, {key: value for key, value in point.items() if key != "backbone"}
    ).keys() == (shown.keys() - {"backbone"})
    assert set(point) - set(shown) == set(FROM_BACKBONE if backbone == "none" else FROM_SCRATCH)
    for name in set(point) - set(shown):
        assert point[name] != other[name]
        changed = {**point, name: other[name]}
        assert network_config(changed, 3, 64) == network_config(point, 3, 64)
        assert train_config(changed, 3, 8, None) == train_config(point, 3, 8, None)


@pytest.mark.parametrize("value", [None, [1], 10**400, "x", float("nan")])
def test_what_another_program_enqueued_may_be_anything(value: Any) -> None:
    space = resolve(None, {}).space
    assert not contains(space, "learning_rate", value)
    assert not contains(space, "num_conv_blocks", value)


def test_points_have_their_parameters_types() -> None:
    """As a table of numpy or pandas, or a TOML file, would give them: 3.0 blocks, a dropout of 0."""
    given = {"num_conv_blocks": 3.0, "conv_dropout": 0}
    space = {"num_conv_blocks": [2, 3], "conv_dropout": {"low": 0.0, "high": 0.5}}
    config = StudyConfig.model_validate(
        {"space": space, "starts": [given], "baseline": given, "data": "digits", "trials": 1}
    )
    for point in (config.starts[0], config.baseline):
        assert [type(value) for value in point.values()] == [int, float]
    with pytest.raises(ValueError, match="num_conv_blocks"):
        StudyConfig.model_validate(
            {"space": space, "starts": [{**given, "num_conv_blocks": 2.5}], "data": "digits", "trials": 1}
        )


@given(st.floats(1e-5, 1e-3), st.floats(7e-3, 1e-2), st.floats(1e-4, 5e-3))
def test_the_cheapest_point_lies_in_a_range_whose_steps_miss_its_end(low: float, high: float, step: float) -> None:
    space = validated({"learning_rate": Range(low=low, high=high, step=step), "weight_decay": [0.0]})
    assert misfit(space, cheapest(space, 32)) is None


def test_seconds_are_a_number_that_json_can_hold() -> None:
    with pytest.raises(ValueError, match="finite number"):
        StudyConfig.model_validate({"checkpoint_seconds": math.inf, "trials": 1, "space": {"weight_decay": [0.0, 0.1]}})
