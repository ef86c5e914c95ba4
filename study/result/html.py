"""Parts of our HTML pages: one style, tables and pictures; everything in one file that needs no network."""

import base64
import html
import io
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STYLE = """
:root { color-scheme: light; --text: #222; --soft: #595959; --page: #fff; --box: #f4f4f4; --line: #ddd; --rule: #888;
  --good: #00664a; --warn: #8a3200; --link: #0b57a4; --right: 0 114 178; --wrong: 213 94 0 }
@media screen and (prefers-color-scheme: dark) { :root { color-scheme: dark; --text: #e6e6e6; --soft: #a8a8a8;
  --page: #16181c; --box: #23262c; --line: #363a41; --rule: #777; --good: #5fd3ac; --warn: #ffab70; --link: #8ab8f0 } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 1.5rem auto; padding: 0 1rem;
  color: var(--text); background: var(--page); overflow-wrap: break-word }
a { color: var(--link) } h1 { margin: 0 0 1rem } h2 { margin: 2rem 0 .5rem } h3 { margin: 1.5rem 0 .25rem }
.wide { overflow-x: auto; margin: 1rem 0; background:
  linear-gradient(90deg, transparent, var(--page) 60%) right / 3rem 100% no-repeat local,
  linear-gradient(90deg, transparent, #8888) right / .8rem 100% no-repeat scroll }
table { border-collapse: collapse; font-size: .95em }
th, td { padding: .25rem 1rem .25rem 0; text-align: left; vertical-align: top }
th { border-bottom: 1px solid var(--rule) } tr + tr td, .facts tr + tr th { border-top: 1px solid var(--line) }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums } td.number { white-space: nowrap }
.wide td { white-space: nowrap } .wide td.long { min-width: 14rem; white-space: normal }
.wide td.longest { min-width: 34rem; white-space: normal }
.facts { margin: 1rem 0 } .facts th { border-bottom: 0; font-weight: 400; color: var(--soft); width: 15rem }
.facts td { overflow-wrap: anywhere }
.verdict { border-left: .4rem solid var(--rule); background: var(--box); padding: .75rem 1rem; margin: 1rem 0 }
.verdict p { margin: .4rem 0 } .verdict .word { font-weight: 600 }
.better { border-color: var(--good) } .better .word { color: var(--good) }
.worse, .useless, .leaky { border-color: var(--warn) } .worse .word, .useless .word, .leaky .word { color: var(--warn) }
.score { line-height: 1.3 } .score b { display: block; font-size: 2.6rem; line-height: 1.15 }
.note, figcaption { color: var(--soft) } .warn { color: var(--warn) }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.25rem, 1fr)); gap: .75rem; padding: 0;
  list-style: none; margin: 1rem 0 } .pictures li { font-size: .85em; line-height: 1.35; overflow-wrap: anywhere }
.pictures img { display: block; width: 6rem; height: 6rem; object-fit: contain; image-rendering: pixelated;
  background: var(--box); outline: 1px solid var(--line) }
.pictures.small { grid-template-columns: repeat(auto-fill, minmax(4.25rem, 1fr)) }
.small img { width: 4rem; height: 4rem } .pictures .note { font-size: .9em }
figure { margin: 1.5rem 0 } figcaption { font-weight: 600 } .figure { overflow-x: auto }
.figure :not(.hovertext):not(.axistext) > text { fill: var(--text) !important }
.figure .bg { fill: transparent !important }
.figure .gridlayer path { stroke: var(--line) !important }
.figure .zerolinelayer path { stroke: var(--rule) !important }
.matrix td, .matrix th { border: 1px solid var(--line); padding: .15rem; font-size: .8rem }
.matrix td { text-align: center; min-width: 2.1em; height: 2.1em; vertical-align: middle;
  font-variant-numeric: tabular-nums } .matrix.few td { min-width: 5.5em; height: 4em; font-size: .95rem }
.matrix td.right { background: rgb(var(--right) / var(--share)) }
.matrix td.wrong { background: rgb(var(--wrong) / var(--share)) }
.matrix small { display: block; color: var(--soft) } .matrix td small { color: inherit }
.matrix th { font-weight: 400; white-space: nowrap; vertical-align: middle; background: var(--page) }
.matrix tr > th:first-child { position: sticky; left: 0; text-align: right }
.matrix th div { writing-mode: vertical-rl; transform: rotate(180deg) }
.matrix.few th div { writing-mode: horizontal-tb; transform: none; text-align: center }
details { border-top: 1px solid var(--line) } summary { cursor: pointer; padding: .5rem 0 }
summary h2 { display: inline; font-size: 1.1rem } details[open] { padding-bottom: 1rem }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 0 1rem }
.findings { padding-left: 1.2rem } .findings li { margin: .35rem 0 }
pre { background: var(--box); padding: .8rem; overflow-x: auto } nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem }
@media (max-width: 600px) { .modebar-container { display: none } .facts th { width: 9.5rem } .score b {
  font-size: 2.2rem } }
@media print { nav { display: none } details > * { display: block } details::details-content {
  content-visibility: visible; display: block } h2, .figure, tr, li { break-inside: avoid } }
"""

