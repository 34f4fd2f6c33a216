"""The Engine API of a node, put together."""

import re

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pyswarm_agent.api.routes import ROUTERS as AGENT_ROUTERS
from pyswarm_common.engine_api.responses import error_response
from pyswarm_common.errors import NotFound, PyswarmError
from pyswarm_node.api import events, membership, network_state, recovery, system
from pyswarm_node.api.control import NodeControl, require_manager
from pyswarm_node.api.networks import JoinedNetworks
from pyswarm_node.api.version_middleware import VersionMiddleware

_LOGS = re.compile(r"/(services|tasks)/[^/]+/logs")
_NODE_ENGINE = re.compile(r"/pyswarm/nodes/[^/]+/engine(/.*)?")
_POSTED_QUESTIONS = ("/pyswarm/services/dry-run",)
"""What is posted, as its question is long, and changes nothing."""


def create_app(control: NodeControl) -> FastAPI:
    """Return the application that serves the Engine API for this node. It never starts or stops anything of the daemon."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.control = control
    app.state.agent = control.agent
    app.state.require_manager = lambda: require_manager(control)
    app.add_middleware(VersionMiddleware)
    app.add_exception_handler(PyswarmError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_unknown_route)
    for router in (*AGENT_ROUTERS, system.router, membership.router, recovery.router, events.router, network_state.router):
        app.include_router(router)
    app.mount("", JoinedNetworks(control.agent, lambda: control.manager is not None, ManagerRoutes()))
    return app


class ManagerRoutes:
    """What no other route answers: the manager's routes, loaded at the first such request, since workers are rarely asked.

    On a manager changes and logs are carried out by the leader, wherever it is; all else is read from this manager's mirror, or at
    the leader too while this manager's own etcd is cut off.
    """

    def __init__(self) -> None:
        self._router: APIRouter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, an unknown path too."""
        if self._router is None:
            self._router = _load_manager_routes()
        control: NodeControl = scope["app"].state.control
        manager = control.manager
        requests = manager.leader_requests if manager is not None else None
        is_leaders = needs_leader(scope["method"], scope["path"])
        goes_to_node = _NODE_ENGINE.fullmatch(scope["path"]) is not None
        if requests is None or goes_to_node or not (is_leaders or await requests.must_read_there()):
            await self._router(scope, receive, send)
            return
        from pyswarm_manager.forwarding.exchange import Exchange

        errors_come_through = {**scope, "starlette.exception_handlers": ({}, {})}
        answer = requests.carry_out if is_leaders else requests.read
        await answer(self._router, Exchange(receive, send), errors_come_through)


def needs_leader(method: str, path: str) -> bool:
    """Whether a request to the manager's routes changes the cluster, or reads logs, whose streams end at the leader."""
    is_question = method in ("GET", "HEAD") or path in _POSTED_QUESTIONS
    return not is_question or _LOGS.fullmatch(path) is not None


def _load_manager_routes() -> APIRouter:
    from pyswarm_manager.api.routes import ROUTERS  # brings in the store, which workers shall not carry

    joined = APIRouter(redirect_slashes=False)
    for router in ROUTERS:
        joined.include_router(router)
    return joined


async def _answer_error(request: Request, error: Exception) -> Response:
    return error_response(error)


async def _answer_unknown_route(request: Request, error: Exception) -> Response:
    """An unknown path and an unknown method of a known path are one to Docker."""
    return error_response(NotFound("page not found"))
