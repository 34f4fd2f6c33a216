"""The node port (2377): what other machines may ask of a manager, over TLS.

GET  /ca                the CA's certificate; no certificate needed, the caller checks it against its token's digest
POST /join              a token and a signing request in, a node certificate out; no certificate needed
WS   /session           an agent's session
WS   /streams/{id}      a log, or a tunnel to the node's Engine API, that the manager asked for
POST /certificate       a new certificate for the caller, with the role that the store gives it
POST /attachments       an address on an attachable network for a single container of the caller
POST /attachments/release   such addresses are free again
POST /managers/enter    be a manager at these addresses, or hear how far that is
POST /managers/leave    be a manager no more
     /engine/…          the Engine API's routes of the manager, for the other managers (`forwarding/`)
GET  /managers/health   how this manager is

The others demand a certificate of a node that the store has, `/managers/…` and `/engine/…` of one that the store says is a manager.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from pyswarm_common import pki, wire
from pyswarm_common.attachment_messages import ATTACH_PATH, DETACH_PATH, AttachAnswer, AttachRequest, DetachRequest
from pyswarm_common.engine_api.responses import JSONResponse, error_response
from pyswarm_common.errors import InvalidArgument, PermissionDenied, PyswarmError
from pyswarm_common.waiting import wait_first
from pyswarm_manager.ca.authority import CertificateAuthority, decode_join_request
from pyswarm_manager.dispatcher.loop import Dispatcher
from pyswarm_manager.dispatcher.sessions import Session
from pyswarm_manager.forwarding.not_done import not_done_response
from pyswarm_manager.log_broker import LogBroker
from pyswarm_manager.log_streams import LogPublisher
from pyswarm_manager.reach.tunnels import NodeTunnels
from pyswarm_manager.store.store import Store

NORMAL_CLOSURE = 1000
POLICY_VIOLATION = 1008
LARGE_MESSAGE_BYTES = 16 * 1024
"""What takes about as long to encrypt and write as the rest of sending a message does."""
FORWARDED_NODE = "pyswarm-forwarded-node"
FORWARDED_ADDRESS = "pyswarm-forwarded-address"

T = TypeVar("T")

_log = structlog.get_logger()


class Admissions(Protocol):
    """Who becomes a manager, and stops being one (`role_manager.admission`)."""

    async def enter(self, node_id: str, request: wire.EnterRequest) -> wire.EnterAnswer:
        """Let a node be a manager. Raises PyswarmError."""
        ...

    async def leave(self, node_id: str) -> None:
        """Let a node be a manager no more; returns when its member is removed. Raises PyswarmError."""
        ...


class Attachments(Protocol):
    """Who gives single containers their addresses (`network_attachments`)."""

    async def attach(self, node_id: str, request: AttachRequest) -> AttachAnswer:
        """Give a node's container an address. Raises PyswarmError."""
        ...

    async def detach(self, node_id: str, request: DetachRequest) -> None:
        """Free what a node's containers had."""
        ...


Forward: TypeAlias = Callable[[Request, dict[str, str]], Awaitable[Response]]
"""Passes a request on to the leader, with these headers added, and returns its answer."""


FollowPings: TypeAlias = Callable[[Mapping[str, Any], Callable[[], None]], None]
"""Has a function called at each ping of a WebSocket, given its ASGI scope."""

EngineOf: TypeAlias = Callable[[Callable[[HTTPConnection], object]], ASGIApp]
"""Makes the Engine API for other managers (`forwarding.engine_port`), given what raises PermissionDenied for all other callers."""


