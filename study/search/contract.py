"""Contract of a study: its definition, which is kept in the study and compared when the study goes on.

Optuna stores neither sampler nor pruner and accepts most changes of a space silently; but with another definition it
would not be the same study.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import NamedTuple

import optuna
from optuna.study._frozen import FrozenStudy
from pydantic import JsonValue, ValidationError
from pydantic_core import to_jsonable_python

from data import at_home
from data.augment import Augment
from data.cache import INDEX, Index
from data.datasets import EMBEDDED, fingerprint_of
from data.images import read_file
from data.public import FETCHED
from study import StudyError
from study.attributes import CONFIG
from study.config.schema import MAY_CHANGE, STORED, StudyConfig, in_one_line
from study.config.space import fixed_values
from study.storage.address import storage_option
from study.storage.door import runs_folder

Contract = dict[str, JsonValue]
"""Type of a contract: field -> value, as JSON; a stored contract is never rewritten."""


class Images(NamedTuple):
    """Images of a study as they are now."""

    folder: Path  # folder of the study's files
    data: str  # where the images are
    contents: Mapping[str, str]  # path -> hash of each file


DEFAULTS = "defaults"
"""Field of a contract: parameters that the space does not name, with their values when the study was made."""

WEIGHTS = "weights"
"""Field of a contract: hashes of the files with the weights of pretrained networks."""

PIXELS = "pixels"
"""Field of a contract: how values of more than 8 bits become pixels, if earlier versions did that differently."""


def contract_of(
    config: StudyConfig,
    fingerprint: str,
    split_hash: str,
    pixels: str = "",
    weights: Mapping[str, str] = MappingProxyType({}),
) -> Contract:
    """Return what defines a study: configuration, images and how they are read, parts, and pretrained weights.

    `weights`: name -> SHA-256 of the weights that networks begin from.
    """
    unnamed = {name: value for name, value in fixed_values(config.space).items() if name not in config.space}
    read: Contract = {PIXELS: pixels} if pixels else {}
    begin: Contract = {WEIGHTS: dict(weights)} if weights else {}
    known: Contract = {"data content": fingerprint, **read, "parts": split_hash, **begin}
    return {**config.contract(), DEFAULTS: dict(unnamed), **known}


def compare(name: str, url: str, kept: Contract, wanted: Contract, images: Images) -> None:
    """Raise StudyError if a stored contract differs from the wanted one; it names the fields that differ."""
    old, new = flatten(_completed(kept, wanted)), flatten(wanted)
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if not differing:
        return
    if len(differing) > 1 and "parts" in differing:  # a consequence of the others
        differing.remove("parts")
    by_content = {
        "data content": f"the images ({changed(images, str(kept.get('data content')))})",
        "parts": "the parts (with other groups the images are divided differently)",
    }
    shown = [
        by_content.get(key) or f"{key} (was {_short(old.get(key))}, now {_short(new.get(key))})"
        for key in differing[:5]
    ]
    if PIXELS in differing and PIXELS not in old:
        shown[differing.index(PIXELS)] = (
            f"how its images of 16 or 32 bits are read (an earlier version assumed a range of 0 to 65535, so that they "
            f"were nearly black or white; black to white are now {new[PIXELS]})"
        )
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    by_images = not {"data content", PIXELS, "parts"}.isdisjoint(differing)  # then the study cannot go on
    go_on = (
        "with other images it is another study: "
        f"{new_study_command(f'{name}-2', images.folder, images.data)}{storage_option(url)}"
        if by_images
        else f"go on with the old one: study resume {quote(name)}{storage_option(url)}; or start another with --name"
    )
    raise StudyError(f"the study {name!r} exists with a different definition: {', '.join(shown)}{more} ({go_on})")


def new_study_command(name: str, folder: Path, data: str) -> str:
    """Return the command that makes a study on other images, with the definition in a study's folder if it has one."""
    file = folder / "model" / "study.toml"
    return f"study run {f'{quote(str(file))} ' if file.is_file() else ''}--data {quote(data)} --name {quote(name)}"


