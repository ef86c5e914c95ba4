"""What defines a study, compared with what an earlier version wrote down."""

from collections.abc import Callable

import pytest

from study import StudyError
from study.config.schema import StudyConfig
from study.search.contract import DEFAULTS, compare, contract_of


def test_a_contract_of_a_version_without_some_fields_is_the_same(tiny: Callable[..., StudyConfig]) -> None:
    wanted = contract_of(tiny(), "d", "p")
    kept = {key: value for key, value in wanted.items() if key not in ("tta", "near_starts", "starts", "limit")}
    unnamed = wanted[DEFAULTS]
    assert isinstance(unnamed, dict)
    kept[DEFAULTS] = {key: value for key, value in unnamed.items() if key not in ("block", "augment_turns", "decayed")}
    augment = kept["augment"]
    assert isinstance(augment, dict)
    kept["augment"] = {key: value for key, value in augment.items() if key != "turns"}
    compare("s", kept, wanted)
    with pytest.raises(StudyError, match=r"defaults\.head \(was gap, now flatten\)"):
        compare("s", {**kept, DEFAULTS: {**unnamed, "head": "gap"}}, wanted)
    with pytest.raises(StudyError, match=r"tta \(was none, now flips\)"):
        compare("s", kept, contract_of(tiny(tta="flips"), "d", "p"))