SCRIPT = """
const fit = inside => inside.querySelectorAll('.js-plotly-plot').forEach(
  one => one.offsetParent && window.Plotly && Plotly.Plots.resize(one))
const folded = () => [...document.querySelectorAll('details')]
const reveal = () => {
  const wanted = location.hash && document.getElementById(location.hash.slice(1))
  for (let one = wanted; one; one = one.parentElement) if (one.tagName === 'DETAILS') one.open = true
  if (wanted) wanted.scrollIntoView()
}
addEventListener('DOMContentLoaded', () => {
  folded().forEach(one => one.addEventListener('toggle', () => one.open && fit(one)))
  reveal()
})
addEventListener('hashchange', reveal)
addEventListener('click', event => event.target.closest?.('a[href^="#"]') && setTimeout(reveal))
let shut = []
addEventListener('beforeprint', () => {
  shut = folded().filter(one => !one.open)
  shut.forEach(one => { one.open = true; fit(one) })
})
addEventListener('afterprint', () => shut.forEach(one => { one.open = false }))
"""
"""Script that draws figures at the width they have once their section is opened.

It also opens the section that a link leads to, and all sections for printing.
"""

THUMBNAIL = 96
"""Width and height of a thumbnail, in pixels."""
LONG, LONGEST = 30, 90
"""Number of characters above which a cell of a table is wrapped, and above which it is also kept wide.

Between other columns such a cell would be as tall as a screen.
"""
NUMBER = re.compile(r"(over )?[+-]?[\d,]+(\.\d+)?( %)?")

Row = tuple[object, ...]
"""Cells of a table's row; the first says what the others are about."""


