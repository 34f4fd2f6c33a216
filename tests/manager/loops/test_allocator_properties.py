"""Sentences about addresses, VXLAN ids and ports that hold whatever operators, agents and managers do.

Two managers on one log: they take turns in leading, remember nothing of each other, lose answers, and allocate while others write.
"""

import asyncio
import contextlib
import ipaddress
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_world import node

from pyswarm_common.attachment_messages import AttachRequest, DetachRequest
from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import NotFound, PyswarmError
from pyswarm_common.objects import Cluster, Network, Node, Service, Task, TaskStatus
from pyswarm_common.specs import NetworkSpec
from pyswarm_common.task_states import TaskState
from pyswarm_manager.allocator.decide import NODES, decide, last_addresses
from pyswarm_manager.allocator.ipam import parse_address
from pyswarm_manager.allocator.subnets import given_subnets, subnets_of
from pyswarm_manager.api import service_changes
from pyswarm_manager.api.network_pools import check_pools
from pyswarm_manager.api.networks import add_network, remove_network
from pyswarm_manager.api.port_validation import validate_endpoint
from pyswarm_manager.api.service_spec import draft_service
from pyswarm_manager.decisions import Decisions
from pyswarm_manager.network_attachments import NetworkAttachments
from pyswarm_manager.store.memory import LostAnswer, MemoryBackend, MemoryCluster
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.tables import View
from pyswarm_manager.store.transaction import Transaction

POOL, PREFIX_LENGTH = "10.0.0.0/24", 28
OWN_SUBNETS = ("10.0.0.64/29", "10.9.0.0/29", "10.9.0.8/29", "10.9.0.0/24")
FIXED = ("10.9.0.2-10.9.0.4", "10.9.0.3", "10.0.0.18+10.0.0.20")
ACTIONS = (
    *("network", "ingress", "remove_network", "service", "update_service", "remove_service"),
    *("tasks", "tasks", "tasks", "run", "end", "delete_task", "join", "leave", "attach", "detach"),
    *("allocate", "allocate", "allocate", "forget", "elect", "elect_meanwhile", "lose_answer", "all_at_once"),
)


class Step(NamedTuple):
    """One thing that happens; what exactly follows from the numbers."""

    action: str
    one: int
    two: int


steps = st.lists(st.builds(Step, st.sampled_from(ACTIONS), st.integers(0, 11), st.integers(0, 11)), max_size=30)
BEGINNING = [
    *(Step("network", 1, 3), Step("network", 2, 0), Step("network", 1, 1), Step("ingress", 1, 0), Step("join", 3, 0)),
    *(Step("allocate", 1, 1), Step("service", 0, 5), Step("service", 1, 7), Step("service", 0, 11), Step("tasks", 0, 6)),
]
"""So that there is something to be given."""


