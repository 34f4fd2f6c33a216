"""Leaving the balancers before the stop signal, and leaving with a node: the real dispatcher with agents that do as told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
from fake_agents import FakeAgent

from pyswarm_common import wire
from pyswarm_common.clock import ManualClock
from pyswarm_common.objects import (
    Cluster,
    Network,
    NetworkAttachment,
    Node,
    NodeDescription,
    Service,
    Task,
    TaskSpec,
    TaskStatus,
    VirtualIP,
)
from pyswarm_common.specs import PortConfig
from pyswarm_common.task_states import TaskState
from pyswarm_manager.dispatcher.held_stops import LONGEST_HOLD_S
from pyswarm_manager.dispatcher.loop import GATHER_S, Dispatcher
from pyswarm_manager.store.memory import memory_store
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction

TEMPLATE = b'{"ContainerSpec":{"Image":"x"},"Networks":[{"Target":"net"}]}'
GATHERED_S = GATHER_S + 0.001
SHUTDOWN, RUNNING = TaskState.SHUTDOWN, TaskState.RUNNING


class Bench:
    """A leader with four nodes; t1 to t3 serve on the first three of them, all have an address on the ingress network."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.dispatcher = Dispatcher(store, clock, self._refuse)
        self.agents: dict[str, FakeAgent] = {}
        self._running: asyncio.Future[None] | None = None

    async def _refuse(self, address: str, timeout_s: float) -> bool:
        return False

    async def lead(self) -> None:
        """Begin to lead, or once more."""
        await self.stop_leading()
        self._running = asyncio.ensure_future(self.dispatcher.run())
        await self.clock.advance(GATHERED_S)

    async def stop_leading(self) -> None:
        """Lose the leadership."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def connect(self, node_id: str, versions: tuple[int, ...] = wire.PROTOCOL_VERSIONS) -> FakeAgent:
        """Let a node's agent dial."""
        agent = self.agents.setdefault(node_id, FakeAgent(self.dispatcher, node_id, versions))
        await agent.connect()
        return agent

    async def change(self, task_id: str, **changes: object) -> None:
        """Change a task, let the changes be gathered, and let all agents take what they are sent."""
        await self.store.update(lambda tx: tx.update(msgspec.structs.replace(tx.tasks.must_get(task_id), **changes)))
        await self.pass_time(GATHERED_S)

    async def pass_time(self, seconds: float) -> None:
        """Advance the clock; agents take what they are sent."""
        await self.clock.advance(seconds)
        for agent in self.agents.values():
            agent.take()

    def asked(self) -> list[str]:
        """Return the nodes that are to say what they have applied."""
        return [node_id for node_id, agent in self.agents.items() if agent.is_asked]


def seed(tx: Transaction) -> None:
    tx.create(Cluster(id="c"))
    tx.create(TaskSpec(id="spec", template_json=TEMPLATE))
    tx.create(Network(id="net", name="app", vni=4097, subnet="10.0.1.0/24", gateway="10.0.1.1"))
    tx.create(Network(id="ingress", name="ingress", spec_json=b'{"Ingress":true}', vni=4096, subnet="10.0.0.0/24"))
    vip, port = VirtualIP(network_id="net", address="10.0.1.2/24"), PortConfig(target_port=80, published_port=8080)
    tx.create(Service(id="svc", name="web", task_spec_id="spec", virtual_ips=(vip,), ports=(port,)))
    for number in range(1, 5):
        own = NetworkAttachment(network_id="ingress", address=f"10.0.0.{200 + number}/24")
        tx.create(Node(id=f"n{number}", attachments=(own,)))
    for number in range(1, 4):
        places = (f"net 10.0.1.{10 + number}/24", f"ingress 10.0.0.{10 + number}/24")
        attachments = tuple(NetworkAttachment(network_id=p.split()[0], address=p.split()[1]) for p in places)
        tx.create(
            Task(
                id=f"t{number}",
                task_spec_id="spec",
                service_id="svc",
                slot=number,
                node_id=f"n{number}",
                status=TaskStatus(state=RUNNING),
                attachments=attachments,
            )
        )


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = ManualClock()
    async with memory_store(clock) as store:
        await store.update(seed)
        bench = Bench(store, clock)
        await bench.lead()
        yield bench
        await bench.stop_leading()


@pytest.fixture
async def connected(bench: Bench) -> Bench:
    for number in range(1, 5):
        await bench.connect(f"n{number}")
    await bench.pass_time(1.0)
    return bench


