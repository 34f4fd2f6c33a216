"""pyswarmd's side of the control socket: starts the process when none runs, and says what to answer."""

import asyncio
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import cast

import msgspec

from pyswarm_common.errors import FailedPrecondition, Unavailable
from pyswarm_netplugin.dns import protocol
from pyswarm_netplugin.dns.framing import CONTROL_LENGTH
from pyswarm_netplugin.dns.protocol import SandboxConfig

REPLY_TIMEOUT_S = 10.0
START_TIMEOUT_S = 20.0

__all__ = ["DNSClient", "SandboxConfig"]


class DNSClient:
    """Talks to the node's one pyswarm-dns over `socket_path`.

    Methods raise Unavailable when the process is gone (`ensure_running` brings a new one, which must be fed again), and
    FailedPrecondition when it says no.
    """

    def __init__(
        self, socket_path: Path, *, instance_tag: str, log_path: Path | None = None, arguments: Sequence[str] = ()
    ) -> None:
        self._socket_path = socket_path
        self._instance_tag = instance_tag
        self._log_path = log_path
        self._arguments = tuple(arguments)
        self._connection: _Connection | None = None
        self._fed_pid = 0
        self.pid = 0

    @property
    def is_connected(self) -> bool:
        """Whether the process answers, as far as is known."""
        return self._connection is not None and not self._connection.closed.is_set()

    async def ensure_running(self) -> bool:
        """Connect to the process, starting it when none runs; returns whether it must be fed, as another one was fed last.

        A process of another protocol version is ended and replaced. Raises Unavailable when it cannot be started.
        """
        if not self.is_connected and not await self._connect():
            await self._start()
            if not await self._connect():
                raise Unavailable(f"pyswarm-dns does not answer on {self._socket_path}")
        return self.pid != self._fed_pid

    async def set_network(self, network_id: str, records: Mapping[str, tuple[str, ...]], name: str = "") -> None:
        """Replace a network's names: addresses (with or without prefix length) by name. `name` is the network's own."""
        await self._ask(protocol.SetNetwork(network_id, dict(records), name))

    async def remove_network(self, network_id: str) -> None:
        """Forget a network."""
        await self._ask(protocol.RemoveNetwork(network_id))

    async def add_sandbox(
        self,
        sandbox_id: str,
        netns_path: str,
        network_ids: Sequence[str],
        search: Sequence[str] = (),
        upstreams: Sequence[str] = (),
    ) -> None:
        """Answer on 127.0.0.11:5353 (UDP, TCP) in the namespace; again with other networks changes what it may ask."""
        sandbox = SandboxConfig(netns_path, tuple(network_ids), tuple(search), tuple(upstreams))
        await self._ask(protocol.AddSandbox(sandbox_id, sandbox))

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Close a sandbox's sockets, which else keep its namespace alive."""
        await self._ask(protocol.RemoveSandbox(sandbox_id))

    async def feed(
        self,
        networks: Mapping[str, Mapping[str, tuple[str, ...]]],
        sandboxes: Mapping[str, SandboxConfig],
        network_names: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, str]:
        """Say everything: what is not in it is dropped, what stays keeps its sockets. `network_names`: the networks' own.

        Returns, by sandbox id, why those that cannot be served are not (such as: the namespace is gone).
        """
        records = {network_id: dict(names) for network_id, names in networks.items()}
        reply = await self._ask(protocol.Feed(records, dict(sandboxes), dict(network_names)))
        self._fed_pid = self.pid
        return reply.failures if isinstance(reply, protocol.Done) else {}

    async def status(self) -> protocol.Status:
        """Return what the process serves and how much it was asked."""
        reply = await self._ask(protocol.GetStatus())
        if not isinstance(reply, protocol.Status):
            raise Unavailable(f"pyswarm-dns answered {type(reply).__name__} to a question for its status")
        return reply

    async def wait_disconnected(self) -> None:
        """Return when the process has gone, or there was no connection."""
        if self._connection is not None:
            await self._connection.closed.wait()

    async def stop(self) -> None:
        """End the process and return when it has ended; nothing happens when none runs."""
        if not self.is_connected and not await self._connect():
            return
        await self._stop_connected()

    async def close(self) -> None:
        """Disconnect; the process goes on."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _ask(self, request: protocol.Request) -> protocol.Reply:
        if self._connection is None:
            raise Unavailable("not connected to pyswarm-dns")
        return await self._connection.ask(request)

    async def _connect(self) -> bool:
        await self.close()
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_unix_connection(_Connection, str(self._socket_path))
        except OSError:  # nobody listens; why not, if there is a reason, the start will tell
            return False
        self._connection = connection
        welcome = await connection.ask(protocol.Hello(protocol.PROTOCOL_VERSION, self._instance_tag))
        if not isinstance(welcome, protocol.Welcome):
            raise Unavailable(f"what listens on {self._socket_path} is no pyswarm-dns")
        self.pid = welcome.pid
        if welcome.instance_tag != self._instance_tag:
            await self.close()
            raise Unavailable(f"{self._socket_path} belongs to instance {welcome.instance_tag!r}, not to {self._instance_tag!r}")
        if welcome.protocol_version != protocol.PROTOCOL_VERSION:
            await self._stop_connected()
            return False
        return True

    async def _stop_connected(self) -> None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            await self._ask(protocol.Stop())
            await self.close()
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                await _wait_readable(descriptor)
        finally:
            os.close(descriptor)

    async def _start(self) -> None:
        arguments = ["--socket", str(self._socket_path), "--instance-tag", self._instance_tag, *self._arguments]
        if self._log_path is not None:
            arguments += ["--log", str(self._log_path)]
        launcher = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "pyswarm_netplugin.dns.main",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                _, errors = await launcher.communicate()
        except TimeoutError:
            launcher.kill()
            await launcher.wait()
            raise Unavailable(f"pyswarm-dns was not ready after {START_TIMEOUT_S:.0f} s") from None
        if launcher.returncode != 0:
            raise Unavailable(f"pyswarm-dns did not start: {errors.decode(errors='replace').strip()}")


class _Connection(asyncio.Protocol):
    """One connection: replies come in the order of the requests."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self._transport: asyncio.WriteTransport | None = None
        self._received = bytearray()
        self._waiting: deque[asyncio.Future[protocol.Reply]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand out whole replies."""
        self._received += data
        while len(self._received) >= CONTROL_LENGTH.size:
            (size,) = CONTROL_LENGTH.unpack_from(self._received)
            end = CONTROL_LENGTH.size + size
            if len(self._received) < end:
                return
            message = bytes(self._received[CONTROL_LENGTH.size : end])
            del self._received[:end]
            self._hand_out(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        self.closed.set()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(Unavailable("pyswarm-dns has gone"))

    async def ask(self, request: protocol.Request) -> protocol.Reply:
        """Send a request and return its reply. Raises Unavailable, FailedPrecondition."""
        if self._transport is None or self.closed.is_set():
            raise Unavailable("pyswarm-dns has gone")
        message = protocol.encode(request)
        future: asyncio.Future[protocol.Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._transport.write(CONTROL_LENGTH.pack(len(message)) + message)
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                reply = await future
        except TimeoutError:
            raise Unavailable(f"pyswarm-dns did not answer within {REPLY_TIMEOUT_S:.0f} s") from None
        if isinstance(reply, protocol.Failed):
            raise FailedPrecondition(reply.message)
        return reply

    async def close(self) -> None:
        """Disconnect and return when that is done."""
        if self._transport is not None:
            self._transport.close()
            await self.closed.wait()

    def _hand_out(self, message: bytes) -> None:
        future = self._waiting.popleft() if self._waiting else None
        try:
            reply = protocol.decode_reply(message)
        except msgspec.DecodeError as error:
            reply = protocol.Failed(f"unreadable reply: {error}")
        if future is not None and not future.done():
            future.set_result(reply)


async def _wait_readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
