"""What a search found beyond the networks that it began with, and by when."""

from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.config.resolve import resolve
from study.config.space import distributions
from study.result.gain import best_start, gain
from study.search.standing import is_start, promise

BEGAN = datetime(2026, 1, 1)
CONFIG = resolve(None, {"preset": "quick"})


def trial(number: int, value: float | None, seconds: float = 10.0, *, start: bool = False) -> FrozenTrial:
    """A trial that ended after `number` + 1 minutes; without a value it was pruned."""
    made = create_trial(
        state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
        value=value,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        user_attrs={"seconds": seconds},
        system_attrs={"fixed_params": {"x": 0.5}} if start else {},
    )
    made.number, made.datetime_complete = number, BEGAN + timedelta(minutes=number + 1)
    return made


def test_the_best_start_the_best_drawn_and_what_half_the_time_gave() -> None:
    trials = [trial(0, 0.5, start=True), trial(1, 0.7, start=True), trial(2, None), trial(3, 0.6), trial(4, 0.9)]
    found = gain(CONFIG, trials, trials[4])
    assert [one and one.number for one in (found.start, found.drawn, found.half)] == [1, 4, 1]
    assert found.so_far == [(10, 0.5), (20, 0.7), (40, 0.7), (50, 0.9)]


def test_a_search_that_ended_no_trial_has_no_best() -> None:
    found = gain(CONFIG, [trial(0, None, start=True)], trial(0, None, start=True))
    assert (found.start, found.drawn, found.half, found.so_far) == (None, None, None, [])


values = st.none() | st.floats(0, 1)


@given(st.lists(st.tuples(values, st.floats(0.1, 100), st.booleans()), min_size=1, max_size=12))
def test_the_best_never_falls_and_half_is_no_better_than_the_whole(rows: list[Any]) -> None:
    trials = [trial(place, value, seconds, start=start) for place, (value, seconds, start) in enumerate(rows)]
    found = gain(CONFIG, reversed(trials), trials[0])
    scores = [score for _, score in found.so_far]
    assert scores == sorted(scores)
    ended = [value for value, _, _ in rows if value is not None]
    assert (scores[-1] if scores else None) == (max(ended) if ended else None)
    if found.half:
        assert found.half.value is not None
        assert found.half.value <= scores[-1]
    assert {one.number for one in (found.start, best_start(CONFIG, trials)) if one} <= {
        one.number for one in trials if is_start(one)
    }


def test_a_new_last_layer_alone_must_lead_by_more_than_a_longer_training_brings() -> None:
    """In short trials it leads, whatever is best in the end."""
    given: dict[str, Any] = {"space.backbone": ["none", "efficientnet-lite0"], "space.backbone_trained": [0.0, 1.0]}
    config = resolve(
        None, {"preset": "full", "baseline": {}, "epochs": 6, "min_epochs": 2, "final_epochs": 36, **given}
    )

    def trained(value: float, backbone: str, share: float) -> FrozenTrial:
        point = {name: _some(kind) for name, kind in distributions(config.space).items()}
        point |= {"backbone": backbone, "backbone_trained": share}
        kinds = distributions(config.space)
        return create_trial(value=value, params=point, distributions=kinds, system_attrs={"fixed_params": point})

    frozen = promise(config, trained(0.936, "efficientnet-lite0", 0.0))
    assert frozen == 0.936
    whole = promise(config, trained(0.929, "efficientnet-lite0", 1.0))
    assert frozen < whole < 0.96
    assert promise(config, trained(0.80, "none", 0.0)) < frozen  # but not whatever it leads by
    assert promise(config, trained(0.929, "none", 0.0)) == whole
    found = []
    for number, (value, backbone, share) in enumerate(((0.936, "efficientnet-lite0", 0.0), (0.929, "none", 0.0))):
        one = trained(value, backbone, share)
        one.number, one.datetime_complete = number, BEGAN
        found.append(one)
    free = config.model_copy(update={"prune_starts": False})
    for rule, first in ((config, 0), (free, 1)):  # the winner's rule is that of the starts beside it
        assert [gain(rule, found, found[first]).start, best_start(rule, found)] == 2 * [found[first]]
    longer = config.model_copy(update={"final_epochs": 72})
    assert promise(longer, trained(0.929, "none", 0.0)) > whole


def _some(kind: Any) -> Any:
    return kind.choices[0] if isinstance(kind, CategoricalDistribution) else kind.low
