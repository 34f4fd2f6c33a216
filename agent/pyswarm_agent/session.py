"""The agent's connection to a manager: dial, greet, keep alive, and dial again when it breaks.

One WebSocket over mutual TLS; the server must show the role name `swarm-manager` of the cluster's own CA. Managers are tried
in turn with a back-off that doubles from 0.1 s to 3 s, with jitter, so that a manager that returns is not trampled. Only a session
that stood for a while ends the back-off: one that is refused, or breaks at once, is a failure as well. A manager that does not lead
says who does, and that one is dialled next and at once, but no manager twice between two pauses.

Managers of an older incarnation of the cluster than one that was seen are refused: they are what a forced new cluster left behind.

Nothing that a manager says or does ends the dialer, and neither does a fault in taking it in: the session ends, and the next one
begins with everything anew.
"""

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog
import websockets.asyncio.client as websocket_client
from websockets.exceptions import WebSocketException

from pyswarm_common import pki, wire
from pyswarm_common.clock import Clock, SystemClock
from pyswarm_common.errors import PyswarmError
from pyswarm_common.objects import NodeDescription
from pyswarm_common.waiting import wait_first

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 3.0
STEADY_S = 5.0
"""How long a session must have stood for the back-off to begin anew."""
STREAM_CLOSE_S = 60.0
"""How long a reader of logs, who may be a person with a pager, has for the last lines."""

_EXPECTED = (OSError, TimeoutError, WebSocketException, msgspec.DecodeError, PyswarmError)

_log = structlog.get_logger()


@dataclass(frozen=True)
class Patience:
    """How long a manager may take: to connect and greet, between pings (None: no other than the heartbeats), and to answer one."""

    open_s: float = 5.0
    ping_s: float | None = None
    pong_s: float | None = 2.0
    close_s: float = 1.0


SESSION_PATIENCE = Patience()
# A reader who takes no more lines takes no pings either; that is not a sign of death.
STREAM_PATIENCE = Patience(ping_s=20.0, pong_s=None, close_s=STREAM_CLOSE_S)


class SessionEnded(PyswarmError):
    """The manager said goodbye, or something else than it should. `leader_address`: the manager to dial instead, if it said so."""

    def __init__(self, reason: str, leader_address: str = "") -> None:
        super().__init__(reason)
        self.leader_address = leader_address


class SessionHandler(Protocol):
    """What the agent does with a session."""

    def hello(self) -> wire.Hello:
        """Return the greeting for a new session."""
        ...

    async def handle(self, message: wire.ManagerMessage) -> None:
        """Take in a message of the manager. What it raises ends the session."""
        ...

    async def next_report(self) -> wire.StatusReport:
        """Wait for the next status report to send."""
        ...

    async def next_views_applied(self) -> wire.ViewsApplied:
        """Wait until the manager, which asked for it, can be told which network views are in force."""
        ...

    def session_began(self) -> None:
        """A session is open: unacknowledged reports must be sent again."""
        ...


