"""The Engine API of any node, through any manager: `/pyswarm/nodes/{node}/engine/…`.

Whatever follows `engine` is asked of that node's own API, with method, query, headers and body as they came: containers, exec,
attach, archives, statistics. A connection that the node takes over (101) is taken over here too. `pyswarm exec` stands on this.
"""

from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import quote

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from pyswarm_common.engine_api.hijack import hijack, join
from pyswarm_common.engine_api.responses import JSONResponse, read_json_object
from pyswarm_common.engine_api.streams import until_disconnect
from pyswarm_common.errors import FailedPrecondition, InvalidArgument, Unavailable
from pyswarm_common.wire import OpenTunnel
from pyswarm_manager.api.manager_services import ManagerServices, read_view, services_of
from pyswarm_manager.forwarding.exchange import Exchange
from pyswarm_manager.reach.http_exchange import HTTPExchange
from pyswarm_manager.reach.tunnels import Tunnel

router = APIRouter()

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]


@router.post("/pyswarm/nodes/{node_id}/tunnels")
async def tell_agent(request: Request, node_id: str) -> Response:
    """Have a node's agent dial the manager that asks. Between managers: only the leader has the agents' sessions."""
    services = services_of(request)
    asked = await read_json_object(request)
    stream_id, manager_id = str(asked.get("StreamID", "")), str(asked.get("ManagerID", ""))
    if not stream_id or services.store.view.nodes.get(manager_id) is None:
        raise InvalidArgument("StreamID and ManagerID must be given")
    is_told = services.tunnels.tell_agent(node_id, OpenTunnel(stream_id=stream_id, manager_id=manager_id))
    return JSONResponse({"IsTold": is_told})


@router.api_route("/pyswarm/nodes/{reference}/engine/{path:path}", methods=METHODS)
async def ask_node(request: Request, reference: str, path: str) -> Response:
    """Answer with what the node's own API answers."""
    services = services_of(request)
    node = (await read_view(services)).nodes.resolve(reference)

    async def ask_leader(node_id: str, message: OpenTunnel) -> bool:
        return await _ask_leader(services, request, node_id, message)

    tunnel = await services.tunnels.open(node, ask_leader)
    return _NodeAnswer(request, tunnel, f"/{path}")


class _NodeAnswer(Response):
    """The node's answer on its way to the client."""

    def __init__(self, request: Request, tunnel: Tunnel, path: str) -> None:
        super().__init__()
        self._request = request
        self._tunnel = tunnel
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run as an ASGI application."""
        exchange = HTTPExchange(self._tunnel)
        try:
            query = scope["query_string"]
            target = _quoted(self._path) + (b"?" + query if query else b"")
            await exchange.send(scope["method"], target, scope["headers"], self._request.stream())
            if exchange.is_taken_over:
                connection = hijack(self._request, _media_type(exchange))
                try:
                    with suppress(ConnectionResetError, Unavailable):
                        await join(connection, exchange.raw_chunks(), self._tunnel.write, self._tunnel.end_input)
                finally:
                    connection.close()
                return
            await send({"type": "http.response.start", "status": exchange.status, "headers": exchange.headers})
            await until_disconnect(_pass_on(exchange.chunks(), send), receive)
        finally:
            await exchange.close()


async def _pass_on(chunks: AsyncIterator[bytes], send: Send) -> None:
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _ask_leader(services: ManagerServices, request: Request, node_id: str, message: OpenTunnel) -> bool:
    """Give the message to the node's agent by way of the leader. Raises Unavailable."""
    if services.store.is_leader or services.leader_requests is None:
        return services.tunnels.tell_agent(node_id, message)
    body = msgspec.json.encode({"StreamID": message.stream_id, "ManagerID": message.manager_id})
    answer: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(part: Message) -> None:
        answer.append(part)

    async def here(scope: Scope, receive: Receive, send: Send) -> None:
        is_told = services.tunnels.tell_agent(node_id, message)
        await JSONResponse({"IsTold": is_told})(scope, receive, send)

    scope = {
        **request.scope,
        "method": "POST",
        "path": f"/pyswarm/nodes/{node_id}/tunnels",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await services.leader_requests.carry_out(here, Exchange(receive, send), scope)
    if answer[0]["status"] >= 400:
        raise FailedPrecondition(f"the leader did not pass the request on to node {node_id}")
    told = msgspec.json.decode(b"".join(part.get("body", b"") for part in answer[1:]), type=dict[str, bool])
    return told["IsTold"]


def _media_type(exchange: HTTPExchange) -> str:
    return next((value.decode("latin-1") for name, value in exchange.headers if name == b"content-type"), "")


def _quoted(path: str) -> bytes:
    return quote(path, safe="/:@!$&'()*+,;=-._~").encode("ascii")