async def test_a_task_is_told_to_stop_when_all_nodes_have_let_go_of_it(connected: Bench) -> None:
    await connected.change("t1", desired_state=SHUTDOWN)
    agents = connected.agents
    assert connected.asked() == ["n1", "n2", "n3", "n4"], "the last one balances for the routing mesh alone"
    for agent in agents.values():
        assert agent.backends("ingress", "svc") == ("10.0.0.12", "10.0.0.13")
    assert agents["n2"].backends("net", "svc") == ("10.0.1.12", "10.0.1.13")
    for node_id in ("n4", "n1", "n2"):
        await agents[node_id].answer()
        agents["n1"].take()
        assert agents["n1"].desired["t1"] is RUNNING
    await agents["n3"].answer()
    agents["n1"].take()
    assert agents["n1"].desired["t1"] is SHUTDOWN


async def test_nobody_is_asked_when_nobody_leaves(connected: Bench) -> None:
    await connected.change("t1", status=TaskStatus(state=RUNNING, error="unhealthy"))
    assert connected.agents["n2"].backends("net", "svc") == ("10.0.1.12", "10.0.1.13")
    assert connected.asked() == []
    await connected.change("t1", desired_state=SHUTDOWN)
    assert connected.asked() == []
    assert connected.agents["n1"].desired["t1"] is SHUTDOWN


async def test_the_tasks_of_a_removed_service_leave_too_though_their_views_changed_before(connected: Bench) -> None:
    await connected.store.update(lambda tx: tx.delete(Service, "svc"))
    await connected.pass_time(GATHERED_S)
    assert connected.agents["n2"].backends("net", "svc") == ()
    assert connected.asked() == []
    await connected.change("t1", desired_state=TaskState.REMOVE)
    assert connected.asked() == ["n1", "n2", "n3", "n4"]
    assert connected.agents["n1"].desired["t1"] is RUNNING
    for agent in connected.agents.values():
        await agent.answer()
    connected.agents["n1"].take()
    assert connected.agents["n1"].desired["t1"] is TaskState.REMOVE
    await connected.change("t2", desired_state=TaskState.REMOVE)
    assert connected.asked() == []
    assert connected.agents["n2"].desired["t2"] is TaskState.REMOVE, "all have said so already"


async def test_a_node_that_does_not_answer_is_not_waited_for_for_ever(connected: Bench) -> None:
    await connected.change("t1", desired_state=SHUTDOWN)
    for node_id in ("n1", "n2", "n3"):
        await connected.agents[node_id].answer()
    await connected.pass_time(LONGEST_HOLD_S - 2 * GATHERED_S)
    assert connected.agents["n1"].desired["t1"] is RUNNING
    await connected.pass_time(2 * GATHERED_S)
    assert connected.agents["n1"].desired["t1"] is SHUTDOWN
    await connected.agents["n4"].answer()
    await connected.pass_time(1.0)
    assert connected.agents["n1"].desired["t1"] is SHUTDOWN


async def test_a_node_whose_session_is_gone_is_not_waited_for(connected: Bench) -> None:
    await connected.change("t1", desired_state=SHUTDOWN)
    for node_id in ("n1", "n2", "n3"):
        await connected.agents[node_id].answer()
    connected.agents["n4"].hang_up()
    connected.agents["n1"].take()
    assert connected.agents["n1"].desired["t1"] is SHUTDOWN


async def test_a_node_that_dials_again_is_not_waited_for(connected: Bench) -> None:
    await connected.change("t1", desired_state=SHUTDOWN)
    for node_id in ("n1", "n2", "n3"):
        await connected.agents[node_id].answer()
    await connected.connect("n4")
    connected.agents["n1"].take()
    assert connected.agents["n1"].desired["t1"] is SHUTDOWN


async def test_a_node_that_dials_again_hears_of_its_held_task_as_the_others_do(connected: Bench) -> None:
    await connected.change("t1", desired_state=SHUTDOWN)
    agent = await connected.connect("n1")
    assert agent.desired["t1"] is RUNNING
    for node_id in ("n2", "n3", "n4"):
        await connected.agents[node_id].answer()
    agent.take()
    assert agent.desired["t1"] is SHUTDOWN


async def test_a_node_that_was_told_already_is_not_told_otherwise(connected: Bench) -> None:
    change = msgspec.structs.replace(connected.store.view.tasks.must_get("t1"), desired_state=SHUTDOWN)
    await connected.store.update(lambda tx: tx.update(change))
    agent = await connected.connect("n1")
    assert agent.desired["t1"] is SHUTDOWN, "a complete set says what is so, whether it was looked at or not"
    await connected.clock.advance(GATHERED_S)
    assert [t for m in agent.take() if isinstance(m, wire.Assignments) for t in m.tasks] == []
    assert connected.asked() == []


