"""`study plan`: what the hours would buy, before anything is written."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue

from study import StudyError
from study.cli.display import duration, err, print_table, show
from study.cli.options import AsJson, Device, Hours, Storage, Trials, Workers, asked_for, choose_device
from study.config.expect import Images, Throughput
from study.config.plan import Planned, in_words, plan
from study.config.resolve import Asked
from study.config.schema import StudyConfig
from study.search.opened import check_name, default_name, with_absolute_data
from study.search.settle import kept, look
from study.storage.door import DEFAULT_URL, storage_trouble

app = typer.Typer()

OTHERS = (1.0, 4.0, 12.0)
"""Hours that are shown beside those that were given."""


@app.command("plan", epilog="Example: study plan --data images/ --hours 2")
def show_plan(
    file: Annotated[Path | None, typer.Argument(metavar="[STUDY.toml]", help="A study of your own.")] = None,
    preset: Annotated[str | None, typer.Option(help="auto, quick, reference or full")] = None,
    data: Annotated[str | None, typer.Option(help="digits, tissue, or a folder of class folders")] = None,
    name: Annotated[str | None, typer.Option(help="Default: preset and data, as in auto-images.")] = None,
    storage: Storage = DEFAULT_URL,
    trials: Trials = None,
    hours: Hours = None,
    workers: Workers = None,
    device: Device = "auto",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the study; repeatable.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable files out.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a study would do with its hours, stage by stage; measures this machine, and writes nothing."""
    asked = with_absolute_data(asked_for(file, preset, data, trials, hours, workers, settings, skip_bad))
    with storage_trouble(storage):
        there = kept(check_name(name or default_name(asked)), storage)
    if there is not None and there.planned is not None:
        _show_kept(there.config, there.planned, there.spent, as_json)
        return
    with show(err) as display:
        images, throughput = look(
            asked, storage, choose_device(device), lambda done, total: display.images("measuring", done, total)
        )
    config, planned = plan(asked, images, throughput)
    if planned is None:
        raise StudyError("a study without hours has no plan (for example: study plan --hours 2)")
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
    lines = [(hours, one if isinstance(one, str) else in_words(one)) for hours, one in others.items()]
    print_table(("hours", "would buy"), lines)


def show_stages(config: StudyConfig, planned: Planned) -> None:
    """The stages of a plan as a table."""
    rows: list[tuple[str, str, str]] = [
        (stage, words, duration(planned.stages[stage])) for stage, words in planned.in_words(config).items()
    ]
    rows.append(("all", f"of {duration(3600 * planned.hours)}", duration(sum(planned.stages.values()))))
    print_table(("stage", "what", "time"), rows)


def _seconds(planned: Planned) -> dict[str, JsonValue]:
    return dict(planned.stages.items())


def _with(asked: Asked, hours: float, images: Images, throughput: Throughput) -> StudyConfig | str:
    try:
        return plan(Asked({**asked.fields, "hours": hours}), images, throughput)[0]
    except StudyError as error:
        return str(error)


def _show_kept(config: StudyConfig, planned: Planned, spent: float, as_json: bool) -> None:
    """What was planned for a study that exists, and how it goes."""
    if as_json:
        rows: dict[str, JsonValue] = {
            "config": config.model_dump(mode="json"),
            "seconds": _seconds(planned),
        }
        sys.stdout.write(json.dumps({**rows, "hours": config.hours, "spent_seconds": round(spent, 1)}, indent=2) + "\n")
        return
    show_stages(config, planned)
    hours = "without a limit in hours by now" if config.hours is None else f"of its {config.hours:g} hours"
    err.print(f"the study exists: {duration(spent)} spent, {hours}", markup=False)