class NodePort:
    """The routes of the node port. `peer_certificate` finds the client's certificate (DER) in an ASGI scope.

    What only the leader can do the other managers pass on to it by `forward`, with the caller's identity in headers that
    count only under a manager's certificate.
    """

    def __init__(
        self,
        *,
        store: Store,
        authority: CertificateAuthority,
        admissions: Admissions,
        attachments: Attachments,
        dispatcher: Dispatcher,
        log_broker: LogBroker,
        tunnels: NodeTunnels,
        peer_certificate: Callable[[Mapping[str, Any]], bytes | None],
        forward: Forward,
        health: Callable[[], wire.ManagerHealth],
        engine: EngineOf,
        follow_pings: FollowPings,
    ) -> None:
        self._store = store
        self._authority = authority
        self._admissions = admissions
        self._attachments = attachments
        self._dispatcher = dispatcher
        self._log_broker = log_broker
        self._tunnels = tunnels
        self._peer_certificate = peer_certificate
        self._forward = forward
        self._health = health
        self._follow_pings = follow_pings
        self._turn_of_large_messages = asyncio.Lock()
        """One of them in each round of the event loop: a thousand, of a megabyte each, would hold it up for seconds."""
        self.app = Starlette(
            routes=[
                Route(wire.CA_PATH, self._ca, methods=["GET"]),
                Route(wire.JOIN_PATH, self._on_leader(self._join), methods=["POST"]),
                Route(wire.CERTIFICATE_PATH, self._on_leader(self._renew), methods=["POST"]),
                Route(ATTACH_PATH, self._on_leader(self._attach), methods=["POST"]),
                Route(DETACH_PATH, self._on_leader(self._detach), methods=["POST"]),
                Route(wire.ENTER_PATH, self._on_leader(self._enter), methods=["POST"]),
                Route(wire.LEAVE_PATH, self._on_leader(self._leave), methods=["POST"]),
                Route(wire.HEALTH_PATH, self._tell_health, methods=["GET"]),
                Mount(wire.ENGINE_PATH, engine(self._manager)),
                WebSocketRoute(wire.SESSION_PATH, self._session),
                WebSocketRoute(wire.STREAM_PATH + "/{stream_id}", self._stream),
            ]
        )

    def _on_leader(self, handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Return a route that `handle` answers on the leader, and that other managers pass on to it."""

        async def route(request: Request) -> Response:
            try:
                if self._store.is_leader or _is_forwarded(request):
                    return await handle(request)
                headers = {FORWARDED_ADDRESS: self._peer_address(request)}
                if self._peer_certificate(request.scope) is not None:
                    headers[FORWARDED_NODE] = self._identity(request).node_id
                return await self._forward(request, headers)
            except PyswarmError as error:
                _log.warning("node_port.refused", path=request.url.path, peer=str(request.client), reason=error.message)
                return not_done_response(error)

        return route

    async def _tell_health(self, request: Request) -> Response:
        """Tell it to all nodes that hold a certificate of this cluster: those of a former incarnation may be no managers here."""
        try:
            identity = self._certified(request)
            if identity.cluster_id != self._store.view.cluster.id:
                raise PermissionDenied(f"node {identity.node_id} is not part of this cluster")
        except PyswarmError as error:
            return error_response(error)
        return JSONResponse(self._health())

    async def _ca(self, request: Request) -> Response:
        try:
            self._authority.note_attempt(request.client.host if request.client else "")
        except PyswarmError as error:
            return error_response(error)
        return PlainTextResponse(self._store.view.cluster.root_certificate_pem)

    async def _join(self, request: Request) -> Response:
        join_request = decode_join_request(await request.body())
        return JSONResponse(await self._authority.join(join_request, self._peer_address(request)))

    async def _renew(self, request: Request) -> Response:
        identity = self._identity(request)
        return JSONResponse(await self._authority.renew(identity, await _decode(request, wire.CertificateRequest)))

    async def _attach(self, request: Request) -> Response:
        node_id = self._identity(request).node_id
        return JSONResponse(await self._attachments.attach(node_id, await _decode(request, AttachRequest)))

    async def _detach(self, request: Request) -> Response:
        await self._attachments.detach(self._identity(request).node_id, await _decode(request, DetachRequest))
        return Response()

    async def _enter(self, request: Request) -> Response:
        return JSONResponse(await self._admissions.enter(self._manager(request).node_id, await _decode(request, wire.EnterRequest)))

    async def _leave(self, request: Request) -> Response:
        await self._admissions.leave(self._manager(request).node_id)
        return Response()

    def _peer_address(self, request: Request) -> str:
        """Return the address that the request came from, at first."""
        forwarded = request.headers.get(FORWARDED_ADDRESS)
        if forwarded is not None and self._is_manager(self._certified(request)):
            return forwarded
        return request.client.host if request.client else ""

    def _identity(self, connection: HTTPConnection) -> pki.NodeIdentity:
        """Return who calls, with the role that the store gives it. Raises PermissionDenied when it is none of our nodes."""
        identity = self._certified(connection)
        forwarded = connection.headers.get(FORWARDED_NODE)
        if forwarded is not None and self._is_manager(identity):
            identity = replace(identity, node_id=forwarded)
        node = self._store.view.nodes.get(identity.node_id)
        if identity.cluster_id != self._store.view.cluster.id or node is None:
            raise PermissionDenied(f"node {identity.node_id} is not part of this cluster")
        return replace(identity, role=node.role)

    def _manager(self, connection: HTTPConnection) -> pki.NodeIdentity:
        """Return which manager calls. Raises PermissionDenied when the store says that it is none."""
        identity = self._identity(connection)
        if identity.role != "manager":
            raise PermissionDenied(f"node {identity.node_id} is not a manager of this cluster")
        return identity

    def _certified(self, connection: HTTPConnection) -> pki.NodeIdentity:
        certificate = self._peer_certificate(connection.scope)
        if certificate is None:
            raise PermissionDenied("a node certificate of this cluster is needed here")
        return pki.identity_of(certificate)

    def _is_manager(self, identity: pki.NodeIdentity) -> bool:
        node = self._store.view.nodes.get(identity.node_id)
        return node is not None and node.role == "manager" and identity.role == "manager"

    async def _session(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            identity = self._identity(socket)
            hello = wire.decode_agent_message(await socket.receive_bytes())
            if not isinstance(hello, wire.Hello):
                raise PyswarmError(f"a session begins with Hello, not {type(hello).__name__}")
            session = await self._dispatcher.open_session(identity.node_id, hello)
        except (PyswarmError, msgspec.DecodeError) as error:
            await _refuse(socket, str(error), "" if self._store.is_leader else self._store.leader_address)
            return
        except WebSocketDisconnect:
            return
        self._follow_pings(socket.scope, lambda: self._dispatcher.heard(session))
        try:
            await self._converse(socket, session)
        finally:
            self._dispatcher.close_session(session)

    async def _converse(self, socket: WebSocket, session: Session) -> None:
        """Carry both directions; whichever ends first ends the other."""
        await wait_first(self._receive(socket, session), self._send(socket, session))
        await _close(socket)

    async def _receive(self, socket: WebSocket, session: Session) -> None:
        try:
            while True:
                await self._dispatcher.handle(session, wire.decode_agent_message(await socket.receive_bytes()))
        except WebSocketDisconnect:
            return
        except (PyswarmError, msgspec.DecodeError) as error:
            _log.warning("session.broken", node=session.node_id, reason=str(error))

    async def _send(self, socket: WebSocket, session: Session) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while (message := await session.outgoing.get()) is not None:
                if isinstance(message, wire.Assignments) and _carried_bytes(message) > LARGE_MESSAGE_BYTES:
                    async with self._turn_of_large_messages:
                        await asyncio.sleep(0)
                await socket.send_bytes(wire.encode(message))

    async def _stream(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            identity = self._identity(socket)
        except PyswarmError as error:
            await _refuse(socket, error.message)
            return
        stream_id = socket.path_params["stream_id"]
        tunnel = self._tunnels.accept(stream_id, identity.node_id)
        if tunnel is not None:
            await tunnel.carry(socket)
            await _close(socket)
            return
        publisher = self._log_broker.accept(stream_id, identity.node_id)
        if publisher is None:
            await _refuse(socket, "nobody waits for this stream")
            return
        try:
            await wait_first(_publish(socket, publisher), publisher.wait_reader_gone())
        finally:
            publisher(None)
        await _close(socket)


def _carried_bytes(message: wire.Assignments) -> int:
    views = sum(memoryview(raw).nbytes for raw in (*message.views, *message.view_deltas))
    return views + sum(len(content.data) for content in message.contents.values())


def _is_forwarded(request: Request) -> bool:
    return FORWARDED_ADDRESS in request.headers


async def _decode(request: Request, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.body(), type=type_)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"the request cannot be read: {error}") from error


async def _publish(socket: WebSocket, publisher: LogPublisher) -> None:
    with contextlib.suppress(WebSocketDisconnect, msgspec.DecodeError):
        while await publisher.publish(msgspec.msgpack.decode(await socket.receive_bytes(), type=wire.LogPart)):
            pass


async def _refuse(socket: WebSocket, reason: str, leader_address: str = "") -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await socket.send_bytes(wire.encode(wire.Goodbye(reason=reason, leader_address=leader_address)))
    await _close(socket, POLICY_VIOLATION)


async def _close(socket: WebSocket, code: int = NORMAL_CLOSURE) -> None:
    """Close; fine if the other side already has."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await socket.close(code)
