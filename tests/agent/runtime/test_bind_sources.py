"""Looking for the sources of binds: what is said of those that are missing, and of those that never answer."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyswarm_agent.runtime.bind_sources import BindSources
from pyswarm_agent.runtime.records import MountConfig
from pyswarm_common.errors import InvalidArgument, Unavailable


def bind(source: str | Path, *, creates_source: bool = False) -> MountConfig:
    return MountConfig(type="bind", source=str(source), target="/x", creates_source=creates_source)


class DeadServer:
    """Holds whoever looks at `/dead` until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.looks: list[str] = []

    def exists(self, path: str) -> bool:
        self.looks.append(path)
        if path == "/dead":
            self.released.wait()
        return True


@pytest.fixture
def server() -> Iterator[DeadServer]:
    server = DeadServer()
    yield server
    server.released.set()


async def test_what_is_there_or_is_to_be_made_is_fine(tmp_path: Path) -> None:
    tmpfs = MountConfig(type="tmpfs", target="/none")
    await BindSources().check([bind(tmp_path), bind(tmp_path), bind("/none", creates_source=True), tmpfs])


@pytest.mark.parametrize("path", ["/none/there", "/nul\0"])
async def test_what_is_missing_is_said_as_docker_says_it(path: str) -> None:
    with pytest.raises(InvalidArgument, match="bind source path does not exist: /n"):
        await BindSources().check([bind(path)])


async def test_nobody_waits_for_a_dead_file_server(server: DeadServer) -> None:
    sources = BindSources(server.exists, limit_s=0.05)
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"bind source path /dead did not answer within 0\.05 s"):
            await sources.check([bind("/alive"), bind("/dead")])
    assert server.looks.count("/dead") == 1
    server.released.set()
    await BindSources(server.exists).check([bind("/dead")])


async def test_a_look_that_ends_late_serves_those_who_wait(server: DeadServer) -> None:
    sources = BindSources(server.exists)
    first, second = (asyncio.ensure_future(sources.check([bind("/dead")])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    server.released.set()
    await second
    assert server.looks == ["/dead"]
