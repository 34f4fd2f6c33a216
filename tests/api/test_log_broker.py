"""Logs from agents (scripted ones) through the broker and the API to a reader."""

import asyncio

import httpx
import msgspec
from api_server import MANAGER_ID, WORKER_ID
from scripted_agents import END, SERVICE, Agents, Follower, frames, line, part, put_task, settle, wait_until
from test_docker_clients import DockerCLI

from pyswarm_common.clock import ManualClock
from pyswarm_common.objects import Service, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import LogRequest, OpenStream
from pyswarm_manager.log_broker import (
    DIAL_TIMEOUT_S,
    FOLLOW_PERIOD_S,
    LogBroker,
    LogSelector,
)
from pyswarm_manager.store.store import Store


async def test_lines_of_all_tasks_merge_by_time(client: httpx.AsyncClient, store: Store, agents: Agents, service: Service) -> None:
    await put_task(store, "task1", MANAGER_ID)
    await put_task(store, "task2", WORKER_ID)
    agents.lines = {
        "task1": [line("a", 0), line("c", 20), line("e", 40, stream=2)],
        "task2": [line("b", 10), line("d", 30)],
    }
    answer = await client.get("/services/web/logs", params={"stdout": "1", "stderr": "1"})
    assert answer.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    assert frames(answer.content) == [(1, b"a\n"), (1, b"b\n"), (1, b"c\n"), (1, b"d\n"), (2, b"e\n")]


async def test_details_and_timestamps_stand_where_the_cli_looks(
    client: httpx.AsyncClient, store: Store, agents: Agents, service: Service
) -> None:
    await put_task(store, "task1", MANAGER_ID)
    agents.lines = {"task1": [line("hello")]}
    details = f"com.docker.swarm.node.id={MANAGER_ID},com.docker.swarm.service.id=service1,com.docker.swarm.task.id=task1"
    parameters = {"stdout": "1", "details": "1"}
    answer = await client.get("/services/web/logs", params=parameters)
    assert frames(answer.content) == [(1, f"{details} hello\n".encode())]
    answer = await client.get("/tasks/task1/logs", params={**parameters, "timestamps": "1"})
    assert frames(answer.content) == [(1, f"2026-11-21T01:56:02.906615127Z {details} hello\n".encode())]


async def test_options_reach_the_agent(client: httpx.AsyncClient, store: Store, agents: Agents, service: Service) -> None:
    await put_task(store, "task1")
    await client.get("/services/web/logs", params={"stderr": "1", "tail": "7", "since": "12.5", "until": "2026-11-21T01:55:08Z"})
    assert agents.requests == [
        LogRequest(
            task_id="task1",
            stdout=False,
            stderr=True,
            tail=7,
            since_ns=12_500_000_000,
            until_ns=1_795_226_108_000_000_000,
        )
    ]


async def test_a_stream_must_be_chosen(client: httpx.AsyncClient, agents: Agents, service: Service) -> None:
    answer = await client.get("/services/web/logs")
    assert (answer.status_code, answer.json()) == (400, {"message": "Bad parameters: you must choose at least one stream"})


async def test_terminals_give_a_raw_stream(client: httpx.AsyncClient, store: Store, agents: Agents, service: Service) -> None:
    spec = store.view.task_specs.must_get("spec1")
    tty = msgspec.structs.replace(spec, template_json=b'{"ContainerSpec":{"TTY":true}}')
    await store.update(lambda tx: tx.update(tty))
    await put_task(store, "task1")
    agents.lines = {"task1": [line("hello")]}
    answer = await client.get("/services/web/logs", params={"stdout": "1"})
    assert (answer.headers["content-type"], answer.content) == ("application/vnd.docker.raw-stream", b"hello\n")


async def test_what_is_missing_is_said_at_the_end(
    client: httpx.AsyncClient, store: Store, agents: Agents, service: Service
) -> None:
    agents.online = {MANAGER_ID}
    agents.lines = {"task1": [line("hello")]}
    await put_task(store, "task1", MANAGER_ID)
    await put_task(store, "task2", WORKER_ID)
    await put_task(store, "task3", "", TaskState.PENDING)
    await put_task(store, "task4", MANAGER_ID, TaskState.PREPARING)
    await put_task(store, "task5", MANAGER_ID, TaskState.ASSIGNED)
    await store.update(
        lambda tx: tx.update(msgspec.structs.replace(tx.tasks.must_get("task5"), status=TaskStatus(state=TaskState.REJECTED)))
    )
    answer = await client.get("/services/web/logs", params={"stdout": "1"})
    assert frames(answer.content) == [
        (1, b"hello\n"),
        (
            3,
            b"Error grabbing logs: rpc error: code = Unknown desc = warning: incomplete log stream. some logs could not be "
            b"retrieved for the following reasons: "
            + f"node {WORKER_ID} is not available, task task3 has not been scheduled, task task4 has not been started\n".encode(),
        ),
    ]


async def test_agent_that_never_dials_is_given_up(store: Store, agents: Agents, service: Service) -> None:
    clock = ManualClock()
    agents.broker = LogBroker(store, agents.send, clock)
    agents.dials = False
    await put_task(store, "task1")
    async with agents.broker.subscribe(SERVICE, LogRequest(task_id="")) as subscription:
        reading = asyncio.ensure_future(anext(aiter(subscription), None))
        await settle()
        assert not reading.done()
        await clock.advance(DIAL_TIMEOUT_S)
        assert await reading is None
        assert subscription.reasons == [f"node {WORKER_ID} did not send the log of task task1"]


