"""Answers in Docker's form: JSON by msgspec, errors as `{"message": …}`, times as Go prints them; and what requests carry."""

import datetime
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pyswarm_common.errors import InvalidArgument, PyswarmError, Unimplemented

API_VERSION = "1.41"
MINIMUM_API_VERSION = "1.24"
ZERO_TIME = "0001-01-01T00:00:00Z"

_json = msgspec.json.Encoder()
_NANOSECONDS_PER_SECOND = 1_000_000_000


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
    """Return a time (ns since the epoch) as Go prints it, without trailing zeros: `2026-11-21T01:55:08.1195Z`; 0: its zero time."""
    if time_ns == 0:
        return ZERO_TIME
    seconds, fraction = divmod(time_ns, _NANOSECONDS_PER_SECOND)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{_whole_second(seconds)}.{digits}Z" if digits else f"{_whole_second(seconds)}Z"


def rfc3339_fixed(time_ns: int) -> str:
    """Return a time (ns since the epoch) with all nine digits, as log lines carry it: `2026-11-21T01:56:02.906615120Z`."""
    seconds, fraction = divmod(time_ns, _NANOSECONDS_PER_SECOND)
    return f"{_whole_second(seconds)}.{fraction:09d}Z"


def parse_time_ns(text: str) -> int:
    """Return a `since` or `until` parameter (unix seconds with fraction, or RFC 3339) as ns. Raises InvalidArgument."""
    seconds, _, fraction = text.partition(".")
    if seconds.lstrip("-").isdigit() and (not fraction or fraction.isdigit()):
        return int(seconds) * _NANOSECONDS_PER_SECOND + int(fraction[:9].ljust(9, "0"))
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidArgument(f'invalid time "{text}": give unix seconds or RFC 3339') from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp()) * _NANOSECONDS_PER_SECOND + moment.microsecond * 1000


async def read_json(request: Request) -> Any:
    """Return the request's body as JSON; an empty body is `{}`. Raises InvalidArgument."""
    body = await request.body()
    if not body.strip():
        return {}
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error


async def read_json_object(request: Request) -> dict[str, Any]:
    """Return the request's body as a JSON object without its nulls, which mean the same as absent. Raises InvalidArgument."""
    body = without_nulls(await read_json(request))
    if not isinstance(body, dict):
        raise InvalidArgument("invalid JSON: the body must be an object")
    return body


def without_nulls(value: Any) -> Any:
    """Return decoded JSON without the members that are null, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def query_flag(request: Request, name: str, default: bool = False) -> bool:
    """Return a boolean query parameter as Docker reads it: absent, ``, `0`, `no`, `false`, `none` are false."""
    value = request.query_params.get(name)
    if value is None:
        return default
    return value.strip().lower() not in ("", "0", "no", "false", "none")


def query_version(request: Request, noun: str) -> int:
    """Return the `version` parameter that every update carries. Raises InvalidArgument in Docker's (Go's) words."""
    text = request.query_params.get("version", "")
    if not text.isascii() or not text.isdigit():
        raise InvalidArgument(f"invalid {noun} version '{text}': strconv.ParseUint: parsing \"{text}\": invalid syntax")
    return int(text)


def refuse_unsupported(body: Mapping[str, Any], refused: Mapping[str, str]) -> None:
    """Refuse what a body asks for and we do not offer yet. `refused`: words for it by field name. Raises Unimplemented."""
    for key, words in refused.items():
        if body.get(key):
            raise Unimplemented(f"{words} is not supported yet")


@lru_cache(maxsize=4096)
def _whole_second(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
