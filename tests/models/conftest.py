"""A model folder, made once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.bundle import folder as bundle
from tests.models.test_bundle import save


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    save(folder)
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A model folder to spoil, and its card."""
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model", json.loads((saved / bundle.CARD).read_text())
