"""A thin client of the Engine API over pyswarmd's unix socket, on the standard library alone: a command starts in milliseconds."""

import http.client
import io
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlencode

import click

from pyswarm_cli.address import DEFAULT_HOST, socket_path, start_advice

API_PREFIX = "/v1.41"
ANSWER_TIMEOUT_S = 120.0
_GRPC_PREFIX = re.compile(r"^rpc error: code = \w+ desc = ")
_DOCKER_COMMAND = re.compile(r"\bdocker (?=(swarm|service|node|network|image|volume|secret|config|load|info)\b)")


class EngineError(click.ClickException):
    """The daemon said no: HTTP status and message, worded for this CLI."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(worded_for_cli(message))


class EngineUnreachable(click.ClickException):
    """Nobody answers on the socket."""


def worded_for_cli(message: str) -> str:
    """Return a daemon's message without its gRPC prefix, with our commands in place of Docker's."""
    return _DOCKER_COMMAND.sub("pyswarm ", _GRPC_PREFIX.sub("", message.strip()))


class EngineClient:
    """One daemon. Connects with the first request; methods raise EngineError and EngineUnreachable."""

    def __init__(self, host: str = DEFAULT_HOST) -> None:
        self.host = host
        self._socket_path = socket_path(host)
        self._connection: _UnixConnection | None = None

    def get(self, *path: str, headers: Any = None, **query: Any) -> Any:
        """GET: the segments of the path are quoted, `filters` may be a dict; returns the decoded JSON."""
        return self._call("GET", path, query, headers=headers)

    def post(self, *path: str, body: Any = None, headers: Any = None, **query: Any) -> Any:
        """POST a JSON body, with these headers (a mapping); returns the decoded JSON, None for an empty answer."""
        return self._call("POST", path, query, None if body is None else json.dumps(body).encode(), headers)

    def delete(self, *path: str, **query: Any) -> Any:
        """DELETE; returns the decoded JSON, None for an empty answer."""
        return self._call("DELETE", path, query)

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def stream(
        self, method: str, *path: str, body: IO[bytes] | None = None, headers: Mapping[str, str] | None = None, **query: Any
    ) -> Iterator[http.client.HTTPResponse]:
        """Give the answer while it flows, over a connection of its own."""
        connection = _UnixConnection(self._socket_path, timeout_s=None)
        try:
            sent = {**({"Content-Type": "application/x-tar"} if body else {}), **(headers or {})}
            response = self._send(connection, method, _target(path, query), body, sent)
            if response.status >= 400:
                raise _error(response.status, response.read())
            yield response
        finally:
            connection.close()

    @contextmanager
    def take_over(self, *path: str, body: Any = None, **query: Any) -> Iterator["RawStream"]:
        """POST, and give the connection once the daemon has handed it over (`101`): attach, exec and their like."""
        connection = _UnixConnection(self._socket_path, timeout_s=None)
        try:
            headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            content = b"" if body is None else json.dumps(body).encode()  # what nobody reads would be the stream's first input
            response = self._send(connection, "POST", _target(path, query), content, headers)
            if response.status != http.client.SWITCHING_PROTOCOLS:
                raise _error(response.status, response.read())
            yield RawStream(connection.sock, response.fp, response.headers.get("Content-Type", ""))
        finally:
            connection.close()

    def _call(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, Any],
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        target = _target(path, query)
        headers = {**({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})}
        response = None
        if self._connection is not None and method == "GET":
            with suppress(EngineUnreachable):  # the daemon may have closed a connection that lay idle: try a new one
                response = self._send(self._connection, method, target, body, headers)
        if response is None:
            self.close()
            self._connection = _UnixConnection(self._socket_path, timeout_s=ANSWER_TIMEOUT_S)
            response = self._send(self._connection, method, target, body, headers)
        answer = response.read()
        if response.status >= 400:
            raise _error(response.status, answer)
        return json.loads(answer) if answer.strip() else None

    def _send(
        self, connection: "_UnixConnection", method: str, target: str, body: IO[bytes] | bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, target, body=body, headers=dict(headers))
            return connection.getresponse()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise EngineUnreachable(f"pyswarmd does not run: nobody listens on {self.host}.\n{start_advice(self.host)}") from error
        except PermissionError as error:
            raise EngineUnreachable(f"no permission to use {self.host}: run this as root (sudo pyswarm …)") from error
        except TimeoutError as error:
            raise EngineUnreachable(f"pyswarmd did not answer within {ANSWER_TIMEOUT_S:.0f} s on {self.host}") from error
        except (OSError, http.client.HTTPException) as error:
            raise EngineUnreachable(f"lost the connection to pyswarmd on {self.host}: {error or type(error).__name__}") from error


class RawStream(NamedTuple):
    """A connection that the daemon has handed over: bytes in both directions."""

    socket: socket.socket
    incoming: io.BufferedReader
    media_type: str

    def read(self) -> bytes:
        """Return what has come, waiting for the first byte; b"" at the end, or when the connection broke."""
        try:
            return self.incoming.read1(65536)
        except OSError:
            return b""

    def write(self, data: bytes) -> bool:
        """Send; False when the other side takes no more."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def end_input(self) -> None:
        """Say that nothing more will be sent."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, *, timeout_s: float | None) -> None:
        super().__init__("localhost")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise


def _target(path: tuple[str, ...], query: Mapping[str, Any]) -> str:
    target = API_PREFIX + "".join("/" + quote(segment, safe=":@") for segment in path)
    pairs = {name: _query_value(value) for name, value in query.items() if value is not None and value is not False}
    return f"{target}?{urlencode(pairs)}" if pairs else target


def _query_value(value: Any) -> str:
    if value is True:
        return "1"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _error(status: int, answer: bytes) -> EngineError:
    try:
        message = json.loads(answer)["message"]
    except (ValueError, KeyError, TypeError):
        message = answer.decode(errors="replace") or http.client.responses.get(status, f"status {status}")
    return EngineError(status, str(message))
