"""Logs that cannot be had, or not all of them: nobody is held up, and what is missing is told."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from api_server import MANAGER_ID, WORKER_ID
from scripted_agents import END, SERVICE, Agents, Follower, line, part, put_task, settle, wait_until

from pyswarm_common.clock import ManualClock
from pyswarm_common.log_drivers import NOT_READABLE
from pyswarm_common.objects import NodeStatus, Service, Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import LogLine, LogPart, LogRequest, OpenStream
from pyswarm_manager.log_broker import (
    ALL_PARTS_BYTES,
    DIAL_TIMEOUT_S,
    FOLLOW_PERIOD_S,
    LogBroker,
    LogSelector,
    LogSubscription,
    incomplete_log,
)
from pyswarm_manager.log_streams import LogPublisher
from pyswarm_manager.store.store import Store


def node_down(node_id: str) -> Callable[[Any], None]:
    """Return the change by which the dispatcher notes that a node is down."""
    return lambda tx: tx.update(msgspec.structs.replace(tx.nodes.must_get(node_id), status=NodeStatus(state="down")))


async def read_all(subscription: LogSubscription) -> list[str]:
    async with subscription:
        return [message.line.line.decode().strip() async for message in subscription]


async def test_a_node_that_goes_down_midway_holds_nobody_up(store: Store, agents: Agents, service: Service) -> None:
    clock = ManualClock()
    agents.broker = LogBroker(store, agents.send, clock)
    await put_task(store, "task1", MANAGER_ID)
    await put_task(store, "task2", WORKER_ID)
    sent: dict[str, LogPublisher] = {}

    def answer(node_id: str, message: OpenStream) -> None:
        publisher = sent[message.log.task_id] = agents.broker.accept(message.stream_id, node_id)  # type: ignore[assignment]
        publisher(part(line(f"{message.log.task_id} one")))

    agents._answer = answer  # type: ignore[method-assign]
    subscription = agents.broker.subscribe(SERVICE, LogRequest(task_id=""))
    reading = asyncio.ensure_future(read_all(subscription))
    await wait_until(lambda: len(sent) == 2)
    sent["task1"](part(line("task1 two", 5)))
    sent["task1"](END)
    await store.update(node_down(WORKER_ID))
    await wait_until(reading.done, lambda: clock.advance(FOLLOW_PERIOD_S))
    assert await reading == ["task1 one", "task2 one", "task1 two"]
    assert subscription.reasons == [f"node {WORKER_ID} broke off the log of task task2, of which the last lines may be missing"]


async def test_a_connection_that_breaks_midway_is_told(store: Store, agents: Agents, service: Service) -> None:
    await put_task(store, "task1")

    def answer(node_id: str, message: OpenStream) -> None:
        publisher = agents.broker.accept(message.stream_id, node_id)
        assert publisher is not None
        publisher(part(line("one")))
        publisher(None)

    agents._answer = answer  # type: ignore[method-assign]
    subscription = agents.broker.subscribe(SERVICE, LogRequest(task_id=""))
    assert await read_all(subscription) == ["one"]
    assert subscription.reasons == [f"node {WORKER_ID} broke off the log of task task1, of which the last lines may be missing"]


@pytest.mark.parametrize("follow", [False, True])
async def test_a_log_that_cannot_be_read_is_told(store: Store, agents: Agents, service: Service, follow: bool) -> None:
    await put_task(store, "task1")

    def answer(node_id: str, message: OpenStream) -> None:
        publisher = agents.broker.accept(message.stream_id, node_id)
        assert publisher is not None
        publisher(LogPart(is_last=True, error=NOT_READABLE))
        publisher(None)

    agents._answer = answer  # type: ignore[method-assign]
    subscription = agents.broker.subscribe(LogSelector(task_id="task1"), LogRequest(task_id="", follow=follow))
    assert await asyncio.wait_for(read_all(subscription), 5) == []
    assert subscription.reasons == [f"the log of task task1 cannot be read: {NOT_READABLE}"]


async def test_agents_that_never_dial_are_waited_for_only_once(store: Store, agents: Agents, service: Service) -> None:
    clock = ManualClock()
    agents.broker = LogBroker(store, agents.send, clock)
    agents.dials = False
    for number in range(30):
        await put_task(store, f"task{number}")
    subscription = agents.broker.subscribe(SERVICE, LogRequest(task_id=""))
    reading = asyncio.ensure_future(read_all(subscription))
    await settle()
    began_s = clock.monotonic_s()
    await wait_until(reading.done, lambda: clock.advance(FOLLOW_PERIOD_S))
    assert clock.monotonic_s() - began_s <= DIAL_TIMEOUT_S + FOLLOW_PERIOD_S
    assert len(subscription.reasons) == 30


async def test_a_task_of_a_follower_whose_agent_does_not_dial_is_asked_again(
    store: Store, agents: Agents, service: Service
) -> None:
    clock = ManualClock()
    agents.broker = LogBroker(store, agents.send, clock)
    agents.dials = False
    await put_task(store, "task1")
    agents.lines = {"task1": [line("one"), line("two")]}
    follower = Follower(agents.broker, SERVICE, tail=1)
    await wait_until(lambda: len(agents.requests) == 1)
    agents.dials = True
    await wait_until(lambda: bool(follower.texts), lambda: clock.advance(FOLLOW_PERIOD_S))
    assert [request.tail for request in agents.requests] == [1, 1]
    await follower.stop()


async def test_thousands_of_tasks(store: Store, agents: Agents, service: Service) -> None:
    count = 3000
    status = TaskStatus(state=TaskState.RUNNING, container_id="c" * 64)

    def fill(tx: Any, first: int) -> None:
        for number in range(first, first + 500):
            node_id = WORKER_ID if number else "nosuch"
            tx.create(Task(id=f"t{number}", task_spec_id="spec1", service_id="service1", slot=1, node_id=node_id, status=status))

    for first in range(0, count, 500):
        await store.update(partial(fill, first=first))
    agents.lines = {f"t{number}": [line(f"{number} {turn}", turn * count + number) for turn in range(3)] for number in range(count)}
    subscription = agents.broker.subscribe(SERVICE, LogRequest(task_id=""))
    expected = [f"{number} {turn}" for turn in range(3) for number in range(1, count)]
    async with asyncio.timeout(20):
        assert await read_all(subscription) == expected
    assert subscription.reasons == ["node nosuch is not available"]
    assert {request.part_bytes for request in agents.requests} == {ALL_PARTS_BYTES // count}


@pytest.mark.parametrize("follow", [False, True])
async def test_long_lines_wait_at_their_agents_and_not_in_the_manager(
    store: Store, agents: Agents, service: Service, follow: bool
) -> None:
    await put_task(store, "task1")
    opened: list[LogPublisher] = []

    def answer(node_id: str, message: OpenStream) -> None:
        publisher = agents.broker.accept(message.stream_id, node_id)
        assert publisher is not None
        opened.append(publisher)

    agents._answer = answer  # type: ignore[method-assign]
    long = LogLine(stream=1, at_ns=1, line=b"x" * 1_000_000)
    sent = 0

    async def publish() -> None:
        nonlocal sent
        await wait_until(lambda: bool(opened))
        while sent < 50:
            await opened[0].publish(part(long))
            sent += 1
        opened[0](END)

    subscription = agents.broker.subscribe(SERVICE, LogRequest(task_id="", follow=follow))
    publishing = asyncio.ensure_future(publish())
    received = 0
    async with subscription:
        async for batch in subscription.batches():
            received += len(batch)
            assert len(batch) <= 2
            for _ in range(10):
                await settle()
            assert sent - received <= 3
            if received == 50:
                break
    await publishing
    assert received == 50


async def test_a_follower_remembers_no_tasks_that_are_gone(store: Store, agents: Agents, service: Service) -> None:
    clock = ManualClock()
    agents.broker = LogBroker(store, agents.send, clock)
    follower = Follower(agents.broker, SERVICE)
    for number in range(20):
        task_id = f"task{number}"
        agents.lines[task_id] = [line(task_id)]
        await put_task(store, task_id)
        await wait_until(lambda number=number: len(follower.texts) == number + 1, lambda: clock.advance(FOLLOW_PERIOD_S))  # type: ignore[misc]
        await store.update(lambda tx, task_id=task_id: tx.delete(Task, task_id))  # type: ignore[misc]
        agents.open[task_id](END)
        agents.open[task_id](None)
    await wait_until(lambda: len(follower.subscription._readings) <= 1, lambda: clock.advance(FOLLOW_PERIOD_S))
    assert len(follower.subscription._streams) <= 1
    await follower.stop()


def test_few_of_many_reasons_are_shown() -> None:
    text = incomplete_log([f"node{number} is not available" for number in range(1000)])
    assert "node49 is not available, and 950 more\n" in text
    assert "node50" not in text
