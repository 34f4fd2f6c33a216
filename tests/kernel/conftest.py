"""Fixtures of the kernel tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runtime_harness import RuntimeNode, make_layer, runtime_node


@pytest.fixture(scope="session")
def busybox_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image layer with busybox."""
    return make_layer(tmp_path_factory.mktemp("busybox") / "layer")


@pytest.fixture
async def node(tmp_path: Path, busybox_layer: Path) -> AsyncIterator[RuntimeNode]:
    """A node that can run containers; it leaves nothing behind."""
    async with runtime_node(tmp_path, busybox_layer) as started:
        yield started
