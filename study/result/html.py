"""What our pages are made of: one style, tables, pictures; everything in one file that needs no network."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: 1rem 0; font-size: .95em }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top }
th { border-bottom: 1px solid #888 } tr + tr td { border-top: 1px solid #eee }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.score { font-size: 1.6rem; font-weight: 600; margin-bottom: 0 } .note { color: #595959 } .warn { color: #8a3200 }
.mistakes { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none }
.mistakes li { width: 9rem; font-size: .85em; overflow-wrap: anywhere }
.mistakes img { width: 9rem; height: 9rem; image-rendering: pixelated }
.figure { overflow-x: auto }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto } nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem }
@media print { nav { display: none } details > * { display: block } h2, .figure { break-inside: avoid } }
"""

Row = tuple[object, ...]
"""Cells; numbers are set to the right."""


def document(title: str, body: str, scripts: str = "") -> str:
    """A whole page."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>{scripts}"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def picture(image: NDArray[np.uint8], kind: str, side: int | None = None) -> str:
    """An image [H, W, 3] as an address that holds it; `side`: enlarged or reduced to a square of so many pixels."""
    shown = Image.fromarray(np.asarray(image))
    content = io.BytesIO()
    (shown.resize((side, side)) if side else shown).save(content, kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def table(head: tuple[str, ...], rows: Sequence[Row]) -> str:
    """An HTML table; numbers are set to the right."""

    def cell(tag: str, value: object) -> str:
        number = ' class="number"' if isinstance(value, int | float) and not isinstance(value, bool) else ""
        return f"<{tag}{number}>{html.escape(f'{value:.5g}' if isinstance(value, float) else str(value))}</{tag}>"

    top = "".join(cell("th", name) for name in head)
    lines = "".join(f"<tr>{''.join(cell('td', value) for value in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{lines}</table></div>'