class Managers:
    """Two managers on one log, of which one leads; operators and agents speak to that one."""

    def __init__(self, log: MemoryCluster, clock: ManualClock, stores: list[Store]) -> None:
        self.log, self.clock, self.stores = log, clock, stores
        self.leader = stores[0]
        self.attachments = [NetworkAttachments(store, clock) for store in stores]
        self.last_given: dict[str, int] = {}
        self._numbers = itertools.count(1)

    async def act(self, step: Step) -> None:
        """Do what a step says; what the managers refuse is not done."""
        with contextlib.suppress(PyswarmError):
            await self.in_time(getattr(self, f"_{step.action}")(step.one, step.two))

    async def in_time(self, doing: Coroutine[Any, Any, None]) -> None:
        """Let time pass until it is done."""
        task = asyncio.ensure_future(doing)
        for _ in range(300):
            for _ in range(20):
                await asyncio.sleep(0)
            if task.done():
                return await task
            await self.clock.advance(0.1)
        task.cancel()
        raise AssertionError("it does not come to an end")

    async def allocate(self, store: Store, limit: int | None = None, keys: list[str] | None = None) -> None:
        """Do what the allocator's loop does."""

        def change(tx: Transaction) -> Decisions:
            decisions = decide(tx, tx.now_ns, limit, service_ids=keys, last_given=self.last_given)
            decisions.apply_to(tx)
            return decisions

        self.last_given |= last_addresses(await store.update(change))

    async def lead(self, number: int) -> None:
        """Let this manager lead, which remembers nothing of what the other one gave."""
        if self.stores[number] is self.leader:
            return
        self.leader, self.last_given = self.stores[number], {}
        self.log.elect(number + 1)
        for _ in range(200):
            if self.leader.is_leader:
                return
            await self.clock.advance(0.1)
        raise AssertionError("nobody leads")

    def _pick(self, items: Any, number: int) -> Any:
        found = sorted(items, key=lambda item: item.id)
        if not found:
            raise NotFound("there is none")
        return found[number % len(found)]

    def _next(self, noun: str) -> str:
        return f"{noun}{next(self._numbers):04}".ljust(25, "0")

    async def _network(self, one: int, two: int) -> None:
        config = [{"Subnet": OWN_SUBNETS[two % 4]}] if one % 2 else []
        options = {"com.docker.network.driver.overlay.vxlanid_list": "4097,4099"} if one % 5 == 0 else {}
        await self._create_network({"IPAM": {"Config": config}, "Options": options, "EnableIPv6": one % 3 == 0, "Attachable": True})

    async def _ingress(self, one: int, two: int) -> None:
        await self._create_network({"Ingress": True, "IPAM": {"Config": [{"Subnet": "10.7.0.0/28"}] if one % 3 == 0 else []}})

    async def _create_network(self, more: dict[str, Any]) -> None:
        network_id = self._next("net")
        body = {"Name": network_id, "Driver": "overlay", **more}
        check_pools(msgspec.convert(body, NetworkSpec))
        network = Network(id=network_id, name=network_id, spec_json=msgspec.json.encode(body))
        await self.leader.update(lambda tx: add_network(tx, network))

    async def _remove_network(self, one: int, two: int) -> None:
        network_id = self._pick(self.leader.view.networks, one).id
        await self.leader.update(lambda tx: remove_network(tx, network_id))

    def _spec(self, name: str, one: int, two: int) -> Any:
        networks = sorted((n for n in self.leader.view.networks if not n.spec.ingress), key=lambda n: n.id)
        chosen = networks[one % 3 : one % 3 + two % 3]
        options = {"pyswarm.addresses": FIXED[one % 3]} if two % 4 == 3 else {}
        mesh = [{"TargetPort": 80 + n, "PublishedPort": (0, 30000, 30001, 8080)[(one + n) % 4]} for n in range(two % 3)]
        draft = draft_service(
            {
                "Name": name,
                "TaskTemplate": {
                    "ContainerSpec": {"Image": "image"},
                    "Networks": [{"Target": n.id, "DriverOpts": options} for n in chosen],
                },
                "EndpointSpec": {"Ports": [*mesh, {"TargetPort": 9, "PublishedPort": 30002, "PublishMode": "host"}][: two % 5]},
            }
        )
        validate_endpoint(draft.typed)
        return draft

    async def _service(self, one: int, two: int) -> None:
        service_id, spec_id = self._next("svc"), self._next("spec")
        draft = self._spec(service_id, one, two)
        await self.leader.update(lambda tx: service_changes.create_service(tx, service_id, spec_id, draft, ""))

    async def _update_service(self, one: int, two: int) -> None:
        service = self._pick(self.leader.view.services, one)
        draft = self._spec(service.name, two, one)
        update = service_changes.ServiceUpdate(draft, self.leader.version_index(service), self._next("spec"))
        await self.leader.update(lambda tx: service_changes.update_service(tx, service.id, update))

    async def _remove_service(self, one: int, two: int) -> None:
        service_id = self._pick(self.leader.view.services, one).id
        await self.leader.update(lambda tx: tx.delete(Service, service_id))

    async def _tasks(self, one: int, two: int) -> None:
        """As the orchestrator does: tasks of the service's present task spec."""
        service = self._pick(self.leader.view.services, one)
        tasks = [
            Task(id=self._next("task"), service_id=service.id, task_spec_id=service.task_spec_id, slot=slot + 1)
            for slot in range(two % 7)
        ]
        await self.leader.update(lambda tx: [tx.create(task) for task in tasks])

    async def _set_state(self, number: int, state: TaskState, are: Callable[[Task], bool]) -> None:
        tasks = [task for task in self.leader.view.tasks if are(task)]
        task, nodes = self._pick(tasks, number), sorted(n.id for n in self.leader.view.nodes)
        node_id = task.node_id or (nodes[number % len(nodes)] if nodes else "")
        changed = msgspec.structs.replace(task, status=TaskStatus(state=state), node_id=node_id)
        await self.leader.update(lambda tx: tx.update(changed))

    async def _run(self, one: int, two: int) -> None:
        await self._set_state(one, TaskState.RUNNING, lambda t: t.status.state is TaskState.PENDING)

    async def _end(self, one: int, two: int) -> None:
        await self._set_state(one, TaskState.FAILED, lambda t: not t.is_terminal and not t.attached_container_id)

    async def _delete_task(self, one: int, two: int) -> None:
        task_id = self._pick([t for t in self.leader.view.tasks if t.is_terminal], one).id
        await self.leader.update(lambda tx: tx.delete(Task, task_id))

    async def _join(self, one: int, two: int) -> None:
        joining = [node(self._next("node")) for _ in range(1 + one % 4)]
        await self.leader.update(lambda tx: [tx.create(one) for one in joining])

    async def _leave(self, one: int, two: int) -> None:
        node_id = self._pick(self.leader.view.nodes, one).id
        await self.leader.update(lambda tx: tx.delete(Node, node_id))

    async def _attach(self, one: int, two: int) -> None:
        network, own = self._pick([n for n in self.leader.view.networks if n.vni], one), self._pick(self.leader.view.nodes, two)
        mac = f"02:00:00:00:00:0{one % 3}" if two % 3 == 0 else ""
        address = "10.9.0.3" if two % 5 == 0 else ""
        request = AttachRequest(attachment_id=self._next("att"), container_id="c", network=network.id, address=address, mac=mac)
        await self.attachments[self.stores.index(self.leader)].attach(own.id, request)

    async def _detach(self, one: int, two: int) -> None:
        task = self._pick([t for t in self.leader.view.tasks if t.attached_container_id], one)
        request = DetachRequest(attachment_ids=(task.id,))
        await self.attachments[self.stores.index(self.leader)].detach(task.node_id, request)

    async def _allocate(self, one: int, two: int) -> None:
        some = [service.id for service in self.leader.view.services][one : one + 3]
        await self.allocate(self.leader, None if one % 2 else 2 + two, None if two % 2 else [NODES, *some])

    async def _forget(self, one: int, two: int) -> None:
        self.last_given = {}

    async def _elect(self, one: int, two: int) -> None:
        await self.lead(1 - self.stores.index(self.leader))

    async def _elect_meanwhile(self, one: int, two: int) -> None:
        """The old leader allocates on what it knows while the new one does so already."""
        old = asyncio.ensure_future(self.allocate(self.leader))
        for _ in range(one):
            await asyncio.sleep(0)
        await self._elect(one, two)
        await self.allocate(self.leader)
        with contextlib.suppress(PyswarmError):
            await old

    async def _lose_answer(self, one: int, two: int) -> None:
        self.log.lost_answers.append(list(LostAnswer)[one % 3])
        await self.allocate(self.leader)

    async def _all_at_once(self, one: int, two: int) -> None:
        acts = [self._service, self._attach, self._tasks, self._allocate, self._service, self._allocate, self._network]
        await asyncio.gather(*(act(one + n, two + n) for n, act in enumerate(acts)), return_exceptions=True)


