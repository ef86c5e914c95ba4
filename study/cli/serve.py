"""`study serve`: models in a browser, on this machine alone."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from study import StudyError
from study.cli.console import err
from study.cli.found import model_at
from study.cli.options import MaxMegapixels, OneDevice, choose_device

app = typer.Typer()

Models = Annotated[
    list[Path], typer.Argument(metavar="MODEL...", help="Model folders, names of studies, or .pth files.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port, open to this machine alone; 0: any free one.")]


@app.command(epilog="Example: study serve runs/quick-digits/model")
def serve(models: Models, port: Port = 8000, device: OneDevice = "auto", max_megapixels: MaxMegapixels = None) -> None:
    """A page where dropped images get labels and the regions behind them, and POST /predict; Ctrl-C ends it."""
    from models.bundle.folder import load
    from study.signals import StopRequest, stoppable

    try:
        from study.use.serve import ServedModel, run  # imported late, because it is optional
    except ModuleNotFoundError as error:
        raise StudyError(
            f"serving needs {error.name}, which is not installed (pip install 'fastapi' 'uvicorn' 'python-multipart')"
        ) from error
    chosen = choose_device(device)
    served = [
        ServedModel(_name(model), replace(load(model), allowed=max_megapixels).to(chosen))
        for model in map(model_at, models)
    ]
    with stoppable():
        try:
            run(served, port, lambda address: err.print(address, soft_wrap=True, highlight=False))
        except StopRequest as stop:
            raise typer.Exit(stop.exit_code) from None


def _name(model: Path) -> str:
    """Return the name of a model: runs/mine/model -> mine/model."""
    return "/".join(model.resolve().parts[-2:])
