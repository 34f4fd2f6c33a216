"""Secrets and configs on their way to the nodes: who gets which, when, and in messages of what size."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_common import wire
from pyswarm_common.clock import ManualClock
from pyswarm_common.objects import Cluster, Config, Node, NodeDescription, Secret, Service, Task, TaskSpec, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.dispatcher.contents import CONTENT_BYTES_PER_MESSAGE, split_contents
from pyswarm_manager.dispatcher.loop import Dispatcher
from pyswarm_manager.dispatcher.sessions import Session
from pyswarm_manager.store.memory import memory_store
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction

HELLO = wire.Hello(protocol_versions=(1,), description=NodeDescription(hostname="h"))
BIG = 700_000


def task_spec(spec_id: str, secrets: tuple[str, ...] = (), configs: tuple[str, ...] = ()) -> TaskSpec:
    container = {
        "Image": "x",
        "Secrets": [{"SecretID": i, "SecretName": i, "File": {"Name": i}} for i in secrets],
        "Configs": [{"ConfigID": i, "ConfigName": i, "File": {"Name": i}} for i in configs],
    }
    return TaskSpec(id=spec_id, template_json=msgspec.json.encode({"ContainerSpec": container}))


class Bench:
    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.dispatcher = Dispatcher(store, clock)

    async def assign(self, task_id: str, spec_id: str, node_id: str = "n1") -> None:
        status = TaskStatus(state=TaskState.ASSIGNED)
        task = Task(id=task_id, task_spec_id=spec_id, service_id="svc", slot=1, node_id=node_id, status=status)
        await self.store.update(lambda tx: tx.create(task))
        await self.clock.advance(0.1)

    async def change(self, task_id: str, **changes: Any) -> None:
        task = self.store.view.tasks.must_get(task_id)
        await self.store.update(lambda tx: tx.update(msgspec.structs.replace(task, **changes)))
        await self.clock.advance(0.1)

    async def session(self, node_id: str = "n1") -> Session:
        return await self.dispatcher.open_session(node_id, HELLO)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = ManualClock()
    async with memory_store(clock) as store:

        def seed(tx: Transaction) -> None:
            for item in (Cluster(id="c"), Node(id="n1"), Node(id="n2"), Service(id="svc", name="web", task_spec_id="plain")):
                tx.create(item)  # type: ignore[type-var]
            for name in ("s1", "s2"):
                tx.create(Secret(id=name, name=name, data=name.encode()))
            tx.create(Config(id="c1", name="c1", data=b"{{.Task.ID}}", spec_json=b'{"Templating":{"Name":"golang"}}'))
            for spec in (task_spec("plain"), task_spec("one", ("s1",)), task_spec("all", ("s1", "s2"), ("c1",))):
                tx.create(spec)

        await store.update(seed)
        bench = Bench(store, clock)
        running = asyncio.ensure_future(bench.dispatcher.run())
        await clock.advance(0.1)
        yield bench
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def sent(session: Session) -> list[wire.Assignments]:
    messages = []
    while not session.outgoing.empty():
        message = session.outgoing.get_nowait()
        if isinstance(message, wire.Assignments):
            messages.append(message)
    return messages


async def test_only_a_node_whose_tasks_name_them_gets_them(bench: Bench) -> None:
    first, second = await bench.session("n1"), await bench.session("n2")
    await bench.assign("t1", "all", "n1")
    await bench.assign("t2", "plain", "n2")
    *_, message = sent(first)
    assert message.contents == {
        "s1": wire.FileContent(data=b"s1"),
        "s2": wire.FileContent(data=b"s2"),
        "c1": wire.FileContent(data=b"{{.Task.ID}}", is_template=True),
    }
    assert [task.task_id for task in message.tasks] == ["t1"]
    assert all(not message.contents for message in sent(second))


@pytest.mark.parametrize(
    ("secret", "config", "labels"),
    [
        (b"x", b"x", {}),
        (b"x", b'{{index .Service.Labels "a"}}', {"a": "b"}),
        (b"{{.Service.Labels.a}}", b"x", {"a": "b"}),
    ],
)
async def test_labels_that_they_have_placeholders_for_travel_too(
    bench: Bench, secret: bytes, config: bytes, labels: dict[str, str]
) -> None:
    templated = b'{"Templating":{"Name":"golang"}}'

    def seed(tx: Transaction) -> None:
        service = tx.services.must_get("svc")
        tx.update(msgspec.structs.replace(service, spec_json=b'{"Name":"web","Labels":{"a":"b"}}'))
        tx.create(Secret(id="s3", name="s3", data=secret, spec_json=templated))
        tx.create(Secret(id="s4", name="s4", data=b"{{.Service.Labels}}"))  # no template
        tx.create(Config(id="c3", name="c3", data=config, spec_json=templated))
        tx.create(task_spec("labels", ("s3", "s4"), ("c3",)))

    await bench.store.update(seed)
    session = await bench.session()
    await bench.assign("t1", "labels")
    *_, message = sent(session)
    assert [task.service_labels for task in message.tasks] == [labels]


async def test_they_are_sent_once_and_then_what_is_new(bench: Bench) -> None:
    session = await bench.session()
    await bench.assign("t1", "one")
    await bench.assign("t2", "one")
    await bench.assign("t3", "all")
    assert [set(message.contents) for message in sent(session)] == [set(), {"s1"}, set(), {"s2", "c1"}]


@pytest.mark.parametrize(
    "end",
    [
        {"status": TaskStatus(state=TaskState.FAILED)},
        {"status": TaskStatus(state=TaskState.COMPLETE)},
        {"desired_state": TaskState.SHUTDOWN},
    ],
)
async def test_they_are_taken_back_with_the_last_task_that_needs_them(bench: Bench, end: dict[str, Any]) -> None:
    session = await bench.session()
    await bench.assign("t1", "one")
    await bench.assign("t2", "all")
    sent(session)
    await bench.change("t2", **end)
    assert [message.removed_contents for message in sent(session)] == [("c1", "s2")]
    await bench.store.update(lambda tx: tx.delete(Task, "t1"))
    await bench.clock.advance(0.1)
    assert [message.removed_contents for message in sent(session)] == [("s1",)]
    await bench.assign("t3", "all")
    assert [set(message.contents) for message in sent(session)] == [{"s1", "s2", "c1"}]


async def test_a_complete_set_brings_what_living_tasks_need(bench: Bench) -> None:
    await bench.assign("t1", "one")
    await bench.assign("t2", "all")
    await bench.change("t2", status=TaskStatus(state=TaskState.FAILED))
    await bench.change("t1", status=TaskStatus(state=TaskState.RUNNING))
    (message,) = sent(await bench.session())
    assert (message.is_complete, set(message.contents), len(message.tasks)) == (True, {"s1"}, 2)


async def test_one_that_is_gone_is_not_sent(bench: Bench) -> None:
    await bench.store.update(lambda tx: tx.delete(Secret, "s2"))
    session = await bench.session()
    await bench.assign("t1", "all")
    assert set(sent(session)[-1].contents) == {"s1", "c1"}


async def test_large_ones_travel_ahead_of_the_tasks(bench: Bench) -> None:
    names = [f"big{number}" for number in range(5)]
    for name in names:
        await bench.store.update(lambda tx, name=name: tx.create(Config(id=name, name=name, data=bytes(BIG))))  # type: ignore[misc]
    await bench.store.update(lambda tx: tx.create(task_spec("big", configs=tuple(names))))
    await bench.assign("t1", "big")
    messages = sent(await bench.session())
    assert [list(message.contents) for message in messages] == [[name] for name in names]
    assert [message.is_complete for message in messages] == [False] * 4 + [True]
    assert [len(message.tasks) for message in messages] == [0] * 4 + [1]
    assert max(len(wire.encode(message)) for message in messages) < CONTENT_BYTES_PER_MESSAGE


@given(st.lists(st.integers(0, 3 * CONTENT_BYTES_PER_MESSAGE // 2), max_size=12))
def test_split_messages_carry_the_same_in_small_parts(sizes: list[int]) -> None:
    contents = {f"c{number}": wire.FileContent(data=bytes(size)) for number, size in enumerate(sizes)}
    message = wire.Assignments(is_complete=True, removed_tasks=("t",), contents=contents)
    parts = list(split_contents(message))
    assert {key: value for part in parts for key, value in part.contents.items()} == contents
    assert all(
        len(part.contents) == 1 or sum(len(c.data) for c in part.contents.values()) <= CONTENT_BYTES_PER_MESSAGE for part in parts
    )
    assert [part.is_complete for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].removed_tasks == ("t",)


def test_no_text_form_of_a_message_shows_them() -> None:
    message = wire.Assignments(is_complete=True, contents={"s1": wire.FileContent(data=b"open sesame")})
    assert "sesame" not in repr(message)
    assert wire.decode_manager_message(wire.encode(message)) == message
