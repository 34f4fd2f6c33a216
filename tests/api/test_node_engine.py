"""The Engine API of another node through a manager: real sockets from the client to the node, the agent's dial over mutual TLS."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from api_server import MANAGER_ID, WORKER_ID, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from tls_certificates import Certificates

from pyswarm_agent.tunnel import join_tunnel
from pyswarm_common import wire
from pyswarm_common.clock import ManualClock, SystemClock
from pyswarm_common.engine_api.hijack import HijackResponse, RawConnection
from pyswarm_common.engine_api.responses import JSONResponse, error_response
from pyswarm_common.engine_api.streams import StreamResponse, Write
from pyswarm_common.errors import Conflict, Unavailable
from pyswarm_manager.reach.tunnels import DIAL_TIMEOUT_S, NodeTunnels
from pyswarm_manager.store.store import Store
from pyswarm_node.api.app import create_app
from pyswarm_node.api.fake_control import FakeNodeControl
from pyswarm_node.serving import bind_unix

MEBIBYTE = 1024 * 1024


async def describe(request: Request) -> Response:
    """Answer with what was asked."""
    body = await request.body()
    return JSONResponse(
        {"method": request.method, "path": request.url.path, "query": request.url.query, "bytes": len(body)},
        headers={"X-Docker-Container-Path-Stat": "e30="},
    )


async def pour(request: Request) -> Response:
    """Answer with 8 MiB in pieces, without a length."""

    async def produce(write: Write) -> None:
        for number in range(128):
            await write(bytes([number]) * 65536)

    return StreamResponse(produce, "application/x-tar")


async def refuse(request: Request) -> Response:
    return error_response(Conflict("Container c1 is not running"))


async def converse(request: Request) -> Response:
    """Say the body, then all that comes in capitals, and after the client's half-close good-bye."""
    body = await request.body()

    async def talk(connection: RawConnection) -> None:
        await connection.write(body)
        while data := await connection.read():
            await connection.write(data.upper())
        await connection.write(b"BYE")

    return HijackResponse(talk)


NODE = Starlette(
    routes=[
        Route("/containers/{id}/archive", describe, methods=["GET", "PUT"]),
        Route("/containers/{id}/export", pour),
        Route("/containers/{id}/top", refuse),
        Route("/exec/{id}/start", converse, methods=["POST"]),
    ]
)


@dataclass
class Reach:
    """A manager's API on `api`, whose cluster's worker dials when it is told to."""

    client: httpx.AsyncClient
    api: Path


@pytest.fixture
async def reach(control: FakeNodeControl, store: Store) -> AsyncIterator[Reach]:
    tunnels = NodeTunnels(MANAGER_ID, SystemClock())
    dialling: list[asyncio.Task[None]] = []

    async def stream(websocket: WebSocket) -> None:
        await websocket.accept()
        tunnel = tunnels.accept(websocket.path_params["stream_id"], WORKER_ID)
        assert tunnel is not None
        await tunnel.carry(websocket)

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="psw-reach-")))
        certificates = Certificates.make(folder)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        node_port = Starlette(routes=[WebSocketRoute(f"{wire.STREAM_PATH}/{{stream_id}}", stream)])
        await stack.enter_async_context(served(node_port, listener, certificates.server()))
        await stack.enter_async_context(served(NODE, bind_unix(folder / "node.sock")))

        def send_to_node(node_id: str, message: wire.OpenTunnel) -> bool:
            if node_id != WORKER_ID:
                return False
            dialled = join_tunnel(address, message, certificates.client(), folder / "node.sock")
            dialling.append(asyncio.ensure_future(dialled))
            return True

        assert control.manager is not None
        tunnels.tell_agent = send_to_node
        control.manager = replace(control.manager, tunnels=tunnels)
        await stack.enter_async_context(served(create_app(control), bind_unix(folder / "api.sock")))
        transport = httpx.AsyncHTTPTransport(uds=str(folder / "api.sock"))
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=20))
        yield Reach(client, folder / "api.sock")
        async with asyncio.timeout(10):
            await asyncio.gather(*dialling)  # each ends by itself when its request is over


async def test_a_request_reaches_the_node_as_it_came(reach: Reach) -> None:
    path = "/pyswarm/nodes/worker1/engine/containers/c1/archive"
    answer = await reach.client.put(f"/v1.41{path}", params={"path": "/a b"}, content=b"x" * MEBIBYTE)
    assert answer.status_code == 200
    assert answer.json() == {"method": "PUT", "path": "/containers/c1/archive", "query": "path=%2Fa+b", "bytes": MEBIBYTE}
    assert answer.headers["X-Docker-Container-Path-Stat"] == "e30="


async def test_a_body_of_unknown_length_reaches_the_node(reach: Reach) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(16):
            yield b"y" * 65536

    answer = await reach.client.put("/pyswarm/nodes/worker1/engine/containers/c1/archive", content=pieces())
    assert answer.json()["bytes"] == MEBIBYTE


async def test_a_long_answer_comes_whole(reach: Reach) -> None:
    answer = await reach.client.get("/pyswarm/nodes/worker1/engine/containers/c1/export")
    assert answer.content == b"".join(bytes([number]) * 65536 for number in range(128))


async def test_a_client_that_leaves_in_the_middle_ends_the_tunnel(reach: Reach) -> None:
    async with reach.client.stream("GET", "/pyswarm/nodes/worker1/engine/containers/c1/export") as answer:
        assert await anext(answer.aiter_raw(10)) == bytes(10)


async def test_an_error_of_the_node_is_the_answer(reach: Reach) -> None:
    answer = await reach.client.get("/pyswarm/nodes/worker1/engine/containers/c1/top")
    assert (answer.status_code, answer.json()) == (409, {"message": "Container c1 is not running"})


async def test_a_connection_is_taken_over_with_half_close(reach: Reach) -> None:
    reader, writer = await asyncio.open_unix_connection(reach.api)
    writer.write(
        b"POST /v1.41/pyswarm/nodes/worker1/engine/exec/e1/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n"
        b"Upgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
    assert b"application/vnd.docker.raw-stream" in head
    assert await reader.readexactly(2) == b"{}"
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"HELLO"
    writer.write_eof()
    assert await reader.read() == b"BYE"
    writer.close()
    await writer.wait_closed()


async def test_a_node_without_a_session_is_named(reach: Reach) -> None:
    answer = await reach.client.get("/pyswarm/nodes/vm/engine/containers/json")
    assert answer.status_code == 503
    assert "node vm cannot be reached" in answer.json()["message"]


async def test_a_node_that_does_not_exist_is_not_found(reach: Reach) -> None:
    answer = await reach.client.get("/pyswarm/nodes/nosuch/engine/containers/json")
    assert (answer.status_code, answer.json()) == (404, {"message": "node nosuch not found"})


async def test_an_agent_that_does_not_dial_is_given_up_and_what_comes_later_refused(store: Store) -> None:
    clock = ManualClock()
    tunnels, told = NodeTunnels(MANAGER_ID, clock), asyncio.Queue[wire.OpenTunnel]()

    async def tell(node_id: str, message: wire.OpenTunnel) -> bool:
        told.put_nowait(message)
        return True

    opening = asyncio.ensure_future(tunnels.open(store.view.nodes.resolve("worker1"), tell))
    message = await told.get()
    assert tunnels.accept(message.stream_id, MANAGER_ID) is None, "another node took the stream"
    await clock.advance(DIAL_TIMEOUT_S)
    with pytest.raises(Unavailable, match="did not dial"):
        await opening
    assert tunnels.accept(message.stream_id, WORKER_ID) is None