def holders(view: View, network_id: str) -> Iterator[tuple[str, str, str]]:
    """Address, MAC address and holder of everything that has a place on a network now."""
    for service in view.services:
        yield from ((vip.address, "", service.id) for vip in service.virtual_ips if vip.network_id == network_id)
    for one in view.nodes:
        yield from ((a.address, a.mac, one.id) for a in one.attachments if a.network_id == network_id)
    for task in view.tasks:
        if not task.is_terminal and (not task.node_id or task.node_id in view.nodes):
            yield from ((a.address, a.mac, task.id) for a in task.attachments if a.network_id == network_id)


def check(view: View) -> None:
    """Nothing is given twice, and everything is where it belongs."""
    vnis = Counter(network.vni for network in view.networks if network.vni)
    assert set(vnis.values()) <= {1}, f"VXLAN ids given twice: {vnis}"
    all_subnets: list[Any] = [subnet for network in view.networks for subnet in given_subnets(network)]
    all_subnets += [ipaddress.ip_network(network.ipv6_subnet) for network in view.networks if network.ipv6_subnet]
    for one, other in itertools.combinations(all_subnets, 2):
        assert one.version != other.version or not one.overlaps(other), f"{one} and {other} overlap"
    for network in view.networks:
        held = list(holders(view, network.id))
        for number in (0, 1):
            counted = Counter(place[number] for place in held if place[number])
            assert set(counted.values()) <= {1}, f"given twice on {network.id}: {held}"
        subnets = subnets_of(network) if network.vni else ()
        for text, _, _ in held:
            address = parse_address(text)
            (subnet,) = (subnet for subnet in subnets if address in subnet)
            assert text == subnet.with_prefix(address)
            assert address != subnet.gateway
    ports = Counter((p.protocol, p.published_port) for s in view.services for p in s.ports if p.publish_mode == "ingress")
    assert set(ports.values()) <= {1}, f"ports given twice: {ports}"
    assert all(number for _, number in ports)


