"""Unneeded files in the cache: decoded images and found groups that no study needs, and unfinished work."""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import optuna

from data import counted
from data.cache import INDEX, Index
from data.datasets import fingerprint_of
from data.grouping.settings import BEFORE
from data.images import read_file
from study import StudyError
from study.attributes import CONFIG, CONTRACT, FOUND_BY
from study.search.contract import files_of, names_in_parts
from study.storage.door import load_study, open_storage, runs_folder
from study.storage.owners.ownership import FILE

HOUR, DAY = 3600.0, 86400.0
"""Ages in seconds up to which a folder stays: DAY for unfinished work, HOUR for what a study being made may use."""

GROUPS = re.compile(r"groups-([0-9a-f]{24})-([0-9a-f]+)")


@dataclass(frozen=True)
class UnneededFiles:
    """Folder that may be removed."""

    place: Path
    size: int  # bytes
    what: str  # in words


@dataclass(frozen=True)
class _Need:
    """Need of a study: what it uses in the cache; a field is None if it cannot be read."""

    content: str | None  # hash of its images
    image_size: object
    names: frozenset[str]  # paths of its images
    version: str  # version that found its groups


def unneeded(url: str) -> list[UnneededFiles]:
    """Find the folders in the cache beside a database that none of its studies needs.

    Found groups stay if the folder has studies of another database too: groups found anew may be different, and then
    a study cannot go on.
    """
    storage = open_storage(url, create=False, write=False)
    names = storage.study_names()
    needs = [_need(load_study(storage, name), url) for name in names]
    runs = runs_folder(url)
    strangers = any(file.parent.name not in names for file in runs.glob(f"*/{FILE}"))
    found = (_judged(place, needs, strangers) for place in sorted((runs / "cache").glob("*")) if place.is_dir())
    return [one for one in found if one]


def _need(study: optuna.Study, url: str) -> _Need:
    contract, config = (study.user_attrs.get(key) for key in (CONTRACT, CONFIG))
    content = contract.get("data content") if isinstance(contract, dict) else None
    return _Need(
        content=content if isinstance(content, str) else None,
        image_size=config.get("image_size") if isinstance(config, dict) else None,
        names=frozenset(names_in_parts(files_of(study, url) / "parts.json")),
        version=str(study.user_attrs.get(FOUND_BY) or BEFORE),
    )


def _judged(place: Path, needs: list[_Need], strangers: bool) -> UnneededFiles | None:
    """Return a folder of the cache as one to remove; None if it stays."""
    if place.is_symlink():
        return None
    age = time.time() - max((_changed(file) for file in [place, *place.rglob("*")]), default=0.0)
    if place.name.endswith((".part", ".work")):
        what = f"unfinished, last written {counted(round(age / DAY), 'day')} ago" if age > DAY else ""
    elif age < HOUR:
        what = ""
    elif groups := GROUPS.fullmatch(place.name):
        kept = strangers or any(_needs_groups(need, *groups.groups()) for need in needs)
        what = "" if kept else "found groups"
    elif place.name.startswith("images-"):
        what = "" if any(_needs_images(need, place) for need in needs) else "decoded images"
    else:
        what = ""  # a dataset, or something that another program has put here
    return UnneededFiles(place, size_of(place), what) if what else None


def _needs_groups(need: _Need, content: str, version: str) -> bool:
    return need.content is None or (need.content[:24], need.version) == (content, version)


def _needs_images(need: _Need, place: Path) -> bool:
    """Return whether a study needs these decoded images.

    Their content is compared if their folders say the classes, otherwise their names.
    """
    try:
        index = Index.model_validate_json(read_file(place / INDEX))
    except (OSError, ValueError):  # the index cannot be read
        return False
    if need.image_size not in (None, index.image_size):
        return False
    known = (None, fingerprint_of(index.paths, index.contents, None))
    return need.content in known or need.names == frozenset(index.paths)


def remove(found: list[UnneededFiles]) -> Iterator[UnneededFiles]:
    """Remove the folders, and yield each that was removed. Raises StudyError if one cannot be removed."""
    for one in found:
        try:
            shutil.rmtree(one.place)
        except FileNotFoundError:  # another process has removed it
            continue
        except OSError as error:
            raise StudyError(f"cannot remove {one.place}: {error.strerror or error} (remove it yourself)") from error
        yield one


def size_of(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk; links are not followed, what cannot be read counts nothing."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.lstat().st_blocks * 512
    return total


def _changed(file: Path) -> float:
    with suppress(OSError):
        return file.lstat().st_mtime
    return 0.0
