"""Proposals of groups: names of folders and files that look like patients, so that a person may choose to keep each on
one side of a split."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from data import DataError, counted
from data.grouping.sources import level_groups, match_groups

LEAST, LEAST_IN_CLASS = 8, 4
"""Fewest patients for a proposal, in total and in each class; with fewer in a class a study is refused."""
LARGEST = 1 / 3
"""Largest share of all images that one patient may have; a name with more is a kind of images, not a patient."""
MOST_CLASSES = 10
"""Largest number of folder names (the classes) inside the folders of patients."""

WORDS = ("patient", "pat", "pt", "subject", "subj", "sub", "person", "donor", "case", "slide", "wsi")
"""Words before the number of a patient; those for the larger unit come first, as a patient before a slide."""
COUNTERS = ("im", "pi", "dc", "x", "y", "z", "r", "c")
"""Letters before numbers that are not patients, but images, rows or columns."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A proposal: settings that would keep each patient on one side of a split, and what suggests them."""

    seen: str  # what suggests them, in words
    fields: dict[str, str]  # settings: labels_from, groups

    def line(self, *, study: bool = True) -> str:
        """Return what was seen and what to type: as settings of a study, or as options of `study data`."""
        return f"{self.seen}; to keep each in one part: {typed(self.fields, study=study)}"


def typed(fields: Mapping[str, str], *, study: bool) -> str:
    """Write fields as they are typed: as settings of a study, or as options of `study data`."""
    return " ".join(
        f"--set {quote(f'{name}={value}')}" if study else f"--{name.replace('_', '-')} {quote(value)}"
        for name, value in fields.items()
    )


def propose(paths: Sequence[str], classes: Sequence[str]) -> Proposal | None:
    """Return the proposal that the paths suggest, given the class of each image; None if they name no patients."""
    if not paths:
        return None
    return _of_levels(paths, classes) or _of_top_folders(paths, classes) or _of_names(paths, classes)


def _of_levels(paths: Sequence[str], classes: Sequence[str]) -> Proposal | None:
    """Propose groups from folders such as class/patient: the first level whose folders may be patients."""
    for level in range(1, min(path.count("/") for path in paths) + 1):
        names = [path.split("/")[level - 1] for path in paths]
        if _divide(names, classes):
            return Proposal(seen=_seen("folders", names), fields={"groups": f"level:{level}"})
    return None


def _of_top_folders(paths: Sequence[str], classes: Sequence[str]) -> Proposal | None:
    """Propose groups from folders such as patient/class if the patients were taken for classes: all of them hold
    folders of the same few names."""
    folders = [path.split("/")[:-1] for path in paths]
    levels = {inside.index(name) if name in inside else -1 for inside, name in zip(folders, classes, strict=True)}
    level = levels.pop()
    if levels or level < 0 or any(len(inside) < level + 2 for inside in folders):
        return None
    last = [inside[-1] for inside in folders]
    if not 2 <= len(set(last)) <= min(MOST_CLASSES, len(set(classes)) // 2):
        return None
    if not _divide(classes, last) or not all(any(map(str.isdigit, name)) for name in classes):
        return None
    assert level_groups(level + 1, paths) == list(classes)
    return Proposal(
        seen=f"{_seen('folders', classes)} with the classes {', '.join(sorted(set(last))[:3])} inside",
        fields={"labels_from": "last", "groups": f"level:{level + 1}"},
    )


def _of_names(paths: Sequence[str], classes: Sequence[str]) -> Proposal | None:
    """Propose groups from file names such as P017_0042.png, case12-slide3-004.jpg and patient_007_img_1.jpg."""
    files = [path.rpartition("/")[2] for path in paths]
    for kind in (
        *(rf"(?:^|[_\- ])((?i:{word})[_\- ]?)(\d+)(?=(\D))" for word in WORDS),
        r"^([A-Za-z]{1,2})(\d+)([_\- ])",
    ):
        first = re.search(kind, files[0])
        if first is None or first[1].lower() in COUNTERS:
            continue
        found = [match for match in (re.search(kind, file) for file in files) if match]
        names = [match[1] + match[2] for match in found]
        heads = sorted({match[1] for match in found})
        if len(found) < len(files) or len(heads) > LEAST_IN_CLASS or not _divide(names, classes):
            continue
        for pattern in _patterns(heads, {match[3] for match in found}):
            if _matched(pattern, paths) == names:
                return Proposal(seen=_seen("file names", names), fields={"groups": pattern})
    return None


def _patterns(heads: Sequence[str], ends: set[str]) -> Iterator[str]:
    """Yield patterns for names with one of the heads before a number, the shortest first.

    The longer ones are for paths whose folders match the shortest one too.
    """
    head = re.escape(heads[0]) if len(heads) == 1 else f"(?:{'|'.join(map(re.escape, heads))})"
    end = re.escape(*ends) if len(ends) == 1 else r"\D"
    core = rf"(?P<group>{head}\d+){end}".replace(r"\-", "-").replace(r"\ ", " ")
    yield core
    yield rf"{core}[^/]*$"
    yield rf"(?:^|/){core}[^/]*$"


def _matched(pattern: str, paths: Sequence[str]) -> list[str] | None:
    try:
        return match_groups(pattern, paths)
    except DataError:
        return None


def _divide(names: Sequence[str], classes: Sequence[str]) -> bool:
    """Return whether names may be the images' patients: many names, with several images each on average, at least
    LEAST_IN_CLASS in every class, and none with more than the share LARGEST of the images."""
    sizes = Counter(names)
    owned = Counter(name for name, _ in set(zip(classes, names, strict=True)))
    return (
        len(sizes) >= LEAST
        and 2 * len(sizes) < len(names)
        and max(sizes.values()) <= LARGEST * len(names)
        and min(owned.values()) >= LEAST_IN_CLASS
    )


def _seen(what: str, names: Sequence[str]) -> str:
    """Say what was seen, such as "the file names look like patients (P017: 12 images, 41 of them)"."""
    sizes = Counter(names)
    first = min(sizes)
    return f"the {what} look like patients ({first}: {counted(sizes[first], 'image')}, {len(sizes)} of them)"
