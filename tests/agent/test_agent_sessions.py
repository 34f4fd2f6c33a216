"""The whole agent in sessions with a real WebSocket server: logs on their own connections, reports after a broken session."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec
import pytest
from agent_bench import Bench, assigned, message, raw, view
from session_bench import Certificates, manager, receive, welcome
from websockets.asyncio.server import ServerConnection

from pyswarm_agent.runtime.fake import FakeProgram
from pyswarm_agent.session import send_log
from pyswarm_agent.task_container import container_id_of
from pyswarm_common import wire
from pyswarm_common.log_drivers import not_readable
from pyswarm_common.task_states import TaskState

LOG = wire.OpenStream(stream_id="abc", log=wire.LogRequest(task_id="t1", follow=True))


@contextmanager
def connected(bench: Bench, certificates: Certificates, address: str) -> Iterator[None]:
    """Let the bench's agent dial this manager."""
    bench.agent._dialer._tls = certificates.client
    bench.agent._dialer._managers = lambda: (wire.ManagerAddress(node_id="m1", address=address),)
    bench.agent.tls = certificates.client
    yield


class LogManager:
    """A manager with one session that asks for logs, and takes what comes."""

    def __init__(self, request: wire.OpenStream) -> None:
        self.request = request
        self.parts: list[wire.LogPart] = []
        self.stream_ended = asyncio.Event()

    async def talk(self, socket: ServerConnection) -> None:
        """Serve both paths."""
        assert socket.request is not None
        if socket.request.path == wire.SESSION_PATH:
            await welcome(socket)
            await socket.send(wire.encode(self.request))
            await socket.wait_closed()
            return
        assert socket.request.path == f"{wire.STREAM_PATH}/{self.request.stream_id}"
        try:
            async for data in socket:
                self.parts.append(msgspec.msgpack.decode(bytes(data), type=wire.LogPart))
        finally:
            self.stream_ended.set()


@pytest.mark.parametrize("follow", [False, True])
async def test_the_log_of_an_unknown_task_cannot_be_read(bench: Bench, certificates: Certificates, follow: bool) -> None:
    served = LogManager(wire.OpenStream(stream_id="abc", log=wire.LogRequest(task_id="nobody", follow=follow)))
    async with manager(certificates, served.talk) as address:
        with connected(bench, certificates, address):
            await bench.until(served.stream_ended.is_set, advancing_s=0.1)
    assert served.parts == [wire.LogPart(is_last=True, error=f"No such container: {container_id_of('nobody')}")]
    await bench.run_task("t1")


async def test_a_log_is_sent_to_its_end(bench: Bench, certificates: Certificates) -> None:
    lines = tuple((1, b"%d\n" % number) for number in range(2000))
    bench.programs["t1"] = FakeProgram(output=lines)
    await bench.run_task("t1")
    served = LogManager(msgspec.structs.replace(LOG, log=wire.LogRequest(task_id="t1")))
    async with manager(certificates, served.talk) as address:
        with connected(bench, certificates, address):
            await bench.until(served.stream_ended.is_set, advancing_s=0.1)
    assert [(line.stream, line.line) for part in served.parts for line in part.lines] == list(lines)
    assert [part.is_last for part in served.parts] == [False] * (len(served.parts) - 1) + [True]


async def test_whoever_follows_a_silent_log_notices_the_hang_up(certificates: Certificates) -> None:
    ended = asyncio.Event()

    async def silence() -> AsyncIterator[wire.LogPart]:
        try:
            await asyncio.Event().wait()
            yield wire.LogPart()
        finally:
            ended.set()

    async def hang_up(_: ServerConnection) -> None:
        return

    async with manager(certificates, hang_up) as address, asyncio.timeout(5):
        await send_log(address, LOG, certificates.client(), silence())
    assert ended.is_set()


async def test_a_log_that_cannot_be_read_does_not_end_the_agent(bench: Bench, certificates: Certificates) -> None:
    await bench.run_task("t1")

    async def broken(*_: object) -> AsyncIterator[wire.LogPart]:
        yield wire.LogPart(lines=(wire.LogLine(stream=1, at_ns=0, line=b"x"),))
        raise KeyError("surprise")

    bench.runtime.log_parts = broken  # type: ignore[method-assign,assignment]
    served = LogManager(LOG)
    async with manager(certificates, served.talk) as address:
        with connected(bench, certificates, address):
            await bench.until(served.stream_ended.is_set, advancing_s=0.1)
    assert [len(part.lines) for part in served.parts] == [1]
    await bench.run_task("t2")


async def test_why_a_log_cannot_be_read_is_told(bench: Bench, certificates: Certificates) -> None:
    async def unreadable(*_: object) -> AsyncIterator[wire.LogPart]:
        raise not_readable()
        yield

    bench.runtime.log_parts = unreadable  # type: ignore[method-assign,assignment]
    served = LogManager(LOG)
    async with manager(certificates, served.talk) as address:
        with connected(bench, certificates, address):
            await bench.until(served.stream_ended.is_set, advancing_s=0.1)
    assert served.parts == [wire.LogPart(is_last=True, error="configured logging driver does not support reading")]


async def test_what_a_broken_session_did_not_store_is_reported_in_the_next_one(bench: Bench, certificates: Certificates) -> None:
    """The whole agent: its first session breaks before any report is stored, a misfit view ends the second."""
    hellos, reported = list[wire.Hello](), dict[str, TaskState]()
    done = asyncio.Event()

    async def talk(socket: ServerConnection) -> None:
        hellos.append(await welcome(socket))
        task = assigned("t9", network="net")
        await socket.send(wire.encode(message(task, complete=True, views=(raw(view()),))))
        if len(hellos) == 1:
            await receive(socket)
            return
        if len(hellos) == 2:
            await socket.send(wire.encode(message(view_deltas=(raw(wire.view_delta(view(7), view(8))),))))
            await socket.wait_closed()
            return
        while reported.get("t9") is not TaskState.RUNNING:
            report = await receive(socket)
            assert isinstance(report, wire.StatusReport)
            reported.update({update.task_id: update.status.state for update in report.updates})
            await socket.send(wire.encode(wire.StatusAcknowledgement(number=report.number)))
        done.set()
        await socket.wait_closed()

    await bench.stop_taking_reports()
    async with manager(certificates, talk) as address:
        with connected(bench, certificates, address):
            await bench.until(done.is_set, advancing_s=0.5)
    assert [hello.view_versions for hello in hellos[:3]] == [{}, {"net": 1}, {}]
