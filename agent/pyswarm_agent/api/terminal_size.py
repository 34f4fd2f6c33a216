"""The size of a terminal in requests."""

from typing import Any

from starlette.requests import Request

from pyswarm_agent.runtime.access.interface import TerminalSize
from pyswarm_common.errors import InvalidArgument

_LARGEST = 65535


def asked_size(request: Request) -> TerminalSize:
    """Return the size of the parameters `h` and `w`. Raises InvalidArgument in Docker's (Go's) words."""
    return TerminalSize(_number(request, "h"), _number(request, "w"))


def console_size(value: Any) -> TerminalSize | None:
    """Return the size of `ConsoleSize`: [rows, columns]. Raises InvalidArgument."""
    if not value:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(n, int) and 0 <= n <= _LARGEST for n in value):
        raise InvalidArgument("invalid ConsoleSize: give [height, width]")
    return TerminalSize(*value)


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit()) or int(text) > _LARGEST:
        raise InvalidArgument(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)