def check_images(config: StudyConfig, name: str, folder: Path) -> None:
    """Raise StudyError if the images of an existing study are no longer where they were."""
    if config.data in (*EMBEDDED, *FETCHED) or at_home(config.data).exists():
        return
    there = (folder / "model" / "study.toml").is_file()
    moved = new_study_command(name, folder, "NEW") if there else f"ln -s NEW {quote(config.data)}"
    raise StudyError(
        f"the images of {name!r} lay in {config.data}; nothing is there now (put them back, or name their new place: "
        f"{moved})"
    )


def changed(images: Images, content: str) -> str:
    """Return in words which files differ from those that a study began with.

    `content`: hash of all files at that time. The names come from the study's list of parts; the old content of each
    file is known only while the cache has its pixels.
    """
    now, before = images.contents, names_in_parts(images.folder / "parts.json")
    altered = {path for path, held in _files(images.folder.parent / "cache", content) if now.get(path, held) != held}
    kinds = {"added": now.keys() - before, "removed": before - now.keys(), "altered": altered}
    said = [f"{what}: {_some(sorted(names))}" for what, names in kinds.items() if names and before]
    return "; ".join(said) or "some files were altered, or their labels"


def contents_of(cache: Path, content: str) -> list[str]:
    """Return the hash of each file, given the hash of all together; none if the cache no longer has their pixels."""
    return [held for _, held in _files(cache, content)]


def _files(cache: Path, content: str) -> list[tuple[str, str]]:
    """Return the path and hash of each file, given the hash of all; none if the cache no longer has their pixels."""
    found = (one for one in _decoded(cache) if fingerprint_of(*one, None) == content)
    return list(zip(*next(found, ((), ())), strict=True))


def names_in_parts(file: Path) -> set[str]:
    """Return the names of the images in a study's list of parts; none if it cannot be read."""
    try:
        parts = json.loads(read_file(file))
    except (OSError, ValueError):
        return set()
    listed = [part for part in parts.values() if isinstance(part, list)] if isinstance(parts, dict) else []
    return {name for part in listed for name in part if isinstance(name, str)}


def _decoded(cache: Path) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Yield the paths and hashes of the files in each cache of pixels."""
    for file in cache.glob(f"images-*/{INDEX}"):
        with suppress(OSError, ValueError):
            index = Index.model_validate_json(read_file(file))
            yield index.paths, index.contents


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _completed(kept: Contract, wanted: Contract) -> Contract:
    """Return a contract with the fields that its version lacked; their defaults keep the old behaviour."""
    fields = StudyConfig.model_fields
    defaults = {key: to_jsonable_python(field.default) for key, field in fields.items() if key not in MAY_CHANGE}
    given = kept.get("augment")
    augment = dataclasses.asdict(Augment()) | (given if isinstance(given, dict) else {})
    # Another space leaves other parameters unnamed; then only the space itself is reported as different.
    same_space = kept.get("space") == wanted["space"]
    new, known = wanted[DEFAULTS], kept.get(DEFAULTS)
    # Missing parameters take the defaults that keep the old behaviour.
    unnamed = {**new, **known} if same_space and isinstance(known, dict) and isinstance(new, dict) else new
    return defaults | kept | {"augment": augment, DEFAULTS: unnamed}


def _short(value: JsonValue) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def flatten(fields: Contract, prefix: str = "") -> Contract:
    """Flatten nested fields: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: Contract = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def stored_config(study: optuna.Study) -> StudyConfig:
    """Return the configuration a study was last run with. Raises StudyError if there is none that can be read."""
    fields = study.user_attrs.get(CONFIG)
    if fields is None:
        raise StudyError(f"the study {study.study_name!r} has no configuration: it was not made by this program")
    try:
        return StudyConfig.model_validate(fields, context=STORED)
    except ValidationError as error:
        raise StudyError(f"the study {study.study_name!r} was made by another version: {in_one_line(error)}") from error


def files_of(study: optuna.Study | FrozenStudy, url: str) -> Path:
    """Return the folder of a study's files, even if nothing else of the study can be read."""
    fields = study.user_attrs.get(CONFIG)
    named = fields.get("runs") if isinstance(fields, dict) else None
    return runs_folder(url, named if isinstance(named, str) and named else None) / study.study_name
