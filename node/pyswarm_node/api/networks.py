"""The routes of networks, put together of the cluster's (the manager's routes) and this node's own: bridge, host and none.

On workers, outside a cluster and while a manager starts there are only the node's own.
"""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyswarm_agent.api.agent_services import AgentServices
from pyswarm_agent.api.local_networks import Member, find_local, is_shown, local_networks, with_members
from pyswarm_common.engine_api.filters import Filters
from pyswarm_common.engine_api.responses import JSONResponse
from pyswarm_common.errors import NotFound, PermissionDenied

_ONE = re.compile(r"/networks/([^/]+)")
_FILTERS = ("driver", "id", "label", "name", "scope", "type", "dangling")
_OK, _NOT_FOUND = 200, 404


class JoinedNetworks:
    """An ASGI layer before the manager's routes: what names or lists networks of this node is answered, or added to, here."""

    def __init__(self, agent: AgentServices, has_manager: Callable[[], bool], manager_routes: ASGIApp) -> None:
        self._agent = agent
        self._has_manager = has_manager
        self._manager_routes = manager_routes
        self._created_at_ns = agent.clock.now_ns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer = await self._answer(scope, receive) if scope["type"] == "http" else None
        await (self._manager_routes if answer is None else answer)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> ASGIApp | None:
        method, path = scope["method"], scope["path"]
        if (method, path) == ("GET", "/networks"):
            return await self._list(Request(scope), receive)
        if (method, path) == ("POST", "/networks/prune") and not self._has_manager():
            return JSONResponse({"NetworksDeleted": None})
        named = _ONE.fullmatch(path)
        if named is not None and method == "GET":
            return await self._inspect(unquote(named[1]), Request(scope), receive)
        if named is not None and method == "DELETE" and find_local(self._local(), unquote(named[1])):
            raise PermissionDenied(f"{named[1]} is a pre-defined network and cannot be removed")
        return None

    async def _list(self, request: Request, receive: Receive) -> ASGIApp:
        filters = Filters.parse(request.query_params.get("filters"), _FILTERS)
        own = [network for network in self._local() if is_shown(network, filters)]
        if not self._has_manager():
            return JSONResponse(own)
        answer = _Recorded()
        await self._manager_routes(request.scope, receive, answer.take)
        return JSONResponse([*msgspec.json.decode(answer.body), *own]) if answer.status == _OK else answer

    async def _inspect(self, reference: str, request: Request, receive: Receive) -> ASGIApp | None:
        asked = request.query_params.get("scope", "")
        own = self._local() if asked in ("", "local") else []
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
        return JSONResponse(with_members(found, self._members()))

    def _local(self) -> list[dict[str, Any]]:
        return local_networks(self._members(), self._created_at_ns)

    def _members(self) -> list[Member]:
        agent = self._agent
        return [Member(record, agent.local.get(record.config.id)) for record in agent.containers.list()]


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
