"""The outermost layer of the API: versioned paths, the headers of every answer, and errors that nobody foresaw.

`/v1.41/services` and `/services` are the same route. Versions that we do not speak are refused in Docker's words.
"""

import platform
import re
from importlib.metadata import version

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyswarm_common.engine_api.responses import API_VERSION, MINIMUM_API_VERSION, error_response
from pyswarm_common.errors import InvalidArgument

ENGINE_VERSION = "20.10.24"
"""The Docker release whose API this is; clients look at it to know what they may ask."""
PRODUCT_VERSION = version("pyswarm-cluster")
SERVER_HEADER = f"Docker/{ENGINE_VERSION} (linux) pyswarm/{PRODUCT_VERSION}"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

_VERSIONED = re.compile(r"/v([0-9]+)\.([0-9]+)(?=/|$)")
_log = structlog.get_logger(__name__)


class VersionMiddleware:
    """An ASGI layer around the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                _add_headers(MutableHeaders(raw=message.setdefault("headers", [])))
            await send(message)

        try:
            await self._app(strip_version(scope), receive, send_with_headers)
        except Exception as error:
            if not isinstance(error, InvalidArgument):
                _log.exception("api.request_failed", method=scope["method"], path=scope["path"])
            if has_started:
                raise
            await error_response(error)(scope, receive, send_with_headers)


def strip_version(scope: Scope) -> Scope:
    """Return the scope with a bare path; the version asked for is in its state. Raises InvalidArgument for one we do not speak."""
    found = _VERSIONED.match(scope["path"])
    if found is None:
        return scope
    asked = (int(found[1]), int(found[2]))
    if asked > _parse(API_VERSION):
        raise InvalidArgument(f"client version {asked[0]}.{asked[1]} is too new. Maximum supported API version is {API_VERSION}")
    if asked < _parse(MINIMUM_API_VERSION):
        raise InvalidArgument(
            f"client version {asked[0]}.{asked[1]} is too old. Minimum supported API version is {MINIMUM_API_VERSION}, "
            "please upgrade your client to a newer version"
        )
    state = {**scope.get("state", {}), "api_version": asked}
    return {**scope, "path": scope["path"][found.end() :] or "/", "state": state}


def _add_headers(headers: MutableHeaders) -> None:
    headers["Api-Version"] = API_VERSION
    headers["Ostype"] = "linux"
    headers["Docker-Experimental"] = "false"
    headers["Server"] = SERVER_HEADER


def _parse(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)
