"""The push side of the OCI distribution specification: blobs and manifests into one repository of a registry."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import httpx

from pyswarm_agent.images.failures import push_refused, unreachable
from pyswarm_agent.images.records import RegistryAuth
from pyswarm_agent.images.reference import Reference
from pyswarm_agent.images.registry import ERROR_BYTES_MAX, Content, Registry, read_at_most
from pyswarm_common.errors import Unavailable

_PIECE_BYTES = 1 << 18
_BINARY = {"content-type": "application/octet-stream"}


class Repository:
    """One repository, to be written with one client's credentials. Methods raise Unauthenticated, PermissionDenied, Unavailable."""

    def __init__(self, registry: Registry, reference: Reference, auth: RegistryAuth | None) -> None:
        self._registry = registry
        self._reference = reference
        self._auth = auth
        self._scope = f"repository:{reference.path}:pull,push"

    async def has_blob(self, digest: str) -> bool:
        """Whether the repository has a blob already."""
        status, _ = await self._ask("HEAD", f"blobs/{digest}", accepted=(200, 404))
        return status == 200

    async def mount(self, digest: str, source: str) -> bool:
        """Have the registry take a blob over from its repository `source`; return whether it did."""
        path = f"blobs/uploads/?mount={digest}&from={source}"
        # A registry that cannot mount begins an upload instead, which it forgets after some time.
        status, _ = await self._ask("POST", path, accepted=(201, 202), scope=f"{self._scope} repository:{source}:pull")
        return status == 201

    async def put_blob(self, digest: str, file: Path, on_bytes: Callable[[int], None] = lambda sent_bytes: None) -> None:
        """Store a blob from a file; `on_bytes` is told how many bytes have been sent."""
        size_bytes = file.stat().st_size
        _, headers = await self._ask("POST", "blobs/uploads/", accepted=(202,))
        url = await self._upload_url(headers.get("location", ""), digest)
        sent = {**_BINARY, "content-length": str(size_bytes)}
        await self._ask("PUT", url, accepted=(201,), headers=sent, content=lambda: _pieces(file, on_bytes))

    async def _upload_url(self, location: str, digest: str) -> str:
        base = httpx.URL(await self._registry.find_base())
        try:
            url = base.join(location).copy_merge_params({"digest": digest})
        except httpx.InvalidURL as error:
            raise Unavailable(f"the registry names no place to upload to, but {location!r}") from error
        if url.scheme != base.scheme and url.scheme != "https":
            raise Unavailable(f"the registry wants the upload at {url.scheme}://{url.host}, which is not https as it itself is")
        return str(url)

    async def put_bytes(self, digest: str, data: bytes, folder: Path) -> None:
        """Store a small blob from memory, unless it is there. `folder`: where a temporary file may be."""
        if not await self.has_blob(digest):
            path = folder / digest.removeprefix("sha256:")
            path.write_bytes(data)
            await self.put_blob(digest, path)

    async def put_manifest(self, tag: str, body: bytes, media_type: str) -> None:
        """Give a manifest a name; all that it speaks of must be there."""
        await self._ask("PUT", f"manifests/{tag}", accepted=(200, 201, 202), headers={"content-type": media_type}, content=body)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        accepted: tuple[int, ...],
        headers: dict[str, str] | None = None,
        content: Content = None,
        scope: str = "",
    ) -> tuple[int, httpx.Headers]:
        """Return the answer's status and headers. `path`: below the repository, or a whole URL."""
        is_url = path.startswith(("http://", "https://"))
        url = path if is_url else f"{await self._registry.find_base()}/v2/{self._reference.path}/{path}"
        try:
            sending = await self._registry.send(method, url, scope or self._scope, self._auth, headers or {}, content)
            async with aclosing(sending) as response:
                body = await read_at_most(response, ERROR_BYTES_MAX) if method != "HEAD" else b""
                if response.status_code not in accepted:
                    raise push_refused(self._reference, response.status_code, response.reason_phrase, body)
                return response.status_code, response.headers
        except httpx.InvalidURL as error:
            raise Unavailable(f'{method.title()} "{url}": the registry names no place to upload to') from error
        except httpx.TransportError as error:
            self._registry.forget_base()
            raise unreachable(error, method, url) from error


async def _pieces(file: Path, on_bytes: Callable[[int], None]) -> AsyncIterator[bytes]:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    sent_bytes = 0
    try:
        while piece := await asyncio.to_thread(os.read, descriptor, _PIECE_BYTES):
            yield piece
            sent_bytes += len(piece)
            on_bytes(sent_bytes)
    finally:
        os.close(descriptor)
