"""Agents that answer requests for logs as a test scripts them, and a service whose tasks have logs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from api_server import MANAGER_ID, WORKER_ID

from pyswarm_common.clock import ManualClock
from pyswarm_common.objects import Service, Task, TaskSpec, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import LogLine, LogPart, LogRequest, OpenStream
from pyswarm_manager.api.manager_services import ManagerServices
from pyswarm_manager.log_broker import (
    LogBroker,
    LogSelector,
)
from pyswarm_manager.log_streams import LogPublisher
from pyswarm_manager.store.store import Store
from pyswarm_node.api.fake_control import FakeNodeControl

NOW_NS = 1_795_226_162_906_615_127
SERVICE = LogSelector(service_id="service1")
END = LogPart(is_last=True)


def part(*lines: LogLine) -> LogPart:
    return LogPart(lines=lines)


def line(text: str, at_ns: int = 0, stream: int = 1) -> LogLine:
    return LogLine(stream=stream, at_ns=NOW_NS + at_ns, line=text.encode() + b"\n")


class Agents:
    """The agents of all nodes: those in `online` take requests, and answer at once with the task's lines if there is a script."""

    def __init__(self) -> None:
        self.broker: LogBroker
        self.online = {MANAGER_ID, WORKER_ID}
        self.lines: dict[str, list[LogLine]] = {}
        self.requests: list[LogRequest] = []
        self.open: dict[str, LogPublisher] = {}
        self.dials = True

    def send(self, node_id: str, message: OpenStream) -> bool:
        if node_id not in self.online:
            return False
        self.requests.append(message.log)
        if self.dials:
            self._answer(node_id, message)
        return True

    def _answer(self, node_id: str, message: OpenStream) -> None:
        publisher = self.broker.accept(message.stream_id, node_id)
        assert publisher is not None
        self.open[message.log.task_id] = publisher
        lines = self.lines.get(message.log.task_id, ())
        lines = lines[int(message.log.after or "0") :]
        publisher(LogPart(lines=tuple(line for line in lines if line.at_ns >= message.log.since_ns), position=str(len(lines))))
        if not message.log.follow:
            publisher(END)
            publisher(None)


@pytest.fixture
def agents(store: Store, control: FakeNodeControl) -> Agents:
    agents = Agents()
    agents.broker = LogBroker(store, agents.send, ManualClock())
    manager = control.manager
    assert manager is not None
    control.manager = ManagerServices(store, agents.broker, manager.clock, manager.leader_node_id)
    return agents


@pytest.fixture
async def service(store: Store) -> Service:
    def fill(tx: Any) -> Service:
        tx.create(TaskSpec(id="spec1", template_json=b'{"ContainerSpec":{"Image":"a"}}'))
        return tx.create(Service(id="service1", name="web", spec_json=b'{"Name":"web"}', task_spec_id="spec1"))

    return await store.update(fill)


async def put_task(store: Store, task_id: str, node_id: str = WORKER_ID, state: TaskState = TaskState.RUNNING) -> None:
    """Create the task or bring it into a state; it has a container from STARTING on."""
    status = TaskStatus(state=state, container_id="c" * 64 if state >= TaskState.STARTING else "")

    def put(tx: Any) -> None:
        before = tx.tasks.get(task_id)
        if before is None:
            tx.create(Task(id=task_id, task_spec_id="spec1", service_id="service1", slot=1, node_id=node_id, status=status))
        else:
            tx.update(msgspec.structs.replace(before, node_id=node_id, status=status))

    await store.update(put)


def frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        length = int.from_bytes(data[4:8], "big")
        found.append((data[0], data[8 : 8 + length]))
        data = data[8 + length :]
    return found


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def wait_until(condition: Callable[[], bool], between: Callable[[], Awaitable[None]] = settle) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await between()


class Follower:
    """Reads a followed log in the background."""

    def __init__(self, broker: LogBroker, selector: LogSelector, **request: Any) -> None:
        self.texts: list[str] = []
        self.subscription = broker.subscribe(selector, LogRequest(task_id="", follow=True, **request))
        self.reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async with self.subscription:
            async for message in self.subscription:
                self.texts.append(message.line.line.decode().strip())

    async def stop(self) -> None:
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)
