"""A client for one registry: the OCI distribution specification over httpx. What is sent up: `uploads.py`.

It finds out whether the registry speaks https or http, answers challenges, and follows redirects without taking the registry's
credentials along. What the bytes mean is for `manifest.py`, putting blobs on disk for `download.py`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import httpx

from pyswarm_agent.images import manifest as manifests
from pyswarm_agent.images.authentication import TOKEN_BYTES_MAX, Authenticator, parse_challenges
from pyswarm_agent.images.endpoints import HTTPClients
from pyswarm_agent.images.failures import login_failed, refused, unreachable
from pyswarm_agent.images.records import RegistryAuth
from pyswarm_agent.images.reference import DEFAULT_DOMAIN, Reference
from pyswarm_common.clock import Clock
from pyswarm_common.errors import PyswarmError, Unavailable

MANIFEST_BYTES_MAX = 4 << 20
ERROR_BYTES_MAX = 64 << 10
_DOCKER_HUB = "registry-1.docker.io"
_REDIRECTS_MAX = 10
_ATTEMPTS = 3
_RETRY_S = 0.3
_ACCEPT = ", ".join((*manifests.MANIFEST_TYPES, *manifests.INDEX_TYPES))
_QUESTIONS = ("GET", "HEAD")

Content = Callable[[], AsyncIterator[bytes]] | bytes | None
"""A request's body: bytes, or what gives them, from the start each time."""


@dataclass(frozen=True)
class FetchedManifest:
    """A manifest as the registry gave it, its digest computed from the bytes."""

    body: bytes
    media_type: str
    digest: str


