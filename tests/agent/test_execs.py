"""Processes that clients start in two steps: what is told of them, and when they are forgotten."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from pyswarm_agent.execs import KEPT_S, RESIZE_WAIT_S, ExecDescription, ExecStore
from pyswarm_agent.runtime.access.fake import FakeContainerAccess, FakeProcess
from pyswarm_agent.runtime.access.interface import ExecConfig, TerminalSize
from pyswarm_agent.runtime.fake import FakeContainerRuntime
from pyswarm_agent.runtime.interface import ContainerStartFailed
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_common.clock import ManualClock, SystemClock
from pyswarm_common.errors import Conflict, NotFound
from pyswarm_common.ids import new_container_id


class Node:
    """A container that runs, and the store under test."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.runtime = FakeContainerRuntime(SystemClock())
        self.access = FakeContainerAccess(self.runtime)
        self.execs = ExecStore(self.access, self.runtime, self.clock)
        self.container = new_container_id()
        self.events: list[tuple[str, dict[str, str]]] = []
        self.runtime.on_event = lambda action, record, attributes: self.events.append((action, dict(attributes)))

    async def start(self) -> None:
        await self.runtime.create(ContainerConfig(id=self.container, args=("x",)))
        await self.runtime.start_container(self.container)
        self.events.clear()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    await node.start()
    yield node
    await node.access.close()
    await node.runtime.close()


def description(*args: str, tty: bool = False) -> ExecDescription:
    return ExecDescription(config=ExecConfig(args=args or ("sh", "-c"), tty=tty))


async def test_life_of_one(node: Node) -> None:
    node.access.process_of = lambda container_id, config: FakeProcess(runs_s=None)
    made = node.execs.create(node.container, description())
    assert (node.execs.get(made.id), made.is_running, made.exit_code) == (made, False, None)
    execution = await node.execs.start(made)
    assert made.is_running
    assert node.execs.ids_of(node.container) == [made.id]
    with pytest.raises(Conflict, match=f"Error: Exec command {made.id} is already running"):
        await node.execs.start(made)
    await execution.kill()
    await made.ended.wait()
    assert (made.is_running, made.exit_code, node.execs.ids_of(node.container)) == (False, 137, [])
    with pytest.raises(Conflict, match="has already run"):
        await node.execs.start(made)
    assert node.events == [
        ("exec_create: sh -c", {"execID": made.id}),
        ("exec_start: sh -c", {"execID": made.id}),
        ("exec_die", {"execID": made.id, "exitCode": "137"}),
    ]


async def test_one_that_cannot_be_started_has_an_exit_code(node: Node) -> None:
    node.access.process_of = lambda container_id, config: FakeProcess(start_error="not found", start_error_code=127)
    made = node.execs.create(node.container, description())
    with pytest.raises(ContainerStartFailed):
        await node.execs.start(made)
    assert (made.exit_code, made.is_running) == (127, False)


async def test_forgotten_some_minutes_after_the_end(node: Node) -> None:
    made, waiting = node.execs.create(node.container, description()), node.execs.create(node.container, description())
    await node.execs.start(made)
    await made.ended.wait()
    await node.clock.advance(KEPT_S)
    assert node.execs.get(made.id) is made
    await node.clock.advance(1)
    with pytest.raises(NotFound, match=f"No such exec instance: {made.id}"):
        node.execs.get(made.id)
    assert node.execs.get(waiting.id) is waiting


async def test_forgotten_with_the_container(node: Node) -> None:
    made = node.execs.create(node.container, description())
    await node.runtime.remove(node.container)
    with pytest.raises(NotFound, match="No such exec instance"):
        node.execs.get(made.id)
    with pytest.raises(NotFound, match="No such container"):
        node.execs.create(node.container, description())


async def test_only_in_containers_that_run(node: Node) -> None:
    made = node.execs.create(node.container, description())
    await node.runtime.stop(node.container)
    for attempt in (lambda: node.execs.create(node.container, description()), lambda: node.execs.check_startable(made)):
        with pytest.raises(Conflict, match=f"Container {node.container} is not running"):
            attempt()


async def test_a_size_waits_for_the_start(node: Node) -> None:
    node.access.process_of = lambda container_id, config: FakeProcess(runs_s=None)
    made = node.execs.create(node.container, description(tty=True))
    resizing = asyncio.ensure_future(node.execs.resize(made, TerminalSize(3, 4)))
    await asyncio.sleep(0)
    execution = await node.execs.start(made, TerminalSize(1, 2))
    await resizing
    assert execution.sizes == [(1, 2), (3, 4)]  # type: ignore[attr-defined]
    assert RESIZE_WAIT_S > 1
