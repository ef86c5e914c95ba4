"""Optuna's own test suite for storages, over ours: SQLite and PostgreSQL, raw and in Optuna's cache."""

import pickle
from collections.abc import Iterator

import pytest
from optuna.storages import BaseStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.testing.pytest_storages import StorageTestCase

from study import StudyError
from study.storage.door import open_storage


@pytest.fixture(params=["raw", "cached"])
def storage(request: pytest.FixtureRequest, url: str) -> Iterator[BaseStorage]:
    ours = open_storage(url, create=True)
    yield ours if request.param == "raw" else _CachedStorage(ours)
    ours.engine.dispose()


@pytest.mark.long
class TestStorage(StorageTestCase):
    """What every storage of Optuna does."""

    def test_pickle_storage(self, storage: BaseStorage) -> None:
        """A copy would silently lose the hook that makes writers wait: it is refused instead."""
        with pytest.raises(StudyError, match="open it again from its address"):
            pickle.dumps(storage)
