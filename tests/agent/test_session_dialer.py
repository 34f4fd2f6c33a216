"""The dialer against a real WebSocket server over mutual TLS: greeting, back-off, silence, breaks."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from session_bench import WELCOME, Certificates, manager, receive, welcome
from websockets.asyncio.server import ServerConnection

from pyswarm_agent.session import (
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    STEADY_S,
    Patience,
    SessionDialer,
)
from pyswarm_common import wire
from pyswarm_common.clock import ManualClock, SystemClock
from pyswarm_common.objects import NodeDescription, TaskStatus


class Handler:
    """An agent that notes what it hears."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[wire.ManagerMessage] = asyncio.Queue()
        self.reports: asyncio.Queue[wire.StatusReport] = asyncio.Queue()
        self.applied: asyncio.Queue[wire.ViewsApplied] = asyncio.Queue()
        self.began = 0
        self.fault: Exception | None = None

    def hello(self) -> wire.Hello:
        return wire.Hello(protocol_versions=(1,), description=NodeDescription(hostname="h1"))

    async def handle(self, message: wire.ManagerMessage) -> None:
        self.heard.put_nowait(message)
        if self.fault is not None and not isinstance(message, wire.Welcome):
            raise self.fault

    async def next_report(self) -> wire.StatusReport:
        return await self.reports.get()

    async def next_views_applied(self) -> wire.ViewsApplied:
        return await self.applied.get()

    def session_began(self) -> None:
        self.began += 1


