"""One rule for the names of classes, groups, parts and columns, and a check for names that look the same."""

import unicodedata
from collections.abc import Iterable

from data import DataError


def normal(name: str) -> str:
    """Normalise a name as it is compared and shown: in composed form (Unicode NFC), without spaces around it."""
    return unicodedata.normalize("NFC", name).strip()


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
