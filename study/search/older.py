"""Beginning from an older study: its best points are tried first, and its openings of the test part count."""

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from models import ModelError
from study import StudyError
from study.attributes import CONFIG, CONTRACT, OPENINGS, kept
from study.config.limit import cheapest
from study.config.schema import StudyConfig
from study.config.space import Value, contains, distributions, fixed_values
from study.search.contract import Contract, contents_of, files_of, stored_config
from study.search.standing import best_first
from study.storage.address import parse_url, shown
from study.storage.door import load_study, open_storage

if TYPE_CHECKING:
    from models.bundle.card import Opening

BEST = 5
"""Number of the older study's trials that are tried first."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OlderStudy:
    """Study that another one begins from."""

    study: optuna.Study
    url: str  # of its database


def find_older(text: str, url: str) -> OlderStudy:
    """Find the study NAME of the same database, or URL#NAME of another one. Raises StudyError if it cannot be used."""
    there, mark, name = text.rpartition("#")
    if mark and (address := parse_url(there)).password:
        raise StudyError(
            f"--from {shown(address)}#{name}: the address is kept with the study, and so would be its password "
            "(leave it out, and set PGPASSWORD)"
        )
    place = there if mark else url
    study = load_study(open_storage(place, create=False, write=False), name)
    if len(study.directions) > 1:
        raise StudyError(f"--from {text}: the study has several objectives, and a new one has only one, an accuracy")
    return OlderStudy(study, place)


def add_older_points(config: StudyConfig, url: str) -> StudyConfig:
    """Put the best points of the older study before the other starts, and log how many of them the space holds."""
    if config.begin_from is None:
        return config
    older = find_older(config.begin_from, url)
    trials = older.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = best_first(trials, smallest=older.study.direction == StudyDirection.MINIMIZE)[:BEST]
    points: list[dict[str, Value]] = []
    for trial in best:
        point = _inside(config, _whole(older.study, trial.params))
        if point is not None and point not in points:
            points.append(point)
    logger.warning(
        f"{len(points)} of the best {len(best)} trials of the study {older.study.study_name!r} fit this study's space, "
        "and are tried first"
    )
    starts = [*points, *(one for one in config.starts if one not in points)]
    return config.with_fields({"starts": starts})


def _whole(older: optuna.Study, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters, with those that its study had fixed, if that study was made by this program."""
    if CONFIG not in older.user_attrs:
        return dict(params)
    return {**fixed_values(stored_config(older).space), **params}


def _inside(config: StudyConfig, params: Mapping[str, Any]) -> dict[str, Value] | None:
    """Return the point of the space with these parameters; None if space or limit does not allow it.

    Parameters that the older study did not have are taken from the cheapest network.
    """
    searched = distributions(config.space)
    given = {name: value for name, value in params.items() if name in searched}
    if not given or not all(contains(config.space, name, value) for name, value in given.items()):
        return None
    if any(params.get(name, value) != value for name, value in fixed_values(config.space).items()):
        return None
    point = {**cheapest(config.space, config.image_size), **given}
    return None if config.above_limit(point) else point


def earlier_openings(config: StudyConfig, url: str, fingerprint: str, contents: Collection[str]) -> list["Opening"]:
    """Return the older study's openings of its test part, if it had some of these images; otherwise none.

    `fingerprint`, `contents`: hashes of all images together, and of each file.
    """
    if config.begin_from is None:
        return []
    from models.bundle.card import Opening  # it imports torch

    older = find_older(config.begin_from, url)
    looks = kept(older.study.user_attrs, OPENINGS, list[Opening]) or []
    contract = kept(older.study.user_attrs, CONTRACT, Contract) or {}
    content = str(contract.get("data content"))
    if not looks or not (content == fingerprint or _shares(older, content, contents)):
        return []
    looks = [one.model_copy(update={"study": one.study or older.study.study_name}) for one in looks]
    logger.warning(
        f"the test part of the study {older.study.study_name!r}, which has some or all of these images, was opened "
        f"{'once' if len(looks) == 1 else f'{len(looks)} times'}: that counts here, too"
    )
    return looks


def _shares(older: OlderStudy, content: str, contents: Collection[str]) -> bool:
    """Return whether an older study had some of these files, judged by its cache of decoded images or by its model."""
    from models.bundle.folder import SEEN_DIGITS, seen_images

    folder = files_of(older.study, older.url)
    before = set(contents_of(folder.parent / "cache", content))
    with suppress(ModelError):
        before |= seen_images(folder / "model") or frozenset()
    return any(one in before or one[:SEEN_DIGITS] in before for one in contents)