def document(title: str, body: str, scripts: str = "") -> str:
    """Return a whole page, with our style and script in its head."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>{scripts}<script>{SCRIPT}</script>"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def picture(image: NDArray[np.uint8], kind: str, side: int | None = None) -> str:
    """Return an image [H, W, 3] as a data URL; with `side`, it is resized to a square of that many pixels."""
    shown = Image.fromarray(np.asarray(image))
    content = io.BytesIO()
    (shown.resize((side, side)) if side else shown).save(content, kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def thumbnail(image: NDArray[np.uint8]) -> str:
    """Return an image [H, W, 3] as a small data URL; an image that is small already stays as it is."""
    if max(image.shape) <= THUMBNAIL // 2:
        return picture(image, "PNG")
    return picture(image, "JPEG", THUMBNAIL if max(image.shape) > THUMBNAIL else None)


def pictures(shown: Sequence[tuple[str, str, str]], kind: str = "") -> str:
    """Return a grid of pictures, each given by its URL, what it shows, and its file name ("" for none)."""
    items = []
    for address, words, name in shown:
        below = f'<br><span class="note">{html.escape(name)}</span>' if name else ""
        alt = html.escape(f"{words} {name}".strip())
        items.append(f'<li><img src="{address}" alt="{alt}">{html.escape(words)}{below}</li>')
    return f'<ul class="{f"pictures {kind}".strip()}">{"".join(items)}</ul>'


def folded(anchor: str, title: str, content: str) -> str:
    """Return a section that is closed until a reader opens it."""
    return f'<details id="{anchor}"><summary><h2>{html.escape(title)}</h2></summary>{content}</details>'


def facts(rows: Sequence[tuple[str, object]]) -> str:
    """Return a table of names and values, each value beside its name."""
    lines = "".join(f"<tr><th>{html.escape(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{lines}</table>'


def table(head: tuple[str, ...], rows: Sequence[Row]) -> str:
    """Return an HTML table with a head, which scrolls if it is too wide.

    Columns of numbers, except the first column, are aligned to the right.
    """
    columns = [[row[place] for row in rows if row[place] != ""] for place in range(len(head))]
    numbers = [place > 0 and bool(column) and all(map(_is_number, column)) for place, column in enumerate(columns)]

    def cell(tag: str, value: object, number: bool) -> str:
        text = _text(value)
        length = "longest" if len(text) > LONGEST else "long" if len(text) > LONG else ""
        kind = "number" if number else length if tag == "td" else ""
        return f'<{tag} class="{kind}">{text}</{tag}>' if kind else f"<{tag}>{text}</{tag}>"

    def line(tag: str, row: Row) -> str:
        return f"<tr>{''.join(cell(tag, value, number) for value, number in zip(row, numbers, strict=True))}</tr>"

    return f'<div class="wide"><table>{line("th", head)}{"".join(line("td", row) for row in rows)}</table></div>'


def _is_number(value: object) -> bool:
    """Return whether a value is a number, or reads as one."""
    return (not isinstance(value, bool) and NUMBER.fullmatch(str(value)) is not None) or isinstance(value, float)


def _text(value: object) -> str:
    return html.escape(f"{value:.5g}" if isinstance(value, float) else str(value))


WHOLE = 18
"""Most characters of a class name that is shown in full beside a matrix.

The middle of longer names is left out, because names may differ at either end.
"""
FEW, MOST_CELLS = 6, 40
"""Most classes for which the cells of a matrix show shares, too, and most for which it is a table of numbers."""


def _rounded(share: float) -> str:
    """Return a share in whole percent; what is not all or nothing does not read so."""
    if 0.995 <= share < 1:
        return "&gt; 99 %"
    return "&lt; 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Return a confusion matrix as a table: true class down, predicted across, coloured by share of the true class."""
    few = len(classes) <= FEW

    def cell(row: int, column: int) -> str:
        count = counts[row][column]
        share = count / max(1, sum(counts[row]))
        if not count:
            return "<td></td>"
        kind, deep = ("right", 0.5) if row == column else ("wrong", 0.9)
        below = f"<small>{_rounded(share)}</small>" if few else ""
        return f'<td class="{kind}" style="--share: {0.08 + (deep - 0.08) * min(1, share):.2f}">{count}{below}</td>'

    def named(name: str, down: bool) -> str:
        text = html.escape(name if len(name) <= WHOLE else f"{name[:8]}…{name[9 - WHOLE :]}")
        return f'<th title="{html.escape(name)}">{f"<div>{text}</div>" if down else text}</th>'

    places = range(len(classes))
    top = f"<tr><th></th>{''.join(named(name, True) for name in classes)}</tr>"
    lines = "".join(
        f"<tr>{named(classes[row], False)}{''.join(cell(row, one) for one in places)}</tr>" for row in places
    )
    return f'<div class="wide"><table class="matrix{" few" if few else ""}">{top}{lines}</table></div>'
