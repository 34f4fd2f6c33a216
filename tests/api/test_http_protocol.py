"""Hijacked connections and client certificates through real sockets, on asyncio's loop and on uvloop."""

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import uvloop
from api_server import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from pyswarm_common import pki
from pyswarm_common.engine_api.hijack import HijackResponse
from pyswarm_common.engine_api.responses import JSONResponse, error_response, read_json
from pyswarm_common.errors import NotFound
from pyswarm_node.http_protocol import HijackedConnection, follow_pings, peer_certificate
from pyswarm_node.serving import bind_tcp, bind_unix

Scenario = Callable[[], Awaitable[None]]
MEBIBYTE = 1024 * 1024
HEAD = (
    b"POST /attach?x=1 HTTP/1.1\r\nHost: docker\r\nUser-Agent: Docker-Client\r\nContent-Type: application/json\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: %d\r\n\r\n"
)
BODY = b'{"Detach": false}'


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    def run_scenario(scenario: Scenario) -> None:
        async def with_timeout() -> None:
            async with asyncio.timeout(20):
                await scenario()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(with_timeout())

    return run_scenario


async def attach(request: Request) -> Response:
    """Answer with the body, then each chunk in capitals, and after the client's half-close what was counted."""
    body = await read_json(request)

    async def talk(connection: HijackedConnection) -> None:
        await connection.write(f"{body}\n".encode())
        count = 0
        while data := await connection.read():
            count += len(data)
            if count < MEBIBYTE:
                await connection.write(data.upper())
        await connection.write(f"\n{count} bytes".encode())

    return HijackResponse(talk)


async def flood(request: Request) -> Response:
    """Send 16 MiB, as fast as the client reads; `app.state.sent_bytes` counts."""

    async def talk(connection: HijackedConnection) -> None:
        request.app.state.sent_bytes = 0
        for _ in range(256):
            await connection.write(b"x" * 65536)
            request.app.state.sent_bytes += 65536

    return HijackResponse(talk)


async def refuse(request: Request) -> Response:
    return error_response(NotFound(f"No such container: {await request.body()!r}"))


async def show_certificate(request: Request) -> Response:
    certificate = peer_certificate(request.scope)
    return JSONResponse(pki.identity_of(certificate).node_id if certificate else None)


async def show_certificate_by_websocket(socket: WebSocket) -> None:
    await socket.accept()
    certificate = peer_certificate(socket.scope)
    await socket.send_text(pki.identity_of(certificate).node_id if certificate else "none")
    await socket.send_text(await socket.receive_text())
    await socket.close()


async def tell_pings(socket: WebSocket) -> None:
    """Say after each message how many pings came before it."""
    count = 0

    def on_ping() -> None:
        nonlocal count
        count += 1

    follow_pings(socket.scope, on_ping)
    await socket.accept()
    while True:
        await socket.receive_text()
        await socket.send_text(str(count))


