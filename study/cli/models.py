"""`study models`: weights of pretrained networks, fetched when somebody says so."""

from typing import Annotated

import typer

from study.cli.console import out
from study.cli.options import group

app = group("Weights of pretrained networks, which the report compares the winner with.")


@app.command(epilog="Example: study models fetch resnet18")
def fetch(name: Annotated[str, typer.Argument(help="resnet18 (45 MB, from torchvision's address, checked).")]) -> None:
    """Fetch a network's weights into torchvision's cache; nothing else ever fetches any."""
    from study.result.pretrained import fetch as fetched  # its imports take a second

    out.print(str(fetched(name)), markup=False, highlight=False, soft_wrap=True)
