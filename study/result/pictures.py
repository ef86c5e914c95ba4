"""Pictures (PNG) of a network's confusion matrix and worst mistakes, for pages that show nothing but images."""

import io
import math

from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from models.bundle.card import percent
from study.search.best import Best

COLUMNS = 4
LONGEST = 24
"""Most characters of a class's name beside the matrix; more would leave no room for it."""
WIDEST, MOST_NUMBERS = 20.0, 30
"""Largest width of a matrix, in inches, and most classes for which its cells show numbers and not only colours."""
INCHES = 2.2
"""Width and height of one image, in inches."""


def confusion_picture(best: Best) -> bytes:
    """Draw the confusion matrix on val, in numbers of images, as PNG."""
    side = min(2.5 + 0.55 * len(best.classes), WIDEST)
    readable = len(best.classes) <= MOST_NUMBERS
    figure = Figure(figsize=(side, side), layout="constrained")
    display = ConfusionMatrixDisplay(best.confusion, display_labels=[_plain(_cut(name)) for name in best.classes])
    display.plot(
        ax=figure.subplots(),
        cmap="Blues",
        colorbar=not readable,
        xticks_rotation="vertical",
        values_format="d",
        include_values=readable,
    )
    figure.suptitle(f"Trial {best.trial} on val")
    return _png(figure)


def mistakes_picture(best: Best) -> bytes:
    """Draw the wrongly classified images of val as PNG, the most confident mistake first."""
    rows = max(1, math.ceil(len(best.mistakes) / COLUMNS))
    figure = Figure(figsize=(COLUMNS * INCHES, rows * (INCHES + 0.5) + 0.5), layout="constrained")
    none = "" if best.mistakes else ": none"
    figure.suptitle(f"Trial {best.trial}, worst mistakes on val{none}")
    places = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axes in places:
        axes.set_axis_off()
    for axes, mistake in zip(places, best.mistakes, strict=False):
        axes.imshow(mistake.image, interpolation="nearest")
        words = f"{mistake.true}\ntaken for {mistake.predicted} ({percent(mistake.probability)})"
        axes.set_title(_plain(words), fontsize=8)
    return _png(figure)


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _plain(words: str) -> str:
    """Escape dollar signs in names: matplotlib would read what stands between two of them as a formula."""
    return words.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()