class BackOffClock(ManualClock):
    """A clock on which the dialer's pauses take no time and are noted; the heartbeat's take for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses_s: list[float] = []
        self.paused = asyncio.Event()
        self.session_s = 0.0
        """How long each session seems to last."""

    def monotonic_s(self) -> float:
        self._elapsed_s += self.session_s
        return super().monotonic_s()

    async def sleep(self, seconds: float) -> None:
        if seconds == WELCOME.heartbeat_period_s:
            await asyncio.Event().wait()
        self.pauses_s.append(seconds)
        self.paused.set()
        await asyncio.sleep(0)


@asynccontextmanager
async def dialing(handler: Handler, certificates: Certificates, *addresses: str, **more: object) -> AsyncIterator[SessionDialer]:
    """Run a dialer without jitter."""
    managers = tuple(wire.ManagerAddress(node_id=f"m{i}", address=address) for i, address in enumerate(addresses))
    arguments = {"clock": SystemClock(), "jitter": lambda: 1.0, **more}
    dialer = SessionDialer(handler, tls=certificates.client, managers=lambda: managers, **arguments)  # type: ignore[arg-type]
    task = asyncio.create_task(dialer.run())
    try:
        async with asyncio.timeout(20):
            yield dialer
        assert not task.done(), "the dialer must never end by itself"
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(predicate: Callable[[], bool]) -> None:
    """Wait until something holds."""
    while not predicate():  # noqa: ASYNC110  what is waited for happens in the code under test, which sets no event
        await asyncio.sleep(0.002)


async def test_a_session_greets_beats_reports_and_listens(certificates: Certificates) -> None:
    handler, seen = Handler(), list[wire.AgentMessage]()
    done, beats = asyncio.Event(), asyncio.Queue[None]()

    async def talk(socket: ServerConnection) -> None:
        seen.append(await welcome(socket))
        await beats.get()
        seen.append(await receive(socket))
        await socket.send(wire.encode(wire.StatusAcknowledgement(number=7)))
        await done.wait()

    report = wire.StatusReport(number=7, updates=(wire.TaskStatusUpdate(task_id="t1", status=TaskStatus()),))
    handler.reports.put_nowait(report)
    async with manager(certificates, talk, beats) as address, dialing(handler, certificates, address) as dialer:
        assert await handler.heard.get() == WELCOME
        assert await handler.heard.get() == wire.StatusAcknowledgement(number=7)
        assert seen == [handler.hello(), report]
        assert (dialer.connected_to, handler.began) == (address, 1)
        done.set()
        await until(lambda: dialer.connected_to is None)


async def test_the_heartbeat_keeps_its_period(certificates: Certificates) -> None:
    beats = asyncio.Queue[None]()
    clock = ManualClock()

    async def talk(socket: ServerConnection) -> None:
        await welcome(socket)
        await socket.wait_closed()

    async with manager(certificates, talk, beats) as address, dialing(Handler(), certificates, address, clock=clock):
        for _ in range(3):
            await beats.get()
            await clock.advance(WELCOME.heartbeat_period_s - 0.1)
            assert beats.empty()
            await clock.advance(0.1)


async def refuse(socket: ServerConnection) -> None:
    """Say what a follower says."""
    await socket.recv()
    await socket.send(wire.encode(wire.Goodbye(reason="this manager does not lead")))


async def test_pauses_double_while_managers_refuse(certificates: Certificates) -> None:
    clock = BackOffClock()
    async with manager(certificates, refuse) as address, dialing(Handler(), certificates, address, clock=clock):
        await until(lambda: len(clock.pauses_s) >= 7)
    assert clock.pauses_s[:7] == [FIRST_DELAY_S * 2**n for n in range(5)] + [LONGEST_DELAY_S] * 2


async def test_pauses_double_while_sessions_break_at_once(certificates: Certificates) -> None:
    clock = BackOffClock()

    async def leave(socket: ServerConnection) -> None:
        await welcome(socket)

    async with manager(certificates, leave) as address, dialing(Handler(), certificates, address, clock=clock):
        await until(lambda: len(clock.pauses_s) >= 3)
    assert clock.pauses_s[:3] == [0.1, 0.2, 0.4]


async def test_a_session_that_stood_ends_the_back_off(certificates: Certificates) -> None:
    clock = BackOffClock()
    clock.session_s = STEADY_S

    async def leave(socket: ServerConnection) -> None:
        await welcome(socket)

    async with manager(certificates, leave) as address, dialing(Handler(), certificates, address, clock=clock):
        await until(lambda: len(clock.pauses_s) >= 3)
    assert clock.pauses_s[:3] == [0.1, 0.1, 0.1]


async def test_jitter_halves_a_pause_at_most(certificates: Certificates) -> None:
    clock = BackOffClock()
    async with dialing(Handler(), certificates, clock=clock, jitter=lambda: 0.0):
        await until(lambda: len(clock.pauses_s) >= 2)
    assert clock.pauses_s[:2] == [0.05, 0.1]


async def test_the_one_manager_that_leads_is_found_among_those_that_refuse(certificates: Certificates) -> None:
    handler, stay = Handler(), asyncio.Event()

    async def talk(socket: ServerConnection) -> None:
        await welcome(socket)
        await stay.wait()

    async with (
        manager(certificates, refuse) as first,
        manager(certificates, refuse) as second,
        manager(certificates, talk) as third,
    ):
        for order in ((first, second, third), (third, first, second), (first, third, second)):
            async with dialing(handler, certificates, *order) as dialer:
                await until(lambda dialer=dialer: dialer.connected_to == third)
        stay.set()


async def test_a_manager_that_accepts_and_says_nothing_is_left(certificates: Certificates) -> None:
    """At each stage: TCP alone, then no welcome, then no pong."""
    accepted: list[asyncio.StreamWriter] = []
    released = asyncio.Event()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)

    async def no_welcome(socket: ServerConnection) -> None:
        await released.wait()

    async def no_pong(socket: ServerConnection) -> None:
        await welcome(socket)
        socket.transport.pause_reading()
        await released.wait()

    silent = await asyncio.start_server(accept, "127.0.0.1", 0)
    addresses = [f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"]
    patience = Patience(open_s=0.3, pong_s=0.2, close_s=0.1)
    clock, handler = BackOffClock(), Handler()
    try:
        async with manager(certificates, no_welcome) as second, manager(certificates, no_pong) as third:
            addresses += [second, third]
            began_s = time.monotonic()
            async with dialing(handler, certificates, *addresses, clock=clock, patience=patience):
                await until(lambda: len(clock.pauses_s) >= 3)
            assert time.monotonic() - began_s < 5.0
            assert handler.began == 1
            released.set()
    finally:
        silent.close()
        for writer in accepted:
            writer.close()


@pytest.mark.parametrize("fault", [KeyError("surprise"), ValueError("surprise"), msgspec.ValidationError("surprise")])
async def test_a_fault_in_taking_a_message_in_ends_the_session_alone(certificates: Certificates, fault: Exception) -> None:
    handler, sessions = Handler(), list[None]()
    handler.fault = fault

    async def talk(socket: ServerConnection) -> None:
        sessions.append(None)
        await welcome(socket)
        await socket.send(wire.encode(wire.Assignments(is_complete=True)))
        await socket.wait_closed()

    clock = BackOffClock()
    async with manager(certificates, talk) as address, dialing(handler, certificates, address, clock=clock):
        await until(lambda: len(sessions) >= 3)


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff", b"", "text", wire.encode(wire.Hello(protocol_versions=(), description=NodeDescription()))]
)
async def test_garbage_ends_the_session_alone(certificates: Certificates, garbage: bytes | str) -> None:
    sessions = list[None]()

    async def talk(socket: ServerConnection) -> None:
        sessions.append(None)
        if len(sessions) > 1:
            await welcome(socket)
        await socket.send(garbage)
        await socket.wait_closed()

    clock = BackOffClock()
    async with manager(certificates, talk) as address, dialing(Handler(), certificates, address, clock=clock):
        await until(lambda: len(sessions) >= 3)


async def test_no_session_with_a_server_that_is_no_manager_of_the_cluster(certificates: Certificates, tmp_path: Path) -> None:
    """One of another cluster, one with a worker's certificate, none at all, and an address that is none."""
    met = list[None]()

    async def talk(_: ServerConnection) -> None:
        met.append(None)

    clock = BackOffClock()
    worker = Certificates.make(tmp_path / "worker", role="worker")
    async with manager(Certificates.make(tmp_path / "other"), talk) as other, manager(worker, talk) as not_a_manager:
        addresses = (other, "127.0.0.1:1", "not an address:x")
        async with dialing(Handler(), certificates, *addresses, clock=clock):
            await until(lambda: len(clock.pauses_s) >= 4)
        async with dialing(Handler(), worker, not_a_manager, clock=clock):
            await until(lambda: len(clock.pauses_s) >= 6)
    assert met == []


