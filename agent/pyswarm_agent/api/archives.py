"""The routes that copy files into containers and out of them."""

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pyswarm_agent.api.agent_services import agent_of
from pyswarm_agent.api.container_reference import container_of
from pyswarm_agent.container_files.copying import Copying, PathStat, copying
from pyswarm_common.engine_api.responses import query_flag, rfc3339
from pyswarm_common.engine_api.streams import StreamResponse, Write
from pyswarm_common.errors import InvalidArgument, PyswarmError

router = APIRouter()

_log = structlog.get_logger()

STAT_HEADER = "X-Docker-Container-Path-Stat"
TAR = "application/x-tar"


@router.head("/containers/{reference}/archive")
async def show_path(request: Request, reference: str) -> Response:
    """Tell in a header what is at a path."""
    container_id, path = container_of(request, reference).config.id, _path(request)
    async with copying(agent_of(request).access, container_id, path, "stat") as process:
        return Response(headers=stat_header(process.stat))


@router.get("/containers/{reference}/archive")
async def read_archive(request: Request, reference: str) -> Response:
    """Send what is at a path as a tar archive."""
    container_id, path = container_of(request, reference).config.id, _path(request)
    name = "" if path.strip("/") == "" else path
    return await _archive(request, container_id, path, name=_entry_name(name), stays_on_filesystem=False)


@router.get("/containers/{reference}/export")
async def export(request: Request, reference: str) -> Response:
    """Send the container's root file system as a tar archive, without what is mounted into it."""
    container_id = container_of(request, reference).config.id
    return await _archive(request, container_id, "/", name="", stays_on_filesystem=True)


@router.put("/containers/{reference}/archive")
async def write_archive(request: Request, reference: str) -> Response:
    """Unpack the body, a tar archive, below a path."""
    config, path = container_of(request, reference).config, _path(request)
    asked = {
        "keeps_kinds": query_flag(request, "noOverwriteDirNonDir"),
        "owner": (config.user or "0") if query_flag(request, "copyUIDGID") else "",
    }
    async with copying(agent_of(request).access, config.id, path, "write", **asked) as process:
        await process.feed(_body(request))
    return Response(status_code=200)


def stat_header(stat: PathStat | None) -> dict[str, str]:
    """Return the header that tells what is at a path; pure."""
    assert stat is not None
    described = {
        "name": stat.name,
        "size": stat.size,
        "mode": stat.mode,
        "mtime": rfc3339(stat.mtime_ns),
        "linkTarget": stat.link_target,
    }
    return {STAT_HEADER: base64.b64encode(msgspec.json.encode(described)).decode()}


class _Archive(StreamResponse):
    """An archive on its way. The process that reads it ends with the answer, however that ends."""

    def __init__(self, stack: AsyncExitStack, process: Copying) -> None:
        super().__init__(self._send, TAR)
        self.headers.update(stat_header(process.stat))
        self._stack = stack
        self._process = process

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run as an ASGI application. A copy that breaks off ends the connection too: the client must not take it for whole."""
        async with self._stack:
            try:
                await super().__call__(scope, receive, send)
            except PyswarmError as error:
                _log.warning("copy.broken_off", path=scope["path"], error=error.message)

    async def _send(self, write: Write) -> None:
        async for chunk in self._process.chunks():
            await write(chunk)


async def _archive(request: Request, container_id: str, path: str, **asked: Any) -> Response:
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(copying(agent_of(request).access, container_id, path, "read", **asked))
        return _Archive(stack.pop_all(), process)


async def _body(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _path(request: Request) -> str:
    path = request.query_params.get("path", "")
    if not path:
        raise InvalidArgument("bad parameter: 'path' cannot be empty")
    return path


def _entry_name(path: str) -> str:
    return "." if path.endswith("/.") else path.rstrip("/").rpartition("/")[2]