APP = Starlette(
    routes=[
        Route("/attach", attach, methods=["POST"]),
        Route("/flood", flood, methods=["POST"]),
        Route("/refuse", refuse, methods=["POST"]),
        Route("/certificate", show_certificate),
        WebSocketRoute("/socket", show_certificate_by_websocket),
        WebSocketRoute("/pings", tell_pings),
    ]
)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A raw connection to the application."""
    with TemporaryDirectory(prefix="psw-http-") as folder:
        path = Path(folder) / "s"
        async with served(APP, bind_unix(path)):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                yield reader, writer
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()


async def read_head(reader: asyncio.StreamReader) -> list[bytes]:
    return (await reader.readuntil(b"\r\n\r\n")).strip().split(b"\r\n")


def test_upgrade_with_body_raw_bytes_and_half_close(run: Callable[[Scenario], None]) -> None:
    """The JSON body and the first raw bytes come in one packet with the headers."""

    async def scenario() -> None:
        async with connected() as (reader, writer):
            writer.write(HEAD % len(BODY) + BODY + b"hello ")
            head = await read_head(reader)
            assert head[0] == b"HTTP/1.1 101 UPGRADED"
            assert {b"Connection: Upgrade", b"Upgrade: tcp", b"Content-Type: application/vnd.docker.raw-stream"} <= set(head)
            assert await reader.readline() == b"{'Detach': False}\n"
            assert await reader.readexactly(6) == b"HELLO "
            writer.write(b"world")
            assert await reader.readexactly(5) == b"WORLD"
            writer.write_eof()
            assert await reader.read() == b"\n11 bytes"

    run(scenario)


def test_body_in_pieces_after_the_headers(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with connected() as (reader, writer):
            for piece in (HEAD % len(BODY), BODY[:5], BODY[5:] + b"ab"):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            assert (await read_head(reader))[0] == b"HTTP/1.1 101 UPGRADED"
            assert await reader.readline() == b"{'Detach': False}\n"
            writer.write_eof()
            assert await reader.read() == b"AB\n2 bytes"

    run(scenario)


def test_client_that_closes_its_half_at_once(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with connected() as (reader, writer):
            writer.write(HEAD % len(BODY) + BODY + b"all")
            writer.write_eof()
            await read_head(reader)
            assert await reader.read() == b"{'Detach': False}\nALL\n3 bytes"

    run(scenario)


def test_upgrade_without_body(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with connected() as (reader, writer):
            writer.write(HEAD.replace(b"Content-Length: %d\r\n", b""))
            assert (await read_head(reader))[0] == b"HTTP/1.1 101 UPGRADED"
            writer.write_eof()
            assert await reader.read() == b"{}\n\n0 bytes"

    run(scenario)


def test_large_input_before_the_application_reads(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with connected() as (reader, writer):
            writer.write(HEAD % len(BODY) + BODY + b"y" * (4 * MEBIBYTE))
            writer.write_eof()
            await read_head(reader)
            assert (await reader.read()).endswith(b"\n%d bytes" % (4 * MEBIBYTE))

    run(scenario)


def test_old_clients_get_200_and_a_raw_stream(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with connected() as (reader, writer):
            head = HEAD.replace(b"Connection: Upgrade\r\nUpgrade: tcp\r\n", b"") % len(BODY)
            writer.write(head + BODY)
            answer = await read_head(reader)
            assert answer == [b"HTTP/1.1 200 OK", b"Content-Type: application/vnd.docker.raw-stream"]
            assert await reader.readline() == b"{'Detach': False}\n"
            writer.write(b"abc")
            writer.write_eof()
            assert await reader.read() == b"ABC\n3 bytes"

    run(scenario)


def test_error_instead_of_the_upgrade(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with connected() as (reader, writer):
            writer.write((HEAD % 3).replace(b"/attach", b"/refuse") + b"abcRAW")
            head = await read_head(reader)
            assert head[0] == b"HTTP/1.1 404 Not Found"
            assert await reader.read() == b'{"message":"No such container: b\'abc\'"}\n'

    run(scenario)


def test_writer_waits_for_a_slow_reader(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with connected() as (reader, writer):
            writer.write((HEAD % 0).replace(b"/attach", b"/flood"))
            await read_head(reader)
            await asyncio.sleep(0.05)
            assert APP.state.sent_bytes < 4 * MEBIBYTE
            total = 0
            while chunk := await reader.read(MEBIBYTE):
                total += len(chunk)
            assert total == 16 * MEBIBYTE

    run(scenario)


def test_requests_on_one_connection_go_on_as_before(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with connected() as (reader, writer):
            for _ in range(3):
                writer.write(b"GET /certificate HTTP/1.1\r\nHost: docker\r\n\r\n")
                assert (await read_head(reader))[0] == b"HTTP/1.1 200 OK"
                assert await reader.readline() == b"null\n"

    run(scenario)


class Certificates:
    """A CA, a server's and a node's certificate, as files."""

    def __init__(self, folder: Path) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.root, root_key = pki.new_root(now)
        self.root_path = folder / "root.pem"
        self.root_path.write_text(self.root)
        for name, role in (("server", "manager"), ("node", "worker")):
            key = pki.new_private_key_pem()
            certificate = pki.sign_node_certificate(
                self.root,
                root_key,
                pki.new_signing_request(key),
                pki.NodeIdentity(node_id=f"{name}-id", role=role, cluster_id="cluster"),
                ("127.0.0.1",),
                now,
            )
            (folder / f"{name}.pem").write_text(certificate + key)
        self.server_path, self.node_path = folder / "server.pem", folder / "node.pem"

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_path)
        context.load_verify_locations(self.root_path)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def client_context(self, *, shows_certificate: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.root_path)
        context.check_hostname = False
        if shows_certificate:
            context.load_cert_chain(self.node_path)
        return context


@pytest.mark.parametrize(("shows_certificate", "node_id"), [(True, "node-id"), (False, None)])
def test_client_certificates_reach_http_and_websocket_routes(
    run: Callable[[Scenario], None], tmp_path: Path, shows_certificate: bool, node_id: str | None
) -> None:
    certificates = Certificates(tmp_path)

    async def scenario() -> None:
        listener = bind_tcp("127.0.0.1:0")
        port = listener.getsockname()[1]
        listener.listen()  # the server does so too, but a moment after it was started
        async with served(APP, listener, certificates.server_context()):
            context = certificates.client_context(shows_certificate=shows_certificate)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(b"GET /certificate HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
            await read_head(reader)
            assert await reader.readline() == (f'"{node_id}"\n'.encode() if node_id else b"null\n")
            writer.close()
            await writer.wait_closed()
            async with connect(f"wss://127.0.0.1:{port}/socket", ssl=context) as socket:
                assert await socket.recv() == (node_id or "none")
                await socket.send("ping")
                assert await socket.recv() == "ping"

    run(scenario)


def test_pings_are_answered_and_told_to_who_follows_them(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        listener = bind_tcp("127.0.0.1:0")
        listener.listen()
        async with served(APP, listener), connect(f"ws://127.0.0.1:{listener.getsockname()[1]}/pings", proxy=None) as socket:
            for count in range(3):
                await socket.send("how many?")
                assert await socket.recv() == str(count)
                await (await socket.ping())

    run(scenario)
