"""Configuration from what was asked for: planned for a new study, made to agree with an existing one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

import torch
from pydantic import JsonValue
from pydantic_core import to_jsonable_python

from data.datasets import Survey, survey
from data.splits import refuse_too_few
from models.backbones import INSTALL, NETWORKS, preferred_local_network
from study import StudyError
from study.attributes import ASKED, CONFIG, FOUND_BY, PLANNED, STAGES, THREADS, kept
from study.budget.expect import Images, Throughput
from study.budget.measure import measure
from study.budget.plan import plan
from study.budget.stages import ENDS, Plan, Stage, measuring_seconds, taken
from study.config.presets import BACKBONE_SPACE
from study.config.resolve import StudyRequest
from study.config.schema import MAY_CHANGE, StudyConfig
from study.search.contract import flatten, stored_config
from study.search.older import add_older_points, find_older
from study.storage.address import parse_url, storage_option
from study.storage.backend import backend_of
from study.storage.door import load_study, open_storage, runs_folder
from study.storage.owners.clock import Clock
from study.storage.owners.processes import now

AGAIN_SECONDS = 5.0
"""Seconds for measuring if hours are given to a study that had none: only its final stage is planned."""

Tell = Callable[[int, int], None]
"""Function that is called with (networks measured, networks in all)."""


def settle(
    asked: StudyRequest, name: str, url: str, device: torch.device, tell: Tell | None = None, began: float | None = None
) -> tuple[StudyConfig, Plan | None]:
    """Return the configuration of a study, and its plan if one has to be made now.

    The configuration of an existing study is never planned anew; what is asked for is compared with what was asked for
    then. Raises StudyError and DataError.
    """
    there = stored_study(name, url)
    if there is not None:
        if asked.fields.get("runs") is None:  # the study's files stay where they are
            asked = replace(asked, fields={**asked.fields, "runs": there.config.runs})
        asked = _as_begun(asked, there.config)
        config = _agreed(name, url, there.config, there.asked, asked) if asked.autos else asked.plain()
        if there.planned or config.hours is None:
            return config, None
        images, throughput = look(StudyRequest(config.model_dump(mode="json")), url, device, tell, most=AGAIN_SECONDS)
        return config, plan(StudyRequest(config.model_dump(mode="json")), images, throughput, refuse=False)[1]
    older = asked.fields.get("begin_from")
    if isinstance(older, str):
        find_older(older, url)  # before anything is measured
    if not asked.autos and asked.fields.get("hours") is None:
        config, planned = asked.plain(), None
    else:
        asked, words = with_backbone(asked)
        images, throughput = look(asked, url, device, tell, began=began)
        config, planned = plan(asked, images, throughput)
        planned = planned and planned.model_copy(update={"begins": words})
    return add_older_points(config, url), planned


def _as_begun(asked: StudyRequest, before: StudyConfig) -> StudyRequest:
    """Return the request with the existing study's starts, if both name the same older study to begin from."""
    older = asked.fields.get("begin_from")
    if before.begin_from is None or older != before.begin_from or "starts" in asked.autos:
        return asked
    return replace(asked, fields={**asked.fields, "starts": before.model_dump(mode="json")["starts"]})


def with_backbone(asked: StudyRequest) -> tuple[StudyRequest, str]:
    """Let a new study whose starts are left to a plan begin from the pretrained network at hand.

    Returns the request, and words that say so. If the space says anything about a backbone, it stays as it is.
    """
    space = asked.fields.get("space")
    if "starts" not in asked.autos or not isinstance(space, dict) or "backbone" in space:
        return asked, ""
    name = preferred_local_network()
    if name is None:
        return asked, f"every network is trained from scratch: no pretrained one is at hand ({INSTALL})"
    known = NETWORKS[name]
    words = (
        f"networks from scratch are tried, and {name} with pretrained weights ({known.made_by}; {known.licence}; "
        "--set space.backbone=none leaves it out)"
    )
    searched: JsonValue = {**space, "backbone": ["none", name], **BACKBONE_SPACE}
    return replace(asked, fields={**asked.fields, "space": searched}), words


