"""Answers in Docker's form: JSON by msgspec, errors as `{"message": …}`, the headers that every answer carries."""

import datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.errors import InvalidArgument, PyswarmError

API_VERSION = "1.41"
MINIMUM_API_VERSION = "1.24"
ZERO_TIME = "0001-01-01T00:00:00Z"

_json = msgspec.json.Encoder()


class JSONResponse(Response):
    """A JSON answer; `content` is anything msgspec encodes (dicts, lists, structs, msgspec.Raw for ready JSON)."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode with msgspec."""
        return _json.encode(content) + b"\n"


def error_response(error: Exception) -> Response:
    """Return an error as Docker answers it."""
    if isinstance(error, PyswarmError):
        return JSONResponse({"message": error.api_message}, status_code=error.status_code)
    return JSONResponse({"message": f"{type(error).__name__}: {error}"}, status_code=500)


def rfc3339(time_ns: int) -> str:
    """Return a time (ns since the epoch) as Go prints it, trailing zeros dropped: `2026-11-21T01:55:08.1195Z`; 0 is its zero time."""
    if time_ns == 0:
        return ZERO_TIME
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    stamp = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{fraction:09d}".rstrip("0")
    return f"{stamp}.{digits}Z" if digits else f"{stamp}Z"


async def read_json(request: Request) -> Any:
    """Return the request's body as JSON; an empty body is `{}`. Raises InvalidArgument."""
    body = await request.body()
    if not body.strip():
        return {}
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error


def query_flag(request: Request, name: str, default: bool = False) -> bool:
    """Return a boolean query parameter as Docker reads it: absent, ``, `0`, `no`, `false`, `none` are false."""
    value = request.query_params.get(name)
    if value is None:
        return default
    return value.strip().lower() not in ("", "0", "no", "false", "none")
