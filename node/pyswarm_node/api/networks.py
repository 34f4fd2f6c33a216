"""The routes of networks, put together of the cluster's (the manager's routes) and this node's own.

Every node has bridge, host and none, and those that its users made. On workers, outside a cluster and while a manager starts there
are only these. What is to be made goes to the cluster when its driver is overlay, or its scope the swarm.
"""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyswarm_agent.api import node_networks
from pyswarm_agent.api.agent_services import AgentServices
from pyswarm_agent.api.local_networks import carried_networks, find_local, is_shown, local_networks, with_members
from pyswarm_agent.node_networks.specification import is_local
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import JSONResponse, read_json_object
from pyswarm_common.errors import AlreadyExists, NotFound, PermissionDenied

_ONE = re.compile(r"/networks/([^/]+)")
_CONNECT = re.compile(r"/networks/([^/]+)/(connect|disconnect)")
_FILTERS = ("driver", "id", "label", "name", "scope", "type", "dangling")
_OK, _CREATED, _NO_CONTENT, _NOT_FOUND = 200, 201, 204, 404
_PREDEFINED = ("bridge", "host", "none")


class JoinedNetworks:
    """An ASGI layer before the manager's routes: what names or lists networks of this node is answered, or added to, here."""

    def __init__(self, agent: AgentServices, has_manager: Callable[[], bool], manager_routes: ASGIApp) -> None:
        self._agent = agent
        self._has_manager = has_manager
        self._manager_routes = manager_routes
        self._created_at_ns = agent.clock.now_ns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] == "/networks/create" and scope["method"] == "POST":
            body = await Request(scope, receive).body()
            receive = _replayed(body)
            answer = await self._create(scope, body)
        else:
            answer = await self._answer(scope, receive) if scope["type"] == "http" else None
        await (self._manager_routes if answer is None else answer)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> ASGIApp | None:
        method, path = scope["method"], scope["path"]
        if (method, path) == ("GET", "/networks"):
            return await self._list(Request(scope), receive)
        if (method, path) == ("POST", "/networks/prune"):
            return await self._prune(Request(scope), receive)
        named, connecting = _ONE.fullmatch(path), _CONNECT.fullmatch(path)
        if connecting is not None and method == "POST":
            return await self._connect(unquote(connecting[1]), connecting[2] == "connect", Request(scope, receive))
        if named is not None and method == "GET":
            return await self._inspect(unquote(named[1]), Request(scope), receive)
        if named is not None and method == "DELETE":
            return await self._remove(unquote(named[1]), scope)
        return None

    async def _create(self, scope: Scope, body: bytes) -> ASGIApp | None:
        posted = await read_json_object(Request(scope, _replayed(body)))
        connections = self._agent.local.connections
        name = str(next((value for key, value in posted.items() if key.lower() == "name"), ""))
        if not is_local(posted):
            if self._has_manager():
                connections.networks.check_name(name)
            return None
        if name and self._has_manager() and await self._is_clusters(name, scope):
            raise AlreadyExists(f"network with name {name} already exists")
        network_id, warning = await connections.create(posted)
        return JSONResponse({"Id": network_id, "Warning": warning}, status_code=_CREATED)

    async def _list(self, request: Request, receive: Receive) -> ASGIApp:
        filters = Filters.parse(request.query_params.get("filters"), _FILTERS)
        members = node_networks.members_of(self._agent)
        own = [network for network in self._local() if is_shown(network, filters, members)]
        if not self._has_manager():
            carried = [network for network in self._carried() if is_shown(network, filters, members)]
            return JSONResponse([*carried, *own])
        answer = _Recorded()
        await self._manager_routes(request.scope, receive, answer.take)
        return JSONResponse([*msgspec.json.decode(answer.body), *own]) if answer.status == _OK else answer

    async def _prune(self, request: Request, receive: Receive) -> ASGIApp:
        removed: list[str] = []
        filters = Filters.parse(request.query_params.get("filters"), node_networks.PRUNE_FILTERS)
        if self._has_manager():
            answer = _Recorded()
            await self._manager_routes(request.scope, receive, answer.take)
            if answer.status != _OK:
                return answer
            removed += msgspec.json.decode(answer.body)["NetworksDeleted"] or []
        removed += await node_networks.prune(self._agent, filters)
        return JSONResponse({"NetworksDeleted": removed or None})

    async def _connect(self, reference: str, connects: bool, request: Request) -> ASGIApp:
        posted = await read_json_object(request)
        if self._agent.local.connections.networks.find(reference) is None and reference not in _PREDEFINED:
            begun = [network["Name"] for network in self._local() if network["Id"].startswith(reference)]
            if len(begun) == 1:
                (reference,) = begun
            elif self._has_manager() and not await self._is_clusters(reference, request.scope):
                raise NotFound(f"network {reference} not found")
        await (node_networks.connect if connects else node_networks.disconnect)(self._agent, reference, posted)
        return Response(status_code=_OK)

    async def _remove(self, reference: str, scope: Scope) -> ASGIApp | None:
        found = find_local(self._local(), reference)
        if found is not None and found["Name"] in _PREDEFINED:
            raise PermissionDenied(f"{reference} is a pre-defined network and cannot be removed")
        connections = self._agent.local.connections
        if found is None and connections.networks.find(reference) is not None:
            is_clusters = self._has_manager() and await self._is_clusters(reference, scope)
            found = None if is_clusters else {"Id": reference}
        if found is None:
            return None
        await connections.remove(found["Id"])
        return Response(status_code=_NO_CONTENT)

    async def _inspect(self, reference: str, request: Request, receive: Receive) -> ASGIApp | None:
        asked = request.query_params.get("scope", "")
        own = self._local() if asked in ("", "local") else []
        if asked in ("", "swarm") and not self._has_manager():
            own = [*own, *self._carried()]
        found = find_local(own, reference)
        begun = [network for network in own if network["Id"].startswith(reference)]
        if found is None and asked != "local" and self._has_manager():
            if not begun:
                return None
            answer = _Recorded()
            await self._manager_routes(request.scope, receive, answer.take)
            if answer.status != _NOT_FOUND:
                return answer
        if found is None and len(begun) == 1:
            (found,) = begun
        if found is None:
            raise NotFound(f"network {reference} not found")
        return JSONResponse(with_members(found, node_networks.members_of(self._agent)))

    async def _is_clusters(self, reference: str, scope: Scope) -> bool:
        answer = _Recorded()
        path = f"/networks/{reference}"
        question = {**scope, "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
        await self._manager_routes(question, _replayed(b""), answer.take)
        return answer.status != _NOT_FOUND

    def _carried(self) -> list[dict[str, Any]]:
        return carried_networks(self._agent.local.connections.carried().values())

    def _local(self) -> list[dict[str, Any]]:
        connections = self._agent.local.connections
        return local_networks(connections.networks, bridge_subnet=connections.bridge_subnet(), created_at_ns=self._created_at_ns)


def _replayed(body: bytes) -> Receive:
    """Return a request's body once more."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


class _Recorded:
    """An answer of the manager's routes, kept to be read, or to be given as it is."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    async def take(self, message: Message) -> None:
        self._messages.append(message)

    @property
    def status(self) -> int:
        return next((int(m["status"]) for m in self._messages if m["type"] == "http.response.start"), 0)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self._messages if m["type"] == "http.response.body")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in self._messages:
            await send(message)
