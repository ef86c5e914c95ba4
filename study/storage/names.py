"""Names of studies that are allowed, and the default database."""

import re
from pathlib import Path

from study import StudyError

DEFAULT_URL = "sqlite:///optuna.db"

CACHE = Path("runs/cache")
"""Folder of decoded images for commands without a study, and for studies that were begun in the current folder."""

LONGEST_NAME = 200
"""Bytes of a study's name at most, since its folder has the same name."""


def is_name(name: str) -> bool:
    """Return whether a study may have a name: letters, digits, dots, dashes and underscores, harmless in a shell."""
    return bool(re.fullmatch(r"\w[\w.-]{0,99}", name)) and len(name.encode(errors="replace")) <= LONGEST_NAME


def check_name(name: str) -> str:
    """Return the name of a study, which its folder has too. Raises StudyError when it is not allowed."""
    if not is_name(name):
        raise StudyError(
            f"not a study name: {name[:120]!r} (letters, digits, dots, dashes and underscores, up to 100, and "
            f"{LONGEST_NAME} bytes)"
        )
    return name