def look(
    asked: StudyRequest,
    url: str,
    device: torch.device,
    tell: Tell | None = None,
    most: float = math.inf,
    began: float | None = None,
) -> tuple[Images, Throughput]:
    """Collect what a plan needs, writing nothing: facts about images, and the speed of this machine.

    `most`: seconds to measure. `began`: when the command began, by processes.now.
    """
    data, groups, hours, runs = (asked.fields.get(key) for key in ("data", "groups", "hours", "runs"))
    cache = runs_folder(url, runs if isinstance(runs, str) else None) / "cache"
    seen = _survey(asked, str(data or "digits"), cache, groups if isinstance(groups, str) else None)
    seconds = measuring_seconds(float(hours) if isinstance(hours, int | float) else None)
    throughput = measure(device, min(most, 0.9 * seconds), seen.some, tell)
    if began is not None:
        throughput = replace(throughput, before=now() - began)
    images = Images(
        count=seen.count,
        side=seen.side,
        grouped=seen.grouped,
        imbalance=seen.imbalance,
        proposal=seen.proposal.line() if seen.proposal else None,
        account=(*seen.account, *(one.line() for one in seen.suspicions)),
    )
    return images, throughput


def _survey(asked: StudyRequest, data: str, cache: Path, groups: str | None) -> Survey:
    """Survey the images by their file names. Raises DataError and StudyError if a study of them would be refused."""
    given = asked.fields
    parts, without, only, positive = (given.get(key) for key in ("parts", "without", "only", "positive"))
    seen = survey(
        data,
        cache,
        groups,
        str(given.get("labels_from") or "first"),
        parts=parts if isinstance(parts, str) else None,
        without=[str(name) for name in without] if isinstance(without, list) else (),
        only=only if isinstance(only, str) else None,
        skip_bad=bool(given.get("skip_bad")),
    )
    check_positive([str(name) for name in positive] if isinstance(positive, list) else [], list(seen.sizes))
    if given.get("protocol") != "random":
        refuse_too_few(seen)
    return seen


def check_positive(positive: Sequence[str], classes: Sequence[str]) -> None:
    """Raise StudyError if one of `positive` is not a class; without classes nothing is checked."""
    if classes and (strange := [name for name in positive if name not in classes]):
        raise StudyError(f"positive: no class {strange[0]!r} (there are: {', '.join(classes)})")


@dataclass(frozen=True)
class StoredStudy:
    """Study as it is stored in its database."""

    config: StudyConfig
    asked: JsonValue  # the fields as they were given; None if nothing was left to a plan
    planned: Plan | None
    found_by: str | None  # the version that found the groups, if that was noted
    threads: int | None  # threads of each process, if that was noted
    spent: float  # seconds by the study's clock
    taken: dict[Stage, float]  # seconds of each stage that has ended


def stored_study(name: str, url: str) -> StoredStudy | None:
    """Return what is known of a study; None if it does not exist."""
    place = parse_url(url)
    file = backend_of(place).file(place)
    if file and not file.exists():
        return None
    try:
        storage = open_storage(url, create=False, write=False)
    except StudyError:  # no tables yet; opening it for writing says what is wrong
        return None
    if name not in storage.study_names():
        return None
    study = load_study(storage, name)
    if CONFIG not in study.user_attrs:  # a study of plain Optuna, or one killed before anything was written
        return None
    attributes = study.user_attrs
    return StoredStudy(
        config=stored_config(study),
        asked=kept(attributes, ASKED, dict[str, JsonValue]),
        planned=kept(attributes, PLANNED, Plan),
        threads=kept(attributes, THREADS, int),
        spent=Clock(storage, study._study_id).spent(),
        found_by=kept(attributes, FOUND_BY, str),
        taken=taken(kept(attributes, STAGES, ENDS) or {}),
    )


def _agreed(name: str, url: str, config: StudyConfig, before: JsonValue, asked: StudyRequest) -> StudyConfig:
    """Return a study's planned configuration, with MAY_CHANGE fields as asked. Raises StudyError for other changes."""
    resume = f"study resume {quote(name)}{storage_option(url)}"
    if not isinstance(before, dict):
        raise StudyError(
            f"the study {name!r} exists and was not planned: {', '.join(asked.autos)} cannot be left open "
            f"(go on with it: {resume}; or start another with --name)"
        )
    # Fields of later versions take the defaults that keep the old behaviour.
    defaults = {key: to_jsonable_python(field.default) for key, field in StudyConfig.model_fields.items()}
    since = {key: defaults[key] for key in asked.autos if key not in before}
    before, now = {**defaults, **before}, {**defaults, **asked.fields, **since}
    defining = (before.keys() | now.keys()) - set(MAY_CHANGE)
    old, new = (flatten({key: one.get(key) for key in defining}) for one in (before, now))
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if differing:
        shown = ", ".join(f"{key} (was {old.get(key)}, now {new.get(key)})" for key in differing[:5])
        raise StudyError(
            f"the study {name!r} exists with a different definition: {shown} "
            f"(go on with the old one: {resume}; or start another with --name)"
        )
    changes = {key: now[key] for key in MAY_CHANGE if key in now and now[key] != "auto"}
    return config.with_fields(changes)