def check_rest(view: View) -> None:
    """Once the allocator has nothing more to do, everybody has what there is for them, and knows why not."""
    ingress = next((network for network in view.networks if network.spec.ingress), None)
    for one in view.nodes:
        assert {a.network_id for a in one.attachments} <= ({ingress.id} if ingress else set())
    for service in view.services:
        if service.spec.publishes_in_mesh and not service.allocation_error:
            assert ingress is not None
            asked = [p.published_port for p in service.spec.endpoint_spec.ports or ()] if service.spec.endpoint_spec else []
            assert len(service.ports) == len(asked)
            assert all(number in (0, port.published_port) for number, port in zip(asked, service.ports, strict=True))
    for task in view.tasks.unplaced(TaskState.PENDING):
        maker = view.services.get(task.service_id)
        if maker is not None and maker.task_spec_id == task.task_spec_id and not task.attachments:
            assert not view.task_specs.must_get(task.task_spec_id).template.networks
    for task in view.tasks.unplaced(TaskState.NEW):
        assert task.status.error or task.service_id not in view.services


@asynccontextmanager
async def two_managers() -> AsyncIterator[Managers]:
    log, clock = MemoryCluster((1, 2)), ManualClock()
    async with AsyncExitStack() as stack:
        stores = []
        for member_id in log.members:
            store = Store(MemoryBackend(log, member_id), log.data_keys, f"node{member_id}", clock)
            running = asyncio.ensure_future(store.run())
            stack.callback(running.cancel)
            await store.wait_loaded()
            stores.append(store)
        managers = Managers(log, clock, stores)
        await stores[0].wait_leader()
        cluster = Cluster(id="cluster", default_address_pool=POOL, subnet_prefix_length=PREFIX_LENGTH)
        await stores[0].update(lambda tx: tx.create(cluster))
        yield managers


async def live_through(story: list[Step]) -> None:
    async with two_managers() as managers:
        for step in [*BEGINNING, *story]:
            await managers.act(step)
            await managers.in_time(managers.leader.read_index())
            check(managers.leader.view)
        managers.log.lost_answers.clear()
        for _ in range(50):
            decisions = decide(managers.leader.view, managers.clock.now_ns(), None)
            if decisions.is_empty:
                break
            await managers.in_time(managers.allocate(managers.leader))
            await managers.in_time(managers.leader.read_index())
            check(managers.leader.view)
        else:
            raise AssertionError("the allocator does not come to rest")
        check_rest(managers.leader.view)


IN_ONE_DECIDE = {
    "ports that nobody asked for by number": [Step("service", 0, 4), Step("service", 0, 4), Step("service", 0, 9)],
    "nodes' places and those of services": [Step("join", 3, 0), Step("service", 0, 4), Step("tasks", 0, 6), Step("tasks", 1, 6)],
    "places on the ingress network after those of nodes": [
        *(Step("service", 0, 4), Step("allocate", 1, 1), Step("join", 3, 0), Step("allocate", 1, 1), Step("forget", 0, 0)),
        *(Step("service", 0, 4), Step("service", 0, 9)),
    ],
}
"""What is given to several at once, each time in one decide."""


@pytest.mark.parametrize("story", IN_ONE_DECIDE)
def test_nothing_is_given_twice_within_one_decide(story: str) -> None:
    asyncio.run(live_through([*IN_ONE_DECIDE[story], Step("allocate", 1, 0), *IN_ONE_DECIDE[story]]))


@settings(max_examples=120, deadline=None)
@given(steps)
def test_nothing_is_ever_given_twice(story: list[Step]) -> None:
    asyncio.run(live_through(story))
