"""Private names of Optuna that this program relies on, and what happens where a later version lacks one.

Besides these, only `_trial_id` and `_study_id` are used, which Optuna's own extensions use too, the tables, whose
version is written in the database itself, and the type `optuna.study._frozen.FrozenStudy` in annotations.
"""

import logging
from functools import cache

import optuna
from optuna.pruners import HyperbandPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.storages._rdb import models as tables

__all__ = ["CHECKED", "FASTER", "tables", "there"]

CHECKED = "5.0.0"
"""Version of Optuna that the names were last checked against."""

FASTER: dict[tuple[type, str], str] = {
    (TPESampler, "_get_internal_repr"): "TPE recomputes the numbers of all trials for every suggestion",
    (HyperbandPruner, "_create_bracket_study"): "Hyperband hashes the names of all trials at every rung",
    (HyperbandPruner, "_get_bracket_id"): "Hyperband hashes the names of all trials at every rung",
    (HyperbandPruner, "_pruners"): "Hyperband hashes the names of all trials at every rung",
    (optuna.Study, "_get_trials"): "Hyperband hashes the names of all trials at every rung",
    (RDBStorage, "_get_trials"): "trials are read through the object mapper, six tables each time",
}
"""Names that we override for speed alone -> what Optuna does without that, with the same results, but slower."""

logger = logging.getLogger(__name__)


@cache
def there(*names: tuple[type, str]) -> bool:
    """Return whether Optuna still has all of these names; where it has not, log once what follows."""
    lost = [(owner, name) for owner, name in names if not _has(owner, name)]
    for owner, name in lost:
        lost_name = f"{owner.__name__}.{name} (checked with {CHECKED})"
        logger.warning(f"Optuna {optuna.__version__} has no {lost_name}: {FASTER[owner, name]}")
    return not lost


def _has(owner: type, name: str) -> bool:
    """Return whether a class has an attribute, or gives it to its instances in `__init__`."""
    return hasattr(owner, name) or name in owner.__init__.__code__.co_names  # type: ignore[misc]
