"""One blob from a registry to a file: hashed as it comes, resumed where a connection broke, never larger than announced."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import httpx

from pyswarm_agent.images.disk import in_thread
from pyswarm_agent.images.failures import corrupt_layer
from pyswarm_agent.images.manifest import Content
from pyswarm_agent.images.records import RegistryAuth
from pyswarm_agent.images.reference import Reference
from pyswarm_agent.images.registry import Registry
from pyswarm_common.clock import Clock
from pyswarm_common.errors import PyswarmError, Unavailable

ATTEMPTS = 5
"""Tries in a row that bring nothing new before a download is given up."""

_FIRST_RETRY_S = 0.25
_WRITE_BYTES = 1 << 20
_PROGRESS_BYTES_MIN = 64 << 10


class _Sink:
    """The file under way, with the hash of what it holds."""

    def __init__(self, target: Path) -> None:
        self._descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def take_up(self, size_bytes_max: int) -> None:
        """Take in what the file holds from an earlier try; called in a thread."""
        while piece := os.read(self._descriptor, _WRITE_BYTES):
            self._hash.update(piece)
            self.size_bytes += len(piece)
        if self.size_bytes > size_bytes_max:
            self.restart()

    def write(self, chunks: list[bytes]) -> None:
        """Append; called in a thread."""
        for chunk in chunks:
            self._hash.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._descriptor, view) :]
            self.size_bytes += len(chunk)

    def restart(self) -> None:
        """Forget everything."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def close(self) -> None:
        os.close(self._descriptor)


class Download:
    """Fetches one blob into `target`."""

    def __init__(
        self,
        registry: Registry,
        reference: Reference,
        content: Content,
        target: Path,
        *,
        auth: RegistryAuth | None,
        clock: Clock,
        on_bytes: Callable[[int], None] = lambda size_bytes: None,
    ) -> None:
        self._registry = registry
        self._reference = reference
        self._content = content
        self._target = target
        self._auth = auth
        self._clock = clock
        self._on_bytes = on_bytes
        self._was_resumed = False

    @property
    def present_bytes(self) -> int:
        """How much an earlier try has left in the file."""
        try:
            return self._target.stat().st_size
        except FileNotFoundError:
            return 0

    async def run(self) -> None:
        """Return when the whole blob is in the file and is what its digest says; what the file holds of it is not fetched again.

        Raises PyswarmError for wrong content, Unavailable when the registry broke off too often, NotFound.
        """
        sink = _Sink(self._target)
        try:
            await in_thread(sink.take_up, self._content.size_bytes)
            self._was_resumed = sink.size_bytes > 0
            await self._fill(sink)
            if sink.digest != self._content.digest and self._was_resumed:
                # The pieces may be of two different files (a proxy's doing); only a whole one proves corruption.
                sink.restart()
                await self._fill(sink)
            if sink.digest != self._content.digest:
                raise corrupt_layer(self._content.digest, f"the registry sent {sink.digest}")
        finally:
            sink.close()

    async def _fill(self, sink: _Sink) -> None:
        failures = 0
        while sink.size_bytes < self._content.size_bytes or not sink.size_bytes:
            before = sink.size_bytes
            try:
                await self._fetch_rest(sink)
                return
            except Unavailable:
                failures = 1 if sink.size_bytes - before >= _PROGRESS_BYTES_MIN else failures + 1
                if failures >= ATTEMPTS:
                    raise
            self._was_resumed = self._was_resumed or sink.size_bytes > 0
            await self._clock.sleep(_FIRST_RETRY_S * 2 ** (failures - 1))

    async def _fetch_rest(self, sink: _Sink) -> None:
        async with self._registry.open_blob(self._reference, self._content.digest, self._auth, sink.size_bytes) as response:
            if sink.size_bytes and not _continues_at(response, sink.size_bytes):
                sink.restart()
            self._check_announced(response, self._content.size_bytes - sink.size_bytes)
            await self._copy(response, sink)
        if sink.size_bytes < self._content.size_bytes:
            raise Unavailable(f"the registry sent {sink.size_bytes} of {self._content.size_bytes} bytes of {self._content.digest}")

    async def _copy(self, response: httpx.Response, sink: _Sink) -> None:
        chunks: list[bytes] = []
        pending_bytes = 0
        try:
            async for chunk in response.aiter_raw():
                chunks.append(chunk)
                pending_bytes += len(chunk)
                if sink.size_bytes + pending_bytes > self._content.size_bytes:
                    raise corrupt_layer(
                        self._content.digest, f"more than the {self._content.size_bytes} bytes that the manifest says"
                    )
                if pending_bytes >= _WRITE_BYTES:
                    ready, chunks, pending_bytes = chunks, [], 0
                    await in_thread(sink.write, ready)
                    self._on_bytes(sink.size_bytes)
        finally:
            # What came before a break counts: the next try goes on after it.
            sink.write(chunks)
            self._on_bytes(sink.size_bytes)

    def _check_announced(self, response: httpx.Response, expected_bytes: int) -> None:
        announced = response.headers.get("content-length")
        if announced is not None and announced.isdigit() and int(announced) != expected_bytes:
            raise PyswarmError(
                f"{self._content.digest}: the registry announces {announced} bytes, where the manifest leaves {expected_bytes}"
            )


def _continues_at(response: httpx.Response, offset: int) -> bool:
    if response.status_code != 206:
        return False
    first = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return bool(first == str(offset))
