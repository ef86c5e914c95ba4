"""The model that a command means: by its folder, by the folder of its study, or by the study's name."""

from pathlib import Path

from study import StudyError
from study.cli.console import err
from study.storage.names import CACHE, is_name

RUNS = CACHE.parent
"""Folder with the folders of the studies that were begun in the current folder."""

MODEL_FILES = ("card.json", "config.json", "model.safetensors")
"""Files of a model folder: if only some of them are missing, whoever loads the folder says so."""


def model_at(given: Path) -> Path:
    """Return the model folder or file that was given, or the model of the named study, which is said on stderr.

    Raises StudyError if there is none.
    """
    if given.is_file() or any((given / name).exists() for name in MODEL_FILES):
        return given
    places = [given, *([RUNS / given] if is_name(str(given)) else [])]
    for place in places:
        if (place / "model" / "card.json").is_file():
            err.print(f"the model is {place / 'model'}", markup=False, highlight=False, soft_wrap=True)
            return place / "model"
    allowed = f"give a model folder, such as {RUNS}/NAME/model, a study's name, or a .pth file"
    if there := sorted(card.parent.parent.name for card in RUNS.glob("*/model/card.json")):
        more = ", ..." if len(there) > MAX_NAMED_STUDIES else ""
        allowed += f"; studies with a model here: {', '.join(there[:MAX_NAMED_STUDIES])}{more}"
    if any((place / "owner.json").is_file() for place in places):
        raise StudyError(f"the study {given.name} has no model yet (study resume {given.name} --finish makes one)")
    raise StudyError(f"no {'model in' if given.exists() else 'such model:'} {given} ({allowed})")


MAX_NAMED_STUDIES = 5
"""Largest number of studies that an error names."""
