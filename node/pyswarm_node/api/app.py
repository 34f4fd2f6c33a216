"""The Engine API of a node, put together."""

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pyswarm_agent.api.routes import ROUTERS as AGENT_ROUTERS
from pyswarm_common.engine_api.responses import error_response
from pyswarm_common.errors import NotFound, PyswarmError
from pyswarm_node.api import events, membership, system
from pyswarm_node.api.control import NodeControl, require_manager
from pyswarm_node.api.version_middleware import VersionMiddleware


def create_app(control: NodeControl) -> FastAPI:
    """Return the application that serves the Engine API for this node. It never starts or stops anything of the daemon."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.control = control
    app.state.agent = control.agent
    app.state.require_manager = lambda: require_manager(control)
    app.add_middleware(VersionMiddleware)
    app.add_exception_handler(PyswarmError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_unknown_route)
    for router in (*AGENT_ROUTERS, system.router, membership.router, events.router):
        app.include_router(router)
    app.mount("", ManagerRoutes())
    return app


class ManagerRoutes:
    """What no other route answers: the manager's routes, loaded at the first such request, since workers are rarely asked."""

    def __init__(self) -> None:
        self._router: APIRouter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, an unknown path too."""
        if self._router is None:
            self._router = _load_manager_routes()
        await self._router(scope, receive, send)


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
