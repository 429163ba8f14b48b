import fsspec
import pytest
from stores import FailingStore

from smile.scale import store


@pytest.fixture
def failing(monkeypatch):
    """A store in memory at failing://, whose requests fail as its attributes say."""
    fsspec.register_implementation("failing", FailingStore, clobber=True)
    monkeypatch.setattr(store, "WAIT", 0)
    FailingStore.reset()
    yield FailingStore
    FailingStore.reset()
