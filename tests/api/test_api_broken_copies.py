"""A copy out of a container that fails after it began: the client sees it break off, and the log has one line."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from api_server import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pyswarm_agent.api.archives import _Archive
from pyswarm_agent.container_files.copying import Copying, PathStat
from pyswarm_common.errors import PyswarmError
from pyswarm_node.serving import bind_unix


class _Broken(Copying):
    """Yields some bytes, then fails as a process does that lost its file system."""

    def __init__(self) -> None:
        self.stat = PathStat(name="x", size=1, mode=0, mtime_ns=0)

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"begun"
        raise PyswarmError("cannot copy /x: Input/output error")


@asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async def answer(request: Request) -> Response:
        return _Archive(AsyncExitStack(), _Broken())

    path = folder / "api.sock"
    client = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://docker")
    async with served(Starlette(routes=[Route("/archive", answer)]), bind_unix(path)), client:
        yield client


async def test_the_client_sees_it_and_the_log_stays_calm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async with _serving(tmp_path) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/archive")
    told = caplog.text + "".join(capsys.readouterr())
    assert "copy.broken_off" in told
    assert "Traceback" not in told
