"""What is to be known of the DICOM files in a folder: how they are shown, what may name a patient, whose they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data import DataError, counted
from data.formats.dicom import TAGS, as_stored, first_group, in_words, is_dicom, read

if TYPE_CHECKING:
    from pydicom import Dataset

SHORTEST_NUMBER = 5
"""Fewest characters of a patient's number that is looked for in paths."""


def grey_level_rule(found: Dataset) -> str:
    """Return in words by which rule the grey levels of a file are made; "" for colours."""
    if int(found.get("SamplesPerPixel") or 1) != 1 or found.get("PhotometricInterpretation") == "PALETTE COLOR":
        return ""
    group = first_group(found, "FrameVOILUTSequence")
    window = found if group is None else group
    if window.get("VOILUTSequence"):
        return "by their VOI LUT"
    if window.get("WindowWidth") is not None:
        return "by their first window"
    return "as they are" if as_stored(found) else "by each image's own range"


@dataclass
class DicomFacts:
    """What the DICOM files among images have in common, in numbers."""

    files: int = 0
    rules: Counter[str] = field(default_factory=Counter)  # rule by which grey levels are made -> files
    burned: int = 0  # files that say that writing is burned into the picture
    named: int = 0  # files whose path holds the number of their patient

    @property
    def shown(self) -> str:
        """How many files there are, and by which rules their grey levels are made; "" without files."""
        said = [f"{number:,} shown {rule}" for rule, number in sorted(self.rules.items()) if rule]
        return f"{counted(self.files, 'DICOM file')}{': ' if said else ''}{', '.join(said)}" if self.files else ""

    def lines(self) -> list[str]:
        """Return the lines that users read."""
        found = [self.shown] if self.files else []
        if self.burned:
            found.append(
                f"{counted(self.burned, 'DICOM file')} with writing burned into the picture, by their own word"
            )
        if self.named:
            files = counted(self.named, "DICOM file")
            found.append(
                f"{files} with the patient's number in the path, and paths are written into tables, reports and the "
                "model's folder (rename them first)"
            )
        return found


def count_facts(root: Path, paths: Sequence[str]) -> DicomFacts:
    """Count what is to be said of the DICOM files among `paths` below `root`."""
    facts = DicomFacts()
    for path in paths:
        with (root / path).open("rb") as file:
            if not is_dicom(file.read(132)):
                continue
            facts.files += 1
            try:
                with in_words():
                    header = read(file, pixels=False, tags=(*TAGS, "PatientID"))
                    facts.rules[grey_level_rule(header)] += 1
                    facts.burned += str(header.get("BurnedInAnnotation", "")).upper() == "YES"
                    facts.named += _in_path(str(header.get("PatientID") or "").strip(), path)
            except DataError:  # it is said where the file is decoded
                continue
    return facts


def _in_path(number: str, path: str) -> bool:
    """Return whether a path holds a patient's number; a short one is in many paths by chance."""
    return len(number) >= SHORTEST_NUMBER and number.lower() in path.lower()


def patients(files: Sequence[Path]) -> list[str]:
    """Return the PatientID of each DICOM file, to group by and for nothing else. Raises DataError if one has none."""
    found: list[str] = []
    for path in files:
        with path.open("rb") as file, in_words():
            if not is_dicom(file.read(132)):
                raise DataError(f"groups = 'dicom': {path.name} is no DICOM file")
            from pydicom import dcmread

            file.seek(0)
            header = dcmread(file, stop_before_pixels=True, specific_tags=["PatientID"])
        number = str(header.get("PatientID") or "").strip()
        if not number:
            raise DataError(f"groups = 'dicom': {path.name} has no PatientID")
        found.append(number)
    return found