async def test_streams_are_for_those_who_were_asked(store: Store, agents: Agents, service: Service) -> None:
    sent: list[OpenStream] = []
    broker = LogBroker(store, lambda _, message: sent.append(message) or True, ManualClock())
    await put_task(store, "task1", WORKER_ID)
    async with broker.subscribe(SERVICE, LogRequest(task_id="")) as subscription:
        reading = asyncio.ensure_future(anext(aiter(subscription)))
        await settle()
        stream_id = sent[0].stream_id
        assert broker.accept("nosuch") is None
        assert broker.accept(stream_id, MANAGER_ID) is None
        publisher = broker.accept(stream_id, WORKER_ID)
        assert publisher is not None
        assert broker.accept(stream_id, WORKER_ID) is None
        assert await publisher.publish(part(line("x")))
        assert (await reading).line == line("x")
    assert not await publisher.publish(part(line("y")))
    await publisher.wait_reader_gone()
    assert broker.accept(stream_id, WORKER_ID) is None


async def test_publishers_wait_for_a_slow_reader(store: Store, agents: Agents, service: Service) -> None:
    await put_task(store, "task1")
    async with agents.broker.subscribe(SERVICE, LogRequest(task_id="", follow=True)) as subscription:
        messages = aiter(subscription)
        first = asyncio.ensure_future(anext(messages))
        await settle()
        publisher = agents.open["task1"]
        for number in range(600):
            publisher(part(line(str(number))))
        waiting = asyncio.ensure_future(publisher.publish(part(line("last"))))
        await first
        await settle()
        assert not waiting.done()
        texts = [(await anext(messages)).line.line for _ in range(600)]
        assert await waiting
        assert texts[-1] == b"last\n"


async def test_follower_hears_of_tasks_that_start_later(store: Store, agents: Agents, service: Service) -> None:
    await put_task(store, "task1")
    await put_task(store, "task2", "", TaskState.PENDING)
    agents.lines = {"task1": [line("old")], "task2": [line("first of the new")]}
    follower = Follower(agents.broker, SERVICE, tail=1)
    await wait_until(lambda: follower.texts == ["old"])
    agents.open["task1"](part(line("more")))
    await put_task(store, "task2", MANAGER_ID)
    await wait_until(lambda: follower.texts == ["old", "more", "first of the new"])
    assert [(request.task_id, request.tail) for request in agents.requests] == [("task1", 1), ("task2", -1)]
    await store.update(lambda tx: tx.delete(Service, "service1"))
    for task_id in ("task1", "task2"):
        agents.open[task_id](END)
        agents.open[task_id](None)
    await wait_until(follower.reading.done)
    assert follower.subscription.reasons == []


async def test_broken_stream_goes_on_after_its_last_line(store: Store, agents: Agents, service: Service) -> None:
    clock = ManualClock()
    agents.broker = LogBroker(store, agents.send, clock)
    await put_task(store, "task1")
    agents.lines = {"task1": [line("one", 0), line("two", 5)]}
    follower = Follower(agents.broker, SERVICE)
    await wait_until(lambda: follower.texts == ["one", "two"])
    agents.lines["task1"].append(line("three", 9))
    agents.open["task1"](None)
    await wait_until(lambda: len(follower.texts) == 3, lambda: clock.advance(FOLLOW_PERIOD_S))
    assert follower.texts == ["one", "two", "three"]
    assert [request.after for request in agents.requests] == ["", "2"]
    await follower.stop()


async def test_following_one_task_ends_with_it(store: Store, agents: Agents, service: Service) -> None:
    await put_task(store, "task1")
    agents.lines = {"task1": [line("hello")]}
    follower = Follower(agents.broker, LogSelector(task_id="task1"))
    await wait_until(lambda: follower.texts == ["hello"])
    await put_task(store, "task1", state=TaskState.COMPLETE)
    assert not follower.reading.done()
    agents.open["task1"](END)
    agents.open["task1"](None)
    await wait_until(follower.reading.done)


async def test_idle_log_answers_at_once_and_ends_with_its_client(
    api_socket: str, store: Store, agents: Agents, service: Service
) -> None:
    await put_task(store, "task1")
    transport = httpx.AsyncHTTPTransport(uds=api_socket)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://docker") as client,
        client.stream("GET", "/services/web/logs", params={"stdout": "1", "follow": "1"}) as answer,
    ):
        assert answer.status_code == 200
        await wait_until(lambda: "task1" in agents.open)
        agents.open["task1"](part(line("hello")))
        assert frames(await anext(answer.aiter_raw())) == [(1, b"hello\n")]
    await asyncio.wait_for(agents.open["task1"].wait_reader_gone(), 5)


async def test_cli_names_task_and_node_of_each_line(api_socket: str, store: Store, agents: Agents, service: Service) -> None:
    await put_task(store, "task1", MANAGER_ID)
    await put_task(store, "task2", "", TaskState.PENDING)
    agents.lines = {"task1": [line("hello"), line("trouble", 1, stream=2)]}
    code, output, errors = await DockerCLI(api_socket).run("service", "logs", "--timestamps", "web")
    assert output == "2026-11-21T01:56:02.906615127Z web.1.task1@vm    | hello\n"
    assert "web.1.task1@vm    | trouble" in errors
    assert "warning: incomplete log stream" in errors
    assert "task task2 has not been scheduled" in errors
    assert code != 0
