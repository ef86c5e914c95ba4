"""One rule for the names of classes, groups, parts, columns and listed files, and a check for names that look alike."""

import unicodedata
from collections.abc import Iterable

from data import DataError


def normal(name: str) -> str:
    """Normalise a name as it is compared and shown: in composed form (Unicode NFC), without spaces around it."""
    return unicodedata.normalize("NFC", name).strip()


def spelled(listed: Iterable[str], there: Iterable[str]) -> dict[str, str]:
    """Return path in a list -> path as the disk spells it, where the two differ in Unicode form only.

    macOS and its ZIP files write "ü" as two characters (NFD), spreadsheets as one (NFC).
    """
    known = set(there)
    forms = {unicodedata.normalize("NFC", path): path for path in sorted(known) if not path.isascii()}
    composed = {path: unicodedata.normalize("NFC", path) for path in listed if path not in known} if forms else {}
    return {path: forms[form] for path, form in composed.items() if form in forms}


def refuse_alike(names: Iterable[str], what: str, where: object) -> None:
    """Raise DataError if two different names look the same; its text says `what` they name, and `where` they occur."""
    seen: dict[str, str] = {}
    for name in sorted(set(names)):
        other = seen.setdefault(normal(name).casefold(), name)
        if other != name:
            raise DataError(
                f"{where}: the {what} {other!r} and {name!r} differ {_difference(other, name)} "
                "(give both one name, or names that differ to the eye)"
            )


def _difference(one: str, other: str) -> str:
    if normal(one) != normal(other):
        return "in upper and lower case only"
    if one.strip() != other.strip():
        return "only in how an accent is written (Unicode NFC and NFD)"
    return "in spaces around the name only"
