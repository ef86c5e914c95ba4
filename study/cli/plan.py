"""`study plan`: what the hours would buy, before anything is written."""

import typer

from study.cli.options import (
    AsJson,
    Data,
    Device,
    From,
    Hours,
    Name,
    Preset,
    Settings,
    SkipBad,
    Storage,
    StudyFile,
    Trials,
    Workers,
    asked_for,
)
from study.storage.names import DEFAULT_URL

app = typer.Typer()


@app.command("plan", epilog="Example: study plan --data images/ --hours 2")
def show_plan(
    file: StudyFile = None,
    preset: Preset = None,
    data: Data = None,
    name: Name = None,
    storage: Storage = DEFAULT_URL,
    trials: Trials = None,
    hours: Hours = None,
    workers: Workers = None,
    device: Device = "auto",
    settings: Settings = None,
    skip_bad: SkipBad = False,
    older: From = None,
    as_json: AsJson = False,
) -> None:
    """What a study would do with its hours, stage by stage; measures this machine, and writes nothing."""
    from study.cli.planning import show  # it imports torch

    show(
        asked_for(file, preset, data, trials, hours, workers, settings, skip_bad, older), name, storage, device, as_json
    )
