"""A client for one registry: the pull side of the OCI distribution specification, over httpx.

It finds out whether the registry speaks https or http, answers challenges, and follows redirects without taking the registry's
credentials along. What the bytes mean is for `manifest.py`, putting blobs on disk for `download.py`.
"""

import ipaddress
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from pyswarm_agent.images import manifest as manifests
from pyswarm_agent.images.authentication import TOKEN_BYTES_MAX, Authenticator, parse_challenges
from pyswarm_agent.images.failures import refused, unreachable
from pyswarm_agent.images.records import RegistryAuth
from pyswarm_agent.images.reference import DEFAULT_DOMAIN, Reference
from pyswarm_common.clock import Clock
from pyswarm_common.errors import PyswarmError, Unavailable

MANIFEST_BYTES_MAX = 4 << 20
_ERROR_BYTES_MAX = 64 << 10
_DOCKER_HUB = "registry-1.docker.io"
_REDIRECTS_MAX = 10
_ATTEMPTS = 3
_RETRY_S = 0.3
_TIMEOUT = httpx.Timeout(30, connect=10, pool=None)
_HEADERS = {"user-agent": "pyswarm", "accept-encoding": "identity"}
_ACCEPT = ", ".join((*manifests.MANIFEST_TYPES, *manifests.INDEX_TYPES))


class InsecureRegistries:
    """Which registries may be spoken to without verified TLS: networks, or host[:port]; this machine always."""

    def __init__(self, entries: Sequence[str] = ()) -> None:
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = [
            ipaddress.ip_network("127.0.0.0/8"),
            ipaddress.ip_network("::1/128"),
        ]
        self._names = {"localhost"}
        for entry in entries:
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._names.add(entry)

    def __contains__(self, domain: str) -> bool:
        host = httpx.URL(f"http://{domain}").host
        if domain in self._names or host in self._names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


class HTTPClients:
    """The connections to all registries: one pool that verifies certificates, one that does not."""

    def __init__(self) -> None:
        self._clients: dict[bool, httpx.AsyncClient] = {}

    def get(self, *, verifies: bool) -> httpx.AsyncClient:
        """Return the pool, made on first use (reading the trusted certificates takes 20 ms)."""
        if verifies not in self._clients:
            context = ssl.create_default_context() if verifies else False
            # Proxies are for the outside; insecure registries are near.
            self._clients[verifies] = httpx.AsyncClient(verify=context, timeout=_TIMEOUT, headers=_HEADERS, trust_env=verifies)
        return self._clients[verifies]

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()


@dataclass(frozen=True)
class FetchedManifest:
    """A manifest as the registry gave it, its digest computed from the bytes."""

    body: bytes
    media_type: str
    digest: str


class Registry:
    """One registry, by the domain of image names."""

    def __init__(self, domain: str, clients: HTTPClients, clock: Clock, *, is_insecure: bool) -> None:
        self._host = _DOCKER_HUB if domain == DEFAULT_DOMAIN else domain
        self._client = clients.get(verifies=not is_insecure)
        self._clock = clock
        self._schemes = ("https", "http") if is_insecure else ("https",)
        self._base = ""
        self._authenticator = Authenticator(self._fetch_token, clock, allows_http=is_insecure)

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

    async def _fetch_manifest_bytes(self, reference: Reference, auth: RegistryAuth | None) -> tuple[bytes, str]:
        await self._find_base()
        for attempt in range(_ATTEMPTS):
            try:
                async with self._open(reference, f"manifests/{reference.manifest_key}", auth, {"accept": _ACCEPT}) as response:
                    body = await _read_at_most(response, MANIFEST_BYTES_MAX)
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
        url = f"{await self._find_base()}/v2/{reference.path}/{path}"
        try:
            response = await self._send_authorized(url, reference.path, auth, headers)
            try:
                if response.status_code not in (200, 206):
                    body = await _read_at_most(response, _ERROR_BYTES_MAX)
                    raise refused(reference, response.status_code, response.reason_phrase, body)
                yield response
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            self._base = ""
            raise unreachable(error, "GET", url) from error

    async def _send_authorized(
        self, url: str, repository: str, auth: RegistryAuth | None, headers: dict[str, str]
    ) -> httpx.Response:
        response = await self._send(url, headers, self._authenticator.known_header(repository, auth))
        if response.status_code != 401:
            return response
        challenges = parse_challenges(response.headers.get_list("www-authenticate"))
        try:
            header = await self._authenticator.answer(challenges, repository, auth)
        except BaseException:
            await response.aclose()
            raise
        if not header:
            return response
        await response.aclose()
        return await self._send(url, headers, header)

    async def _send(self, url: str, headers: dict[str, str], authorization: str) -> httpx.Response:
        """Send a GET, following redirects; only the registry itself sees `authorization`."""
        target = origin = httpx.URL(url)
        for _ in range(_REDIRECTS_MAX):
            is_home = (target.scheme, target.host, target.port) == (origin.scheme, origin.host, origin.port)
            extra = {"authorization": authorization} if authorization and is_home else {}
            response = await self._client.send(
                self._client.build_request("GET", target, headers=headers | extra), stream=True, follow_redirects=False
            )
            if not response.has_redirect_location:
                return response
            await response.aclose()
            try:
                target = target.join(response.headers["location"])
            except httpx.InvalidURL as error:
                raise Unavailable(f'Get "{url}": the registry redirects to something that is no URL') from error
            if target.scheme not in self._schemes:
                raise Unavailable(f'Get "{url}": the registry redirects from https to {str(target)!r}, which is not followed')
        raise Unavailable(f'Get "{url}": stopped after {_REDIRECTS_MAX} redirects')

    async def _find_base(self) -> str:
        """Return `scheme://host` of the registry: https, or http if it is insecure and has no https."""
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

    async def _fetch_token(self, method: str, url: str, headers: dict[str, str], content: bytes | None) -> tuple[int, bytes]:
        try:
            request = self._client.build_request(method, url, headers=headers, content=content)
            response = await self._client.send(request, stream=True, follow_redirects=False)
            try:
                return response.status_code, await _read_at_most(response, TOKEN_BYTES_MAX)
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise unreachable(error, method, url.partition("?")[0]) from error


async def _read_at_most(response: httpx.Response, size_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > size_bytes:
            raise PyswarmError(f"the registry's answer to {response.url.path} is larger than {size_bytes} bytes")
    return bytes(body)
