"""Plain words: a docstring begins with what the thing is or does, and a class is named by a noun."""

import ast
from collections.abc import Iterator

import pytest

from tests.test_floors import modules

CLIPPED = ("Of ", "Of them", "The same", "Who ", "What it", "So many", "Whether of")
"""Beginnings of docstrings that must be read twice."""
# fmt: off
PARTICIPLES = {
    "Asked", "Begun", "Chosen", "Confirmed", "Decayed", "Decoded", "Described", "Doing", "Finished", "Found",
    "Given", "Kept", "Known", "Opened", "Planned", "Predicted", "Refused", "Running", "Scaled",
    "Scored", "Seen", "Served", "Shown", "Standing", "Stopped", "Trained", "Tried", "Unneeded", "Upgraded",
    "Waiting", "Walked", "Warned", "Written",
}
# fmt: on
"""Names of classes that say what was done, and not what they are."""


def texts(tree: ast.Module) -> Iterator[str]:
    """Docstrings, and the texts below constants and fields."""
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


@pytest.mark.parametrize("name", modules())
def test_words_are_plain(name: str) -> None:
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    assert [text for text in texts(tree) if text.startswith(CLIPPED)] == []
    classes = [node.name.lstrip("_") for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [one for one in classes if one in PARTICIPLES] == []