class SessionDialer:
    """Keeps one session open for as long as it runs. `connected_to` is the manager that greeted us, while it does.

    `incarnation` gives the highest one that was seen; `on_incarnation` is told of a higher one, to keep it.
    """

    def __init__(
        self,
        handler: SessionHandler,
        *,
        tls: Callable[[], ssl.SSLContext],
        managers: Callable[[], tuple[wire.ManagerAddress, ...]],
        jitter: Callable[[], float] = random.random,
        clock: Clock | None = None,
        patience: Patience = SESSION_PATIENCE,
        incarnation: Callable[[], int] = lambda: 0,
        on_incarnation: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._handler = handler
        self._incarnation = incarnation
        self._on_incarnation = on_incarnation
        self._leader_address = ""
        self._dialled: set[str] = set()
        """What was dialled since the last pause."""
        self._tls = tls
        self._managers = managers
        self._jitter = jitter
        self._clock = clock or SystemClock()
        self._patience = patience
        self._turn = 0
        self._broken = ""
        """The manager whose session broke last: it may be dead, so others are dialled first."""
        self._failures = 0
        self._period_s = 1.0
        self._period_changed = asyncio.Event()
        self._description: NodeDescription | None = None
        self._described = asyncio.Event()
        self.connected_to: str | None = None

    async def run(self) -> None:
        """Dial for ever; returns only by cancellation."""
        while True:
            began_s = self._clock.monotonic_s()
            address = self._next_address()
            if address:
                self._dialled.add(address)
                was_open = await self._dial(address)
                self._broken = address if was_open else ""
                if was_open and self._clock.monotonic_s() - began_s >= STEADY_S:
                    self._failures = 0
                    self._dialled = {address}
            if self._leader_address and self._leader_address not in self._dialled:
                continue
            self._dialled.clear()
            delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(self._failures, 10))
            self._failures += 1
            await self._clock.sleep(delay_s * (0.5 + 0.5 * self._jitter()))

    def _next_address(self) -> str:
        """Return the leader if its address is known, else the next manager's; "" when there is none."""
        address, self._leader_address = self._leader_address, ""
        broken, self._broken = self._broken, ""
        managers = [m.address for m in self._managers()]
        others = [m for m in managers if m != broken] or managers
        if not address and others:
            address = others[self._turn % len(others)]
            self._turn += 1
        return address

    async def _dial(self, address: str) -> bool:
        """Hold a session with this manager for as long as it stands; return whether there was one."""
        try:
            async with open_websocket(address, wire.SESSION_PATH, self._tls(), self._patience) as socket:
                await self._converse(socket, address)
        except _EXPECTED as error:
            _log.info("session.ended", manager=address, reason=str(error) or type(error).__name__)
            self._leader_address = error.leader_address if isinstance(error, SessionEnded) else ""
        except Exception as error:  # noqa: BLE001  a message that brings down its reader must not end the agent
            _log.error("session.ended", manager=address, reason=repr(error), exc_info=error)
        finally:
            was_open, self.connected_to = self.connected_to is not None, None
        return was_open

    async def _converse(self, socket: websocket_client.ClientConnection, address: str) -> None:
        self._description = None
        self._described.clear()
        async with asyncio.timeout(self._patience.open_s):
            await socket.send(wire.encode(self._handler.hello()))
            welcome = wire.decode_manager_message(_bytes(await socket.recv()))
        if isinstance(welcome, wire.Goodbye):
            raise SessionEnded(welcome.reason, welcome.leader_address)
        if not isinstance(welcome, wire.Welcome):
            raise SessionEnded(f"unexpected {type(welcome).__name__}")
        self._check_incarnation(welcome.incarnation)
        self.connected_to = address
        _log.info("session.opened", manager=address, session=welcome.session_id)
        self._handler.session_began()
        self._period_s = welcome.heartbeat_period_s
        await self._handler.handle(welcome)
        await wait_first(
            self._receive(socket), self._beat(socket), self._report(socket), self._say(socket), self._answer_views(socket)
        )

    def _check_incarnation(self, incarnation: int) -> None:
        seen = self._incarnation()
        if incarnation < seen:
            raise SessionEnded(f"the manager belongs to an older incarnation of the cluster ({incarnation}, this node saw {seen})")
        if incarnation > seen:
            self._on_incarnation(incarnation)

    async def _receive(self, socket: websocket_client.ClientConnection) -> None:
        while True:
            message = wire.decode_manager_message(_bytes(await socket.recv()))
            if isinstance(message, wire.Goodbye):
                raise SessionEnded(message.reason, message.leader_address)
            if isinstance(message, wire.NodeState) and message.heartbeat_period_s != self._period_s:
                self._period_s = message.heartbeat_period_s
                self._period_changed.set()
            await self._handler.handle(message)

    async def _beat(self, socket: websocket_client.ClientConnection) -> None:
        """Ping once a period: our sign of life to the manager; the answer is the manager's to us."""
        while True:
            self._period_changed.clear()
            pausing = asyncio.ensure_future(wait_first(self._clock.sleep(self._period_s), self._period_changed.wait()))
            try:
                answered = await socket.ping()
                async with asyncio.timeout(self._patience.pong_s):
                    await answered
                await pausing
            finally:
                pausing.cancel()

    def describe(self, description: NodeDescription) -> None:
        """Tell the manager that the node's description has changed, if there is a session: the next one begins with it."""
        self._description = description
        self._described.set()

    async def _say(self, socket: websocket_client.ClientConnection) -> None:
        while True:
            await self._described.wait()
            self._described.clear()
            if self._description is not None:
                await socket.send(wire.encode(wire.DescriptionUpdate(description=self._description)))

    async def _report(self, socket: websocket_client.ClientConnection) -> None:
        while True:
            await socket.send(wire.encode(await self._handler.next_report()))

    async def _answer_views(self, socket: websocket_client.ClientConnection) -> None:
        while True:
            await socket.send(wire.encode(await self._handler.next_views_applied()))


def open_websocket(address: str, path: str, tls: ssl.SSLContext, patience: Patience = SESSION_PATIENCE) -> websocket_client.connect:
    """Return the connection (an async context manager) to a path of a manager's node port."""
    return websocket_client.connect(
        f"wss://{address}{path}",
        ssl=tls,
        server_hostname=pki.MANAGER_ROLE_NAME,
        open_timeout=patience.open_s,
        close_timeout=patience.close_s,
        ping_interval=patience.ping_s,
        ping_timeout=patience.pong_s,
        max_size=wire.MAX_MESSAGE_BYTES,
        compression=None,
        proxy=None,
    )


def client_tls(certificate_path: str, key_path: str, root_path: str) -> ssl.SSLContext:
    """Return the TLS settings of a node that dials a manager: its own certificate, and no trust but the cluster's CA."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=root_path)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate_path, key_path)
    return context


def _bytes(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


async def send_log(address: str, request: wire.OpenStream, tls: ssl.SSLContext, parts: AsyncIterator[wire.LogPart]) -> None:
    """Dial the stream that a manager asked for and send the log there; a manager that hangs up ends it.

    A log that cannot be read is told there. Raises what else comes of reading it.
    """
    path = f"{wire.STREAM_PATH}/{request.stream_id}"
    try:
        with contextlib.suppress(TimeoutError, WebSocketException, ConnectionError):
            async with open_websocket(address, path, tls, STREAM_PATIENCE) as socket:
                # Who follows a log that is silent must notice the hang-up, too.
                await wait_first(_send_parts(socket, parts), socket.wait_closed())
    finally:
        if isinstance(parts, AsyncGenerator):
            await parts.aclose()


async def _send_parts(socket: websocket_client.ClientConnection, parts: AsyncIterator[wire.LogPart]) -> None:
    end = wire.LogPart(is_last=True)
    try:
        async for part in parts:
            await socket.send(wire.encode(part))
    except ConnectionError:
        raise
    except (PyswarmError, OSError) as error:
        end = wire.LogPart(is_last=True, error=str(error))
    await socket.send(wire.encode(end))
