"""Copies files of containers by `process`, one process each."""

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from pyswarm_agent.runtime.access.interface import Access
from pyswarm_common.errors import InvalidArgument, NotFound, PermissionDenied, PyswarmError
from pyswarm_common.objects import Record

_PIECE_BYTES = 1 << 16


class PathStat(Record, frozen=True, kw_only=True):
    """What is at a path of a container. `mode` as Go's os.FileMode; `link_target`: where a link leads to in the container."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link_target: str = msgspec.field(name="linkTarget", default="")


class Copying:
    """One process that copies; `stat` is there once it was entered (not for writing)."""

    def __init__(self, process: asyncio.subprocess.Process, container_id: str, path: str, stat: PathStat | None) -> None:
        self._process = process
        self._container_id = container_id
        self._path = path
        self.stat = stat

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the archive. Raises PyswarmError when it breaks off."""
        assert self._process.stdout is not None
        while chunk := await self._process.stdout.read(_PIECE_BYTES):
            yield chunk
        await self.finish()

    async def feed(self, chunks: AsyncIterator[bytes]) -> None:
        """Send the archive that is to be unpacked, and return once it is. Raises PyswarmError."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(ConnectionError):  # it has ended, and said why
            async for chunk in chunks:
                stdin.write(chunk)
                await stdin.drain()
        stdin.close()
        with contextlib.suppress(ConnectionError):
            await stdin.wait_closed()
        await self.finish()

    async def finish(self) -> None:
        """Wait for the process's end. Raises PyswarmError when it failed."""
        assert self._process.stderr is not None
        rest = (await self._process.stderr.read()).splitlines()
        if await self._process.wait() != 0:
            raise _error(_message(rest[0] if rest else b""), self._container_id, self._path)


@contextlib.asynccontextmanager
async def copying(access: Access, container_id: str, path: str, action: str, **request: Any) -> AsyncIterator[Copying]:
    """Yield the process that does it, killed at the end if it still runs. Raises NotFound, InvalidArgument, PermissionDenied."""
    async with access.root(container_id) as root:
        text = msgspec.json.encode({"root": root.description, "path": path, "action": action, **request}).decode()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "pyswarm_agent.container_files.process", text),
            stdin=subprocess.PIPE if action == "write" else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=root.descriptors,
            cwd="/",
            env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C.UTF-8"},
        )
        try:
            assert process.stderr is not None
            first = _message(await process.stderr.readline())
            if "error" in first:
                raise _error(first, container_id, path)
            stat = msgspec.convert(first["stat"], PathStat) if "stat" in first else None
            yield Copying(process, container_id, path, stat)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await asyncio.shield(process.communicate())  # takes what is left in the pipes, or their transports would stay


def _message(line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return {"error": f"the copying process failed: {line.decode(errors='replace').strip() or 'no reason given'}", "number": -1}


def _error(message: dict[str, Any], container_id: str, path: str) -> PyswarmError:
    number, reason = message.get("number", -1), str(message.get("error", ""))
    if number == errno.ENOENT:
        return NotFound(f"Could not find the file {path} in container {container_id}")
    if number == errno.EROFS:
        return PermissionDenied("container rootfs is marked read-only")
    if number == 0 or number == errno.ENOTDIR:
        return InvalidArgument(reason)
    return PyswarmError(f"cannot copy {path} of container {container_id[:12]}: {reason}")
