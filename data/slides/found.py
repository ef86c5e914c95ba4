"""Slides among files and folders: a file is one slide, and of DICOM files those of one series."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data import DataError
from data.slides import DICOM, ENDINGS, TIFF
from data.slides.readers import Readers
from data.slides.slide import series_of


@dataclass(frozen=True)
class FoundSlide:
    """File of a slide (of a DICOM slide one of its files), and the name that what is made of it gets."""

    path: Path
    name: str


def find_slides(places: Sequence[Path], crew: Readers) -> list[FoundSlide]:
    """Return the slides among these files, in these folders, and in folders of DICOM files inside them, by name.

    Raises DataError if there are none, or two of one name.
    """
    found: list[FoundSlide] = []
    for place in places:
        if place.is_dir():
            inside = [*_inside(place, crew)]
            if not inside:
                raise DataError(f"no slides in {place} (files ending in {', '.join((*ENDINGS, *TIFF))}, or DICOM)")
            found += inside
        elif place.is_file():
            found.append(FoundSlide(place, place.name))
        else:
            raise DataError(f"no such slide or folder: {place}")
    names: dict[str, Path] = {}
    for one in found:
        if names.setdefault(one.name, one.path) != one.path:
            raise DataError(f"two slides are called {one.name}: {names[one.name]} and {one.path} (rename one)")
    return [FoundSlide(path, name) for name, path in names.items()]


def _inside(folder: Path, crew: Readers) -> Iterator[FoundSlide]:
    entries = sorted(folder.iterdir())
    for one in entries:
        if one.is_file() and one.suffix.lower() in (*ENDINGS, *TIFF):
            yield FoundSlide(one, one.name)
    yield from _of_dicom(folder, crew)
    for one in entries:
        if one.is_dir() and not one.is_symlink():
            yield from _of_dicom(one, crew)


def _of_dicom(folder: Path, crew: Readers) -> Iterator[FoundSlide]:
    """Yield one slide for each series among the DICOM files of a folder; alone, it is called as the folder."""
    first: dict[str, Path] = {}
    for one in sorted(folder.iterdir()):
        if is_dicom(one) and (series := crew.ask(series_of, str(one))):
            first.setdefault(series, one)
    for path in first.values():
        yield FoundSlide(path, folder.resolve().name if len(first) == 1 else path.name)


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM: by its ending, or by `DICM` at byte 128 where it has none."""
    if not path.is_file() or path.name == "DICOMDIR":
        return False
    if path.suffix.lower() in DICOM:
        return True
    if path.suffix:
        return False
    try:
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False
