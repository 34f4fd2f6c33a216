"""Requests to another manager's node port, under this node's certificate, with a plain word on each whether it was sent.

A connection that was silent for half a second is not used again: its peer's host may have died without a word, and only a new
connection tells that for certain. Certificates and roots are those of now: `tls` gives a new context when they changed.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import httpx
import structlog

from pyswarm_common import pki
from pyswarm_common.errors import NotDone, OutcomeUnknown

CONNECT_TIMEOUT_S = 1.0
WRITE_TIMEOUT_S = 5.0
KEEP_ALIVE_S = 0.5
_KEPT_CONNECTIONS = 64
_PATH_SAFE = "/:@!$&'()*+,;=-._~"
_SENDING = "http11.send_request_headers.started"

_log = structlog.get_logger(__name__)

Headers = Sequence[tuple[bytes, bytes]]


class RenewedTLS:
    """A TLS context made by `make`, and made again when one of the files behind it was replaced."""

    def __init__(self, make: Callable[[], ssl.SSLContext], paths: Sequence[Path]) -> None:
        self._make = make
        self._paths = paths
        self._stamp: object = None
        self._context: ssl.SSLContext | None = None

    def __call__(self) -> ssl.SSLContext:
        """Return the context of now; the former one while the files do not fit together. Raises OSError when there is none."""
        try:
            stamp = [((stat := path.stat()).st_ino, stat.st_mtime_ns) for path in self._paths]
            if self._context is None or stamp != self._stamp:
                self._context, self._stamp = self._make(), stamp
        except OSError:
            if self._context is None:
                raise
        return self._context


class ManagerChannel:
    """Makes requests to managers. Let it `run`, or `close` it."""

    def __init__(self, tls: Callable[[], ssl.SSLContext]) -> None:
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._client: _Client | None = None

    def request(self, address: str, method: str, path: str, query: bytes, headers: Headers, body: bytes) -> "ManagerRequest":
        """Return a request to the manager at `address` (host:port), not sent yet. `path` is not quoted."""
        host, _, port = address.rpartition(":")
        target = quote(path, safe=_PATH_SAFE).encode("ascii") + (b"?" + query if query else b"")
        url = httpx.URL(scheme="https", host=host.strip("[]"), port=int(port), raw_path=target)
        return ManagerRequest(self._client_of_now, httpx.Request(method, url, headers=list(headers), content=body), address)

    async def run(self) -> None:
        """Close it when cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """End all connections that are not in use; the others end with their requests."""
        client, self._client = self._client, None
        if client is not None:
            await client.retire()

    async def _client_of_now(self) -> "_Client":
        context = self._tls()
        if self._client is None or context is not self._context:
            former, self._client, self._context = self._client, _Client(context), context
            if former is not None:
                await former.retire()
        return self._client


class ManagerRequest:
    """One request: `send` it, read its answer, `close` it (or use it in an `async with`)."""

    def __init__(self, client: "Callable[[], Awaitable[_Client]]", request: httpx.Request, address: str) -> None:
        self.is_sent = False
        """Whether anything of it may have reached the manager."""
        self.answer: httpx.Response | None = None
        """The head of the answer, once there is one."""
        self.content: bytes | None = None
        """The answer's body when its length is known; else it is read by `chunks`."""
        self.is_answered = False
        """Whether all that `send` waits for has come."""
        self.method = request.method
        self.path = request.url.path
        self._client_of_now = client
        self._client: _Client | None = None
        self._request = request
        self._address = address

    async def __aenter__(self) -> "ManagerRequest":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def send(self) -> None:
        """Send it and wait for the answer, or its head when the answer is a stream.

        Raises NotDone when it certainly did not reach the manager, OutcomeUnknown when the connection ended without an answer.
        """
        client = await self._take_client()
        self._request.extensions = {
            "sni_hostname": pki.MANAGER_ROLE_NAME,
            "trace": self._note_progress,
            "timeout": {"connect": CONNECT_TIMEOUT_S, "write": WRITE_TIMEOUT_S, "read": None, "pool": None},
        }
        try:
            self.answer = await client.send(self._request, stream=True)
            if "content-length" in self.answer.headers:
                self.content = b"".join([chunk async for chunk in self.answer.aiter_raw()])
            self.is_answered = True
        except (httpx.HTTPError, OSError) as error:
            reason = str(error) or type(error).__name__
            if self.is_sent:
                raise OutcomeUnknown(
                    f"the connection to the manager at {self._address} ended without an answer: {reason}"
                ) from error
            raise NotDone(
                f"the leading manager at {self._address} cannot be reached: {reason}; nothing was changed, try again"
            ) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the answer's body as it arrives. Raises OutcomeUnknown when the connection ends before it does."""
        assert self.answer is not None
        try:
            async for chunk in self.answer.aiter_raw():
                yield chunk
        except (httpx.HTTPError, OSError) as error:
            raise OutcomeUnknown(
                f"the connection to the manager at {self._address} broke: {error or type(error).__name__}"
            ) from error

    async def body(self) -> bytes:
        """Return the answer's whole body. Raises OutcomeUnknown."""
        return self.content if self.content is not None else b"".join([chunk async for chunk in self.chunks()])

    async def close(self) -> None:
        """End it, also in the middle of its answer."""
        client, self._client = self._client, None
        try:
            if self.answer is not None:
                await self.answer.aclose()
        finally:
            if client is not None:
                await client.release()

    async def _take_client(self) -> httpx.AsyncClient:
        try:
            self._client = await self._client_of_now()
        except OSError as error:  # ssl.SSLError too
            raise NotDone(f"this node's certificate cannot be used: {error}") from error
        return self._client.acquire()

    async def _note_progress(self, step: str, _: object) -> None:
        if step == _SENDING:
            self.is_sent = True


class _Client:
    """An httpx client under one TLS context; once retired it closes with its last request."""

    def __init__(self, context: ssl.SSLContext) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_S)
        self._client = httpx.AsyncClient(verify=context, limits=limits, trust_env=False)
        self._uses = 0
        self._is_retired = False

    def acquire(self) -> httpx.AsyncClient:
        self._uses += 1
        return self._client

    async def release(self) -> None:
        self._uses -= 1
        await self._close_if_unused()

    async def retire(self) -> None:
        self._is_retired = True
        await self._close_if_unused()

    async def _close_if_unused(self) -> None:
        if self._is_retired and self._uses == 0:
            await asyncio.shield(self._client.aclose())