class Registry:
    """One registry, by the domain of image names; or a mirror of Docker Hub, by its URL."""

    def __init__(self, domain: str, clients: HTTPClients, clock: Clock, *, is_insecure: bool, mirror: str = "") -> None:
        """`is_insecure`: may be asked without TLS. `mirror`: `scheme://host[:port]`, of which an http one needs no such leave."""
        self.domain = domain
        self.is_mirror = bool(mirror)
        self._host = _DOCKER_HUB if domain == DEFAULT_DOMAIN else domain
        self._client = clients.get(verifies=not is_insecure)
        self._clock = clock
        self._schemes: tuple[str, ...] = ("https", "http") if is_insecure or mirror.startswith("http://") else ("https",)
        self._base = mirror.rstrip("/")
        self._authenticator = Authenticator(self._fetch_token, clock, allows_http="http" in self._schemes)

    async def fetch_manifest(self, reference: Reference, auth: RegistryAuth | None) -> FetchedManifest:
        """Return the manifest or index under a name or digest.

        Raises NotFound, Unauthenticated, Unavailable, or PyswarmError when the bytes are not what the digest says.
        """
        body, content_type = await self._fetch_manifest_bytes(reference, auth)
        digest = manifests.digest_of(body)
        if reference.digest and digest != reference.digest:
            raise PyswarmError(f"manifest verification failed for digest {reference.digest}: the registry sent {digest}")
        return FetchedManifest(body, manifests.media_type_of(body, content_type), digest)

    @asynccontextmanager
    async def open_blob(
        self, reference: Reference, digest: str, auth: RegistryAuth | None, offset: int = 0
    ) -> AsyncIterator[httpx.Response]:
        """Ask for a blob from `offset` on; the answer's status is 200 (all of it) or 206, its body not yet read.

        Raises as `fetch_manifest` does.
        """
        headers = {"range": f"bytes={offset}-"} if offset else {}
        async with self._open(reference, f"blobs/{digest}", auth, headers) as response:
            yield response

    async def log_in(self, auth: RegistryAuth) -> str:
        """Check credentials; return the token to identify with from now on, "" for none. Raises Unauthenticated, Unavailable."""
        url = f"{await self.find_base()}/v2/"
        try:
            async with aclosing(await self._send("GET", url, {}, "")) as first:
                if first.status_code != 401:
                    return ""
                challenges = parse_challenges(first.headers.get_list("www-authenticate"))
            header, token = await self._authenticator.log_in(challenges, auth)
            async with aclosing(await self._send("GET", url, {}, header)) as response:
                if response.status_code != 200:
                    raise login_failed(url, response.status_code, response.reason_phrase)
        except httpx.TransportError as error:
            self.forget_base()
            raise unreachable(error, "GET", url) from error
        return token

    async def send(
        self, method: str, url: str, scope: str, auth: RegistryAuth | None, headers: dict[str, str], content: Content = None
    ) -> httpx.Response:
        """Send a request with what the registry wants to see; the answer's body is not read, and must be closed.

        `scope`: what is to be done, as the token service words it. Raises httpx.TransportError, Unauthenticated, Unavailable.
        """
        response = await self._send(method, url, headers, self._authenticator.known_header(scope, auth), content)
        if response.status_code != 401:
            return response
        challenges = parse_challenges(response.headers.get_list("www-authenticate"))
        try:
            header = await self._authenticator.answer(challenges, scope, auth)
        except BaseException:
            await response.aclose()
            raise
        if not header:
            return response
        await response.aclose()
        return await self._send(method, url, headers, header, content)

    async def find_base(self) -> str:
        """Return `scheme://host` of the registry: https, or http if it is insecure and has no https. Raises Unavailable."""
        if self._base:
            return self._base
        for scheme in self._schemes:
            base = f"{scheme}://{self._host}"
            try:
                response = await self._client.send(
                    self._client.build_request("GET", f"{base}/v2/"), stream=True, follow_redirects=False
                )
                await response.aclose()
            except httpx.TransportError as error:
                if scheme == self._schemes[-1]:
                    raise unreachable(error, "GET", f"{base}/v2/") from error
                continue
            self._base = base
            break
        return self._base

    def forget_base(self) -> None:
        """Find out anew how the registry is reached: it was not, just now."""
        if not self.is_mirror:
            self._base = ""

    async def _fetch_manifest_bytes(self, reference: Reference, auth: RegistryAuth | None) -> tuple[bytes, str]:
        await self.find_base()
        for attempt in range(_ATTEMPTS):
            try:
                async with self._open(reference, f"manifests/{reference.manifest_key}", auth, {"accept": _ACCEPT}) as response:
                    body = await read_at_most(response, MANIFEST_BYTES_MAX)
                    return body, response.headers.get("content-type", "")
            except Unavailable:
                if attempt == _ATTEMPTS - 1:
                    raise
                await self._clock.sleep(_RETRY_S * 2**attempt)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _open(
        self, reference: Reference, path: str, auth: RegistryAuth | None, headers: dict[str, str]
    ) -> AsyncIterator[httpx.Response]:
        url = f"{await self.find_base()}/v2/{reference.path}/{path}"
        try:
            async with aclosing(await self.send("GET", url, f"repository:{reference.path}:pull", auth, headers)) as response:
                if response.status_code not in (200, 206):
                    body = await read_at_most(response, ERROR_BYTES_MAX)
                    raise refused(reference, response.status_code, response.reason_phrase, body)
                yield response
        except httpx.TransportError as error:
            self.forget_base()
            raise unreachable(error, "GET", url) from error

    async def _send(
        self, method: str, url: str, headers: dict[str, str], authorization: str, content: Content = None
    ) -> httpx.Response:
        """Send a request, following redirects of questions; only the registry itself sees `authorization`."""
        target, home = httpx.URL(url), httpx.URL(self._base)
        for _ in range(_REDIRECTS_MAX):
            is_home = (target.scheme, target.host, target.port) == (home.scheme, home.host, home.port)
            extra = {"authorization": authorization} if authorization and is_home else {}
            body = content() if callable(content) else content
            request = self._client.build_request(method, target, headers=headers | extra, content=body)
            response = await self._client.send(request, stream=True, follow_redirects=False)
            if method not in _QUESTIONS or not response.has_redirect_location:
                return response
            await response.aclose()
            try:
                target = target.join(response.headers["location"])
            except httpx.InvalidURL as error:
                raise Unavailable(f'Get "{url}": the registry redirects to something that is no URL') from error
            if target.scheme not in self._schemes:
                raise Unavailable(f'Get "{url}": the registry redirects from https to {str(target)!r}, which is not followed')
        raise Unavailable(f'Get "{url}": stopped after {_REDIRECTS_MAX} redirects')

    async def _fetch_token(self, method: str, url: str, headers: dict[str, str], content: bytes | None) -> tuple[int, bytes]:
        try:
            request = self._client.build_request(method, url, headers=headers, content=content)
            async with aclosing(await self._client.send(request, stream=True, follow_redirects=False)) as response:
                return response.status_code, await read_at_most(response, TOKEN_BYTES_MAX)
        except httpx.TransportError as error:
            raise unreachable(error, method, url.partition("?")[0]) from error


async def read_at_most(response: httpx.Response, size_bytes: int) -> bytes:
    """Return an answer's body. Raises PyswarmError for one that is larger."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > size_bytes:
            raise PyswarmError(f"the registry's answer to {response.url.path} is larger than {size_bytes} bytes")
    return bytes(body)
