"""The parameters of the routes of logs, and how a line is written into their streams."""

from collections.abc import Iterable, Mapping
from urllib.parse import quote_plus

from starlette.requests import Request

from pyswarm_common.engine_api.responses import parse_time_ns, query_flag, rfc3339_fixed
from pyswarm_common.engine_api.streams import frame
from pyswarm_common.errors import InvalidArgument
from pyswarm_common.wire import LogLine, LogRequest

_LONGEST_TAIL, _LONGEST_NUMBER = 1 << 31, 20


def read_log_request(request: Request) -> LogRequest:
    """Return which lines a request asks for, of no task yet. Raises InvalidArgument."""
    stdout, stderr = query_flag(request, "stdout"), query_flag(request, "stderr")
    if not (stdout or stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    parameters = request.query_params
    return LogRequest(
        task_id="",
        follow=query_flag(request, "follow"),
        stdout=stdout,
        stderr=stderr,
        tail=_tail(parameters.get("tail", "all")),
        since_ns=parse_time_ns(parameters.get("since") or "0"),
        until_ns=parse_time_ns(parameters.get("until") or "0"),
    )


def details_text(details: Mapping[str, str]) -> str:
    """Return details as they stand before a line: sorted, `name=value` by commas, as in a URL."""
    return ",".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in sorted(details.items()))


def rendered_lines(lines: Iterable[tuple[LogLine, str]], *, with_timestamps: bool, is_tty: bool) -> bytes:
    """Return lines, each with what stands before it, as the stream has them: in frames, or raw those of a terminal.

    A line is put together as the CLI takes it apart: time, details, message.
    """
    rendered = []
    for line, details in lines:
        prefix = f"{rfc3339_fixed(line.at_ns)} {details}" if with_timestamps else details
        text = prefix.encode() + line.line if prefix else line.line
        rendered.append(text if is_tty else frame(line.stream, text))
    return b"".join(rendered)


def _tail(text: str) -> int:
    """How many lines; -1, which is also what Docker makes of anything that is no number: all."""
    return min(int(text), _LONGEST_TAIL) if text.isascii() and text.isdigit() and len(text) < _LONGEST_NUMBER else -1
