"""The work and the output of `study plan`."""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress

import torch
from pydantic import JsonValue, ValidationError

from study import StudyError
from study.budget.expect import Images, Throughput
from study.budget.plan import plan
from study.budget.stages import Plan, Stage, in_words
from study.cli.console import duration, err, print_table, quiet_optuna
from study.cli.display import first_lines
from study.cli.display import show as display_on
from study.cli.options import BEGAN, choose_devices
from study.cli.options import in_words as in_words_of
from study.config.resolve import StudyRequest
from study.config.schema import StudyConfig
from study.search.older import find_older
from study.search.opening import default_name, with_absolute_data
from study.search.settle import StoredStudy, look, stored_study, with_backbone
from study.storage.names import check_name
from study.storage.trouble import storage_trouble

UNOPENED = (
    "files were counted by their names: one that cannot be read, or a held-out image whose source is also trained on, "
    "stops a study before it begins"
)
OTHERS = (1.0, 4.0, 12.0)
"""Hours that are shown beside those that were given."""


def show(asked: StudyRequest, name: str | None, storage: str, device: str, as_json: bool) -> None:
    """Print the plan of a study that exists, or what the hours would buy here for one that does not."""
    quiet_optuna()
    asked = with_absolute_data(asked)
    with storage_trouble(storage):
        there = stored_study(check_name(name or default_name(asked)), storage)
    if there is not None and there.planned is not None:
        if typed := _typed_otherwise(asked, there):
            err.print(
                f"the study exists, and its own plan is shown, without {', '.join(typed)} as typed now (another study "
                "is planned by another --name)",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        _show_kept(there, there.planned, as_json)
        return
    if isinstance(older := asked.fields.get("begin_from"), str):
        with storage_trouble(storage):
            find_older(older, storage)
    if asked.fields.get("hours") is None:
        raise StudyError("a study without hours has no plan (for example: study plan --hours 2)")
    devices = choose_devices(device)
    asked, begins = with_backbone(asked)
    for line in (in_words_of(devices), *([begins] if begins else [])):
        err.print(line, markup=False, highlight=False, soft_wrap=True)
    with display_on(err) as display:
        images, throughput = look(
            asked,
            storage,
            torch.device(devices[0]),
            lambda done, total: display.images("measuring", done, total),
            began=BEGAN.get(),
        )
    for line in (
        *images.account,
        *([images.proposal] if images.proposal else []),
        *([UNOPENED] if images.account else []),
    ):
        err.print(line, markup=False, highlight=False, soft_wrap=True)
    config, planned = plan(asked, images, throughput)
    assert planned is not None  # because there are hours
    for line in first_lines(planned):
        err.print(line, markup=False, highlight=False, soft_wrap=True)
    others = {f"{other:g}": _with(asked, other, images, throughput) for other in OTHERS}
    if as_json:
        rows: dict[str, JsonValue] = {
            "config": config.model_dump(mode="json"),
            "seconds": _seconds(planned),
            "hours": planned.hours,
            "others": {hours: one if isinstance(one, str) else in_words(one) for hours, one in others.items()},
        }
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    show_stages(config, planned)
    print_table(("hours", "would buy"), _without_repeats(others))


def _without_repeats(others: Mapping[str, StudyConfig | str]) -> list[tuple[str, str]]:
    """Return for each number of hours what it would buy, in words; what fewer hours would buy is not repeated."""
    lines: list[tuple[str, str]] = []
    before = before_hours = ""
    for hours, one in others.items():
        words = one if isinstance(one, str) else in_words(one)
        same = words == before and not isinstance(one, str)
        lines.append(
            (hours, f"the same as {before_hours}: more trials, nothing larger for these images" if same else words)
        )
        if not same:
            before, before_hours = words, hours
    return lines


def show_stages(config: StudyConfig, planned: Plan, taken: Mapping[Stage, float] | None = None) -> None:
    """Print the stages of a plan as a table, with the time that each has taken if the study exists."""
    words, gone = planned.in_words(config), taken or {}
    rows: list[tuple[str, ...]] = [
        (one, words[one], duration(planned.stages[one]), _if_known(gone.get(one))) for one in words
    ]
    whole = duration(sum(planned.stages.values()))
    rows.append(("all", f"of {duration(3600 * planned.hours)}", whole, _if_known(sum(gone.values()) or None)))
    columns = ("stage", "what", "time", "took") if gone else ("stage", "what", "time")
    print_table(columns, [row[: len(columns)] for row in rows])


def _if_known(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _seconds(planned: Plan) -> dict[str, JsonValue]:
    return dict(planned.stages.items())


def _with(asked: StudyRequest, hours: float, images: Images, throughput: Throughput) -> StudyConfig | str:
    try:
        return plan(StudyRequest({**asked.fields, "hours": hours}), images, throughput)[0]
    except StudyError as error:
        return str(error)


def _typed_otherwise(asked: StudyRequest, there: StoredStudy) -> list[str]:
    """Return the fields that were typed with another value than the study has, and than it was asked for with."""
    kept, then = there.config.model_dump(mode="json"), there.asked if isinstance(there.asked, dict) else {}

    def is_same(name: str) -> bool:
        value = asked.fields.get(name)
        with suppress(ValidationError):  # written in another way: 3.0 for 3
            return value in ("auto", then.get(name)) or kept[name] == there.config.with_fields(
                {name: value}
            ).model_dump(mode="json").get(name)
        return False

    return [name for name in sorted(asked.given or ()) if not is_same(name)]


def _show_kept(there: StoredStudy, planned: Plan, as_json: bool) -> None:
    """Print what was planned for a study that exists, and how it goes."""
    config, spent = there.config, there.spent
    if as_json:
        rows: dict[str, JsonValue] = {
            "config": config.model_dump(mode="json"),
            "seconds": _seconds(planned),
            "taken_seconds": {stage: round(seconds, 1) for stage, seconds in there.taken.items()},
        }
        sys.stdout.write(json.dumps({**rows, "hours": config.hours, "spent_seconds": round(spent, 1)}, indent=2) + "\n")
        return
    show_stages(config, planned, there.taken)
    hours = (
        "without a limit in hours by now"
        if config.hours is None
        else f"of its {config.hours:g} {'hour' if config.hours == 1 else 'hours'}"
    )
    err.print(f"the study exists: {duration(spent)} spent, {hours}", markup=False)
