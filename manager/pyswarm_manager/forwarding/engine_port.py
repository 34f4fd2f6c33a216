"""The Engine API as other managers reach it, under `/engine` of the node port: the manager's routes, on the leader alone.

Nothing is passed on from here. A manager that does not lead, or stops to before anything was changed, says so in a header, and the
asking one looks for the leader of then.
"""

from collections.abc import Callable

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pyswarm_common.engine_api.responses import error_response
from pyswarm_common.errors import NotFound, PyswarmError
from pyswarm_manager.api.manager_services import ManagerServices
from pyswarm_manager.api.routes import ROUTERS
from pyswarm_manager.forwarding.exchange import Exchange
from pyswarm_manager.forwarding.leader_requests import run_counted
from pyswarm_manager.forwarding.not_done import not_done_response
from pyswarm_manager.store.leadership import no_leader

_log = structlog.get_logger(__name__)


class EnginePort:
    """An ASGI application. `check_peer` raises PermissionDenied when the caller is no manager of the cluster."""

    def __init__(self, services: Callable[[], ManagerServices], check_peer: Callable[[Request], object]) -> None:
        self._app = app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        app.state.require_manager = services
        app.add_exception_handler(HTTPException, _answer_unknown_route)
        app.add_middleware(_Gate, services=services, check_peer=check_peer)
        for router in ROUTERS:
            app.include_router(router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what comes before the routes' own path is in `root_path`."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        await self._app({**scope, "path": path, "root_path": ""}, receive, send)


class _Gate:
    """The layer around the routes: who may come in, and what became of the request."""

    def __init__(self, app: ASGIApp, services: Callable[[], ManagerServices], check_peer: Callable[[Request], object]) -> None:
        self._app = app
        self._services = services
        self._check_peer = check_peer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(receive, send)
        try:
            self._check_peer(Request(scope))
            if not self._services().store.is_leader:
                raise no_leader()
            await run_counted(self._app, exchange, scope)
        except Exception as error:
            if not isinstance(error, PyswarmError):
                _log.exception("engine_port.request_failed", method=scope["method"], path=scope["path"])
            if exchange.has_started:
                raise
            await not_done_response(error)(scope, receive, send)


async def _answer_unknown_route(request: Request, error: Exception) -> Response:
    return error_response(NotFound("page not found"))
