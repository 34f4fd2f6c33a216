"""Proving to a registry who asks: `WWW-Authenticate` challenges, basic credentials and bearer tokens.

Source: distribution `docs/spec/auth/token.md` and `oauth.md`. Credentials go to the registry itself and to the token service
that it names, never to where a download is redirected.
"""

import base64
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlencode

import httpx
import msgspec

from pyswarm_agent.images.records import RegistryAuth
from pyswarm_common.clock import Clock
from pyswarm_common.errors import Unauthenticated, Unavailable

TOKEN_BYTES_MAX = 1 << 20
_DEFAULT_LIFETIME_S = 60
_LIFETIME_MAX_S = 24 * 3600
_SAFETY_S = 5
_CLIENT_ID = "pyswarm"
_PARAMETER = re.compile(r'([a-zA-Z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')

Fetch = Callable[[str, str, dict[str, str], bytes | None], Awaitable[tuple[int, bytes]]]
"""(method, URL, headers, body) → (status, body): how tokens are asked for."""


@dataclass(frozen=True)
class Challenge:
    """What a registry wants to see: the scheme in lower case, and its parameters."""

    scheme: str
    parameters: dict[str, str]


class _TokenAnswer(msgspec.Struct):
    token: str | None = ""
    access_token: str | None = ""
    refresh_token: str | None = ""
    expires_in: int | None = None


@dataclass(frozen=True)
class _Token:
    header: str
    expires_s: float
    refresh_token: str = ""


def parse_challenges(headers: list[str]) -> list[Challenge]:
    """Return the challenges in `WWW-Authenticate` headers, one a header (as registries send them)."""
    challenges = []
    for header in headers:
        scheme, _, rest = header.strip().partition(" ")
        parameters = {key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(rest)}
        challenges.append(Challenge(scheme.lower(), parameters))
    return challenges


class Authenticator:
    """The `Authorization` headers for one registry; bearer tokens are kept until shortly before they expire."""

    def __init__(self, fetch: Fetch, clock: Clock, *, allows_http: bool) -> None:
        self._fetch = fetch
        self._clock = clock
        self._allows_http = allows_http
        self._tokens: dict[tuple[str, RegistryAuth | None], _Token] = {}

    def known_header(self, scope: str, auth: RegistryAuth | None) -> str:
        """Return the header that an earlier challenge led to, or nothing. `scope`: such as `repository:team/web:pull`."""
        if auth is not None and auth.registry_token:
            return _bearer(auth.registry_token, "the given registry token")
        token = self._tokens.get((scope, auth))
        return token.header if token is not None and token.expires_s > self._clock.monotonic_s() else ""

    async def answer(self, challenges: list[Challenge], scope: str, auth: RegistryAuth | None) -> str:
        """Return the header for a challenge; empty when there is nothing to answer with.

        Raises Unauthenticated for wrong credentials, Unavailable when the token service does not work.
        """
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                query = {"scope": scope} if scope else {}
                return self._keep(await self._fetch_token(challenge.parameters, query, auth), scope, auth)
            if challenge.scheme == "basic" and auth is not None and auth.username:
                token = _Token(_basic(auth), self._clock.monotonic_s() + _DEFAULT_LIFETIME_S)
                return self._keep(token, scope, auth)
        return ""

    async def log_in(self, challenges: list[Challenge], auth: RegistryAuth) -> tuple[str, str]:
        """Return the header for a challenge, and the token to identify with from now on ("": go on with the password).

        Raises as `answer` does.
        """
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                query = {"offline_token": "true", "client_id": _CLIENT_ID}
                token = await self._fetch_token(challenge.parameters, query, auth)
                return token.header, token.refresh_token
        return await self.answer(challenges, "", auth), ""

    def _keep(self, token: _Token, scope: str, auth: RegistryAuth | None) -> str:
        now_s = self._clock.monotonic_s()
        self._tokens = {key: old for key, old in self._tokens.items() if old.expires_s > now_s}
        self._tokens[scope, auth] = token
        return token.header

    async def _fetch_token(self, parameters: dict[str, str], query: dict[str, str], auth: RegistryAuth | None) -> _Token:
        realm = parameters["realm"]
        if not realm.startswith("https://") and not (self._allows_http and realm.startswith("http://")):
            raise Unauthenticated(f"the registry's token service {realm!r} is not https: no credentials are sent there")
        if service := parameters.get("service"):
            query = {**query, "service": service}
        asked_s = self._clock.monotonic_s()
        try:
            status, body = await self._ask(realm, query, auth)
        except httpx.InvalidURL as error:
            raise Unavailable(f"the registry's token service {realm!r} is no URL: {error}") from error
        if status in (400, 401, 403):
            raise Unauthenticated(f'Get "{realm}": unauthorized: incorrect username or password')
        if status != 200:
            raise Unavailable(f'Get "{realm}": the token service answered with HTTP status {status}')
        try:
            answer = msgspec.json.decode(body, type=_TokenAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unavailable(f'Get "{realm}": the token service answered with something that is no token: {error}') from error
        token = answer.token or answer.access_token
        if not token:
            raise Unavailable(f'Get "{realm}": authorization server did not include a token in the response')
        lifetime_s = min(max(answer.expires_in or 0, _DEFAULT_LIFETIME_S), _LIFETIME_MAX_S)
        header = _bearer(token, f"the token of {realm!r}")
        return _Token(header, asked_s + lifetime_s - _SAFETY_S, answer.refresh_token or "")

    async def _ask(self, realm: str, query: dict[str, str], auth: RegistryAuth | None) -> tuple[int, bytes]:
        if auth is not None and auth.identity_token:
            form = query | {"grant_type": "refresh_token", "refresh_token": auth.identity_token, "client_id": _CLIENT_ID}
            headers = {"content-type": "application/x-www-form-urlencoded"}
            return await self._fetch("POST", realm, headers, urlencode(form).encode())
        headers = {}
        if auth is not None and auth.username:
            headers["authorization"] = _basic(auth)
            query = query | {"account": auth.username}
        return await self._fetch("GET", str(httpx.URL(realm).copy_merge_params(query)), headers, None)


def _bearer(token: str, what: str) -> str:
    """A token that fits no header must not get as far as the HTTP client, whose complaint would quote it."""
    if not (token.isascii() and token.isprintable()):
        raise Unauthenticated(f"{what} holds characters that no token has")
    return f"Bearer {token}"


def _basic(auth: RegistryAuth) -> str:
    return "Basic " + base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
