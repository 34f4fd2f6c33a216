"""The node port (2377): what other machines may ask of a manager, over TLS.

GET  /ca              the CA's certificate; no certificate needed, the caller checks it against its token's digest
POST /join            a token and a signing request in, a node certificate out; no certificate needed
WS   /session         an agent's session; a node certificate of this cluster is demanded
WS   /streams/{id}    a log that the manager asked for; a node certificate is demanded
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from pyswarm_common import pki, wire
from pyswarm_common.engine_api.responses import JSONResponse, error_response
from pyswarm_common.errors import PermissionDenied, PyswarmError
from pyswarm_common.waiting import wait_first
from pyswarm_manager.ca.authority import CertificateAuthority, decode_join_request
from pyswarm_manager.dispatcher.loop import Dispatcher
from pyswarm_manager.dispatcher.sessions import Session
from pyswarm_manager.log_broker import LogBroker, LogPublisher
from pyswarm_manager.store.store import Store

NORMAL_CLOSURE = 1000
POLICY_VIOLATION = 1008

_log = structlog.get_logger()


class NodePort:
    """The routes of the node port. `peer_certificate` finds the client's certificate (DER) in an ASGI scope."""

    def __init__(
        self,
        *,
        store: Store,
        authority: CertificateAuthority,
        dispatcher: Dispatcher,
        log_broker: LogBroker,
        peer_certificate: Callable[[Mapping[str, Any]], bytes | None],
    ) -> None:
        self._store = store
        self._authority = authority
        self._dispatcher = dispatcher
        self._log_broker = log_broker
        self._peer_certificate = peer_certificate
        self.app = Starlette(
            routes=[
                Route(wire.CA_PATH, self._ca, methods=["GET"]),
                Route(wire.JOIN_PATH, self._join, methods=["POST"]),
                WebSocketRoute(wire.SESSION_PATH, self._session),
                WebSocketRoute(wire.STREAM_PATH + "/{stream_id}", self._stream),
            ]
        )

    async def _ca(self, request: Request) -> Response:
        return PlainTextResponse(self._store.view.cluster.root_certificate_pem)

    async def _join(self, request: Request) -> Response:
        try:
            join_request = decode_join_request(await request.body())
            peer = request.client.host if request.client else ""
            return JSONResponse(await self._authority.join(join_request, peer))
        except PyswarmError as error:
            _log.warning("join.refused", peer=str(request.client), reason=error.message)
            return error_response(error)

    def _identity(self, socket: WebSocket) -> pki.NodeIdentity:
        certificate = self._peer_certificate(socket.scope)
        if certificate is None:
            raise PermissionDenied("a node certificate of this cluster is needed here")
        identity = pki.identity_of(certificate)
        if identity.cluster_id != self._store.view.cluster.id or identity.node_id not in self._store.view.nodes:
            raise PermissionDenied(f"node {identity.node_id} is not part of this cluster")
        return identity

    async def _session(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            identity = self._identity(socket)
            hello = wire.decode_agent_message(await socket.receive_bytes())
            if not isinstance(hello, wire.Hello):
                raise PyswarmError(f"a session begins with Hello, not {type(hello).__name__}")
            session = await self._dispatcher.open_session(identity.node_id, hello)
        except (PyswarmError, msgspec.DecodeError) as error:
            await _refuse(socket, str(error))
            return
        except WebSocketDisconnect:
            return
        try:
            await self._converse(socket, session)
        finally:
            self._dispatcher.close_session(session)

    async def _converse(self, socket: WebSocket, session: Session) -> None:
        """Carry both directions; whichever ends first ends the other."""
        await wait_first(self._receive(socket, session), _send(socket, session))
        await _close(socket)

    async def _receive(self, socket: WebSocket, session: Session) -> None:
        try:
            while True:
                await self._dispatcher.handle(session, wire.decode_agent_message(await socket.receive_bytes()))
        except WebSocketDisconnect:
            return
        except (PyswarmError, msgspec.DecodeError) as error:
            _log.warning("session.broken", node=session.node_id, reason=str(error))

    async def _stream(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            identity = self._identity(socket)
        except PyswarmError as error:
            await _refuse(socket, error.message)
            return
        publisher = self._log_broker.accept(socket.path_params["stream_id"], identity.node_id)
        if publisher is None:
            await _refuse(socket, "nobody waits for this stream")
            return
        try:
            await wait_first(_publish(socket, publisher), publisher.wait_reader_gone())
        finally:
            publisher(None)
        await _close(socket)


async def _publish(socket: WebSocket, publisher: LogPublisher) -> None:
    with contextlib.suppress(WebSocketDisconnect, msgspec.DecodeError):
        while await publisher.publish(msgspec.msgpack.decode(await socket.receive_bytes(), type=wire.LogLine)):
            pass


async def _send(socket: WebSocket, session: Session) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while (message := await session.outgoing.get()) is not None:
            await socket.send_bytes(wire.encode(message))


async def _refuse(socket: WebSocket, reason: str) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await socket.send_bytes(wire.encode(wire.Goodbye(reason=reason)))
    await _close(socket, POLICY_VIOLATION)


async def _close(socket: WebSocket, code: int = NORMAL_CLOSURE) -> None:
    """Close; fine if the other side already has."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await socket.close(code)