async def test_older_agents_do_not_answer_and_are_not_waited_for(bench: Bench) -> None:
    await bench.connect("n1")
    older = await bench.connect("n2", versions=(1,))
    welcome = await _welcome_of(bench, "n3", versions=(1,))
    assert welcome.protocol_version == 1
    await bench.pass_time(1.0)
    await bench.change("t1", desired_state=SHUTDOWN)
    assert bench.asked() == ["n1"]
    assert older.backends("net", "svc") == ("10.0.1.12", "10.0.1.13")
    await bench.agents["n1"].answer()
    bench.agents["n1"].take()
    assert bench.agents["n1"].desired["t1"] is SHUTDOWN


async def _welcome_of(bench: Bench, node_id: str, versions: tuple[int, ...]) -> wire.Welcome:
    hello = wire.Hello(protocol_versions=versions, description=NodeDescription(hostname=node_id))
    session = await bench.dispatcher.open_session(node_id, hello)
    welcome = session.outgoing.get_nowait()
    assert isinstance(welcome, wire.Welcome)
    return welcome


async def test_a_leader_that_comes_back_holds_nothing(connected: Bench) -> None:
    await connected.change("t1", desired_state=SHUTDOWN)
    await connected.lead()
    for agent in connected.agents.values():
        agent.take()
        assert agent.is_over
    connected.agents.clear()
    agent = await connected.connect("n1")
    assert agent.desired["t1"] is SHUTDOWN
    await connected.connect("n2")
    await connected.change("t2", desired_state=SHUTDOWN)
    assert connected.asked() == ["n1", "n2"]
    for node_id in ("n1", "n2"):
        await connected.agents[node_id].answer()
    connected.agents["n2"].take()
    assert connected.agents["n2"].desired["t2"] is SHUTDOWN


async def test_a_held_task_that_ends_by_itself_or_is_deleted_troubles_nobody(connected: Bench) -> None:
    for task_id in ("t1", "t2"):
        await connected.change(task_id, desired_state=SHUTDOWN)
    await connected.change("t1", status=TaskStatus(state=TaskState.FAILED))
    await connected.store.update(lambda tx: tx.delete(Task, "t2"))
    await connected.pass_time(GATHERED_S)
    assert connected.agents["n2"].desired == {}
    await connected.pass_time(1.0)
    assert connected.agents["n1"].desired["t1"] is SHUTDOWN


async def test_tasks_that_leave_together_ask_each_node_once(connected: Bench) -> None:
    def stop_all(tx: Transaction) -> None:
        for task in list(tx.tasks):
            tx.update(msgspec.structs.replace(task, desired_state=SHUTDOWN))

    for agent in connected.agents.values():
        agent.take()
    await connected.store.update(stop_all)
    await connected.clock.advance(GATHERED_S)
    asked = {node_id: [m for m in agent.take() if isinstance(m, wire.Assignments)] for node_id, agent in connected.agents.items()}
    assert {node_id: [m.is_answer_awaited for m in messages] for node_id, messages in asked.items()} == {
        f"n{number}": [True] for number in range(1, 5)
    }
    for agent in connected.agents.values():
        await agent.answer()
    await connected.pass_time(0)
    for number in range(1, 4):
        assert connected.agents[f"n{number}"].desired == {f"t{number}": SHUTDOWN}


async def test_a_node_that_is_down_vanishes_from_all_views_within_the_gathering_of_changes(connected: Bench) -> None:
    began_s = connected.clock.monotonic_s()
    found_s = connected.clock.monotonic_s()
    while connected.store.view.nodes.must_get("n3").status.state != "down":
        for node_id in ("n1", "n2", "n4"):
            connected.dispatcher.heard(connected.agents[node_id].session)
        await connected.clock.advance(0.01)
        assert connected.clock.monotonic_s() < began_s + 10.0
        found_s = connected.clock.monotonic_s()
    connected.agents.pop("n3")
    await connected.pass_time(found_s + GATHERED_S - connected.clock.monotonic_s())
    for agent in connected.agents.values():
        assert sorted(agent.views["ingress"].gateways) == ["n1", "n2", "n4"]
        assert agent.backends("ingress", "svc") == ("10.0.0.11", "10.0.0.12")
        assert "t3" not in agent.views["ingress"].endpoints
    assert sorted(connected.agents["n1"].views["net"].endpoints) == ["t1", "t2"]


async def test_a_node_that_was_given_an_address_gets_the_ingress_view_at_once(connected: Bench) -> None:
    await connected.store.update(lambda tx: tx.create(Node(id="n5")))
    agent = await connected.connect("n5")
    assert agent.views == {}
    own = NetworkAttachment(network_id="ingress", address="10.0.0.205/24")
    await connected.store.update(lambda tx: tx.update(msgspec.structs.replace(tx.nodes.must_get("n5"), attachments=(own,))))
    await connected.pass_time(GATHERED_S)
    assert agent.views["ingress"].gateways["n5"].data_path_address == "192.0.2.5"
    assert agent.views == {"ingress": connected.agents["n4"].views["ingress"]}