async def test_certificates_that_cannot_be_read_are_waited_for(certificates: Certificates, tmp_path: Path) -> None:
    clock = BackOffClock()
    missing = Certificates(tmp_path)
    async with manager(certificates, refuse) as address, dialing(Handler(), missing, address, clock=clock):
        await until(lambda: len(clock.pauses_s) >= 2)


async def test_the_dialer_can_be_cancelled_at_any_stage(certificates: Certificates) -> None:
    async def talk(socket: ServerConnection) -> None:
        await welcome(socket)
        await socket.wait_closed()

    async with manager(certificates, talk) as address:
        for delay_s in (0.0, 0.001, 0.005, 0.01, 0.02, 0.05):
            async with dialing(Handler(), certificates, address):
                await asyncio.sleep(delay_s)


async def test_another_heartbeat_period_is_kept_at_once(certificates: Certificates) -> None:
    beats = asyncio.Queue[None]()

    async def talk(socket: ServerConnection) -> None:
        await welcome(socket)
        await socket.send(wire.encode(wire.NodeState(role="worker", managers=(), heartbeat_period_s=0.02)))
        await socket.wait_closed()

    async with manager(certificates, talk, beats) as address, dialing(Handler(), certificates, address):
        async with asyncio.timeout(WELCOME.heartbeat_period_s / 2):
            for _ in range(5):
                await beats.get()
