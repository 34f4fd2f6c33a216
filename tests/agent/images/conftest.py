"""Fixtures for image tests: a real registry, and a store in a fresh folder that must be clean at the end."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from image_registries import RealRegistry, ScriptedServer, running_registry, scripted_server

from pyswarm_agent.images import ImageStore


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    """Run Debian's docker-registry for the session."""
    with running_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """Run a server that misbehaves as told."""
    async with scripted_server() as server:
        yield server


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[ImageStore]:
    """Open a store; whatever the test did, nothing half-done may be left."""
    store = ImageStore(tmp_path / "data")
    yield store
    await store.close()
    assert list((tmp_path / "data/images/temporary").iterdir()) == []
    assert list((tmp_path / "data/images/trash").iterdir()) == []
