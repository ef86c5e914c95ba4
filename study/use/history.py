"""A study in a notebook: its history as pandas frames, its figures, and its model as a function of images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data import DataError, counted
from data.formats.ranges import AS_16_BITS
from data.images import FORMATS, MOST_MEGAPIXELS, decode, to_square_rgb
from models.bundle.folder import load
from models.bundle.predictor import Bundle
from study import StudyError
from study.attributes import CONFIG
from study.history.query import ask
from study.history.recipes import SECONDS
from study.history.views import COLUMNS
from study.result.report import search_figures
from study.search.contract import files_of, stored_config
from study.search.members import Membership
from study.storage.door import load_study, open_storage
from study.storage.lean import LeanStorage
from study.storage.names import DEFAULT_URL, check_name
from study.storage.owners.ownership import check_folder
from study.storage.trouble import storage_trouble

if TYPE_CHECKING:
    from pandas import DataFrame

Picture = str | Path | Image.Image | NDArray[np.uint8]
"""File, picture of Pillow's, or array [H, W, 3] or [H, W] of uint8."""


@dataclass(frozen=True)
class Model:
    """Exported model, to be called on images."""

    bundle: Bundle

    def __call__(self, images: Sequence[Picture]) -> "DataFrame":
        """Return a row for each image: its label, and each class's probability. Raises DataError if one is no image."""
        pixels = [self._pixels(number, image) for number, image in enumerate(images)]
        classes = self.bundle.classes
        if not pixels:
            return _frame(["label", *classes], [])
        probabilities = self.bundle.predict(np.stack(pixels))
        rows = zip(probabilities.argmax(axis=1), probabilities.tolist(), strict=True)
        return _frame(["label", *classes], [(classes[label], *shares) for label, shares in rows])

    def _pixels(self, number: int, image: Picture) -> NDArray[np.uint8]:
        size, ranges = self.bundle.image_size, self.bundle.ranges or AS_16_BITS
        most = self.bundle.megapixels(MOST_MEGAPIXELS)
        try:
            if isinstance(image, str | Path):
                return decode(Path(image), size, most, ranges)
            if isinstance(image, Image.Image):
                if content := _undecoded(image):
                    return decode(content, size, most, ranges)
                return to_square_rgb(ImageOps.exif_transpose(image), size, ranges)
            return to_square_rgb(Image.fromarray(image), size, ranges)
        except (DataError, TypeError, ValueError, OSError) as error:
            named = image if isinstance(image, str | Path) else f"image {number}"
            raise DataError(f"{named}: {error}") from error


def _undecoded(image: Image.Image) -> bytes:
    """Return the content of the file of a picture that is not decoded yet; nothing for any other."""
    handle, known = getattr(image, "fp", None), image.format in (*FORMATS, "MPO")
    if handle is None or not known or not getattr(image, "tile", None) or image.tell():
        return b""
    place = handle.tell()
    handle.seek(0)
    content: bytes = handle.read()
    handle.seek(place)
    return content


ORDER = ("number", "bracket", "rung", "epoch", "name", "path")
"""Columns that put a view's rows in order."""


class History:
    """Study as it stands in its database, which is only read; every frame and figure is made anew.

    name: that of the study, which may be left out where the database holds only one. storage: address of the database,
    as the command line takes it. Raises StudyError for a study or database that is not there.
    """

    def __init__(self, name: str | None = None, storage: str = DEFAULT_URL) -> None:
        with storage_trouble(storage):
            database = open_storage(storage, create=False, write=False)
            names = database.study_names()
            database.close()
        if name is None and len(names) != 1:
            raise StudyError(f"which study? (there are: {', '.join(names) or 'none; start one with: study run'})")
        self.name = names[0] if name is None else name
        self._storage = storage
        with self._open():
            pass  # raises StudyError where there is no such study

    def __repr__(self) -> str:
        return f"History({self.name!r}, {counted(len(self.frame()), 'trial')})"

    def sql(self, query: str, seconds: float = SECONDS) -> "DataFrame":
        """Return the answer to one SELECT, over all studies of the database. Raises StudyError where it is refused."""
        with storage_trouble(self._storage), ask(self._storage, query, seconds) as answer:
            return _frame(answer.columns, list(answer.rows()))

    def frame(self, view: str = "trials_flat") -> "DataFrame":
        """Return this study's rows of a view, in order. Raises StudyError for a view not in `study sql --schema`."""
        if view not in COLUMNS:
            raise StudyError(f"no view {view!r} (there are: {', '.join(COLUMNS)})")
        name = self.name.replace("'", "''")
        order = ", ".join(one.name for one in COLUMNS[view] if one.name in ORDER) or "study"
        return self.sql(f"SELECT * FROM {view} WHERE study = '{name}' ORDER BY {order}")

    @property
    def figures(self) -> dict[str, go.Figure]:
        """Return the figures of the search by name, as the dashboard shows them."""
        with self._open() as (study, _):
            if CONFIG not in study.user_attrs:
                raise StudyError(f"{self.name} is a study of another program: there are its frames alone")
            config = stored_config(study)
            own = Membership(config).own(study.get_trials(deepcopy=False))
        return search_figures(own, config)

    @property
    def model(self) -> Model:
        """Return the exported model as it is now, to be called on images. Raises ModelError before there is one."""
        check_name(self.name)
        with self._open() as (study, database):
            folder = files_of(study, self._storage)
            check_folder(self.name, folder, database)
        return Model(load(folder / "model"))

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, LeanStorage]]:
        """Open the study as it stands now, and its database."""
        with storage_trouble(self._storage):
            database = open_storage(self._storage, create=False, write=False)
            try:
                yield load_study(database, self.name), database
            finally:
                database.close()


def _frame(columns: Sequence[str], rows: list[tuple[object, ...]]) -> "DataFrame":
    try:
        from pandas import DataFrame  # imported late: a second, and not everybody has it
    except ImportError as error:
        raise StudyError("frames need pandas (pip install pandas)") from error
    return DataFrame(rows, columns=list(columns))
