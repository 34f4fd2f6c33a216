"""A node with a running agent, and an image store that is made once."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from agent_bench import Bench, make_images, running_bench
from session_bench import Certificates


@pytest.fixture(scope="session")
def prepared_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data directory with an image in its store, to be copied."""
    folder = tmp_path_factory.mktemp("images") / "data"
    asyncio.run(make_images(folder))
    return folder


@pytest_asyncio.fixture
async def bench(tmp_path: Path, prepared_images: Path) -> AsyncIterator[Bench]:
    """Run an agent that knows no manager."""
    shutil.copytree(prepared_images, tmp_path / "data", symlinks=True)
    async with running_bench(tmp_path / "data") as made:
        yield made


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Return a cluster's certificates."""
    return Certificates.make(tmp_path_factory.mktemp("pki"))
