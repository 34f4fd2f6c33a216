"""Addresses for single containers: who gets which, who is refused, what else of the manager sees of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from pyswarm_common.attachment_messages import AttachRequest, DetachRequest
from pyswarm_common.clock import ManualClock
from pyswarm_common.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, PyswarmError, Unavailable
from pyswarm_common.ids import new_id
from pyswarm_common.objects import Cluster, Network, Node, NodeDescription, NodeStatus, Service, Task, TaskSpec, VirtualIP
from pyswarm_manager.api.networks import remove_network
from pyswarm_manager.dispatcher.assignments import Sent, next_assignments
from pyswarm_manager.dispatcher.network_views import NetworkViews
from pyswarm_manager.dispatcher.orphaning import decide as orphaning
from pyswarm_manager.network_attachments import NetworkAttachments
from pyswarm_manager.orchestrator.constraint_enforcer import decide as enforcer
from pyswarm_manager.scheduler.cluster_load import ClusterLoad
from pyswarm_manager.store.memory import memory_store
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction

OPEN = Network(
    id="open-id",
    name="open",
    spec_json=b'{"Driver":"overlay","Attachable":true,"IPAM":{"Config":[{"Subnet":"10.0.1.0/29"}]}}',
    vni=4096,
    subnet="10.0.1.0/29",
    gateway="10.0.1.1",
)
CLOSED = Network(
    id="closed-id", name="closed", spec_json=b'{"Driver":"overlay"}', vni=4097, subnet="10.0.2.0/24", gateway="10.0.2.1"
)
NEW = Network(id="new-id", name="new", spec_json=b'{"Driver":"overlay","Attachable":true}')
DAY_NS = 24 * 3600 * 10**9


class Bench:
    """A leader with two nodes, an attachable network of five addresses of which a service has one, and others."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.attachments = NetworkAttachments(store, clock)

    async def attach(
        self, container: str, network: str = "open", *, node: str = "n1", id_: str = "", address: str = "", mac: str = ""
    ) -> str:
        """Ask; returns the address."""
        names = (container, f"{container}-alias")
        request = AttachRequest(
            attachment_id=id_ or new_id(), container_id=container, network=network, names=names, address=address, mac=mac
        )
        return (await self.attachments.attach(node, request)).address

    def ids(self) -> list[str]:
        """Return the ids of all attachments."""
        return sorted(task.id for task in self.store.view.tasks)

    async def change_node(self, **changes: object) -> None:
        """Change the node n1."""
        await self.store.update(lambda tx: tx.update(msgspec.structs.replace(tx.nodes.must_get("n1"), **changes)))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = ManualClock()
    async with memory_store(clock) as store:

        def seed(tx: Transaction) -> None:
            tx.create(Cluster(id="c"))
            for number in (1, 2):
                description = NodeDescription(hostname=f"h{number}", data_path_address=f"192.0.2.{number}")
                tx.create(Node(id=f"n{number}", description=description, status=NodeStatus(state="ready", since_ns=1)))
            for network in (OPEN, CLOSED, NEW):
                tx.create(network)
            tx.create(TaskSpec(id="spec"))
            vip = VirtualIP(network_id="open-id", address="10.0.1.2/29")
            tx.create(Service(id="svc", name="web", task_spec_id="spec", virtual_ips=(vip,)))

        await store.update(seed)
        yield Bench(store, clock)


async def test_each_container_gets_an_address_of_its_own_until_none_is_left(bench: Bench) -> None:
    given = [await bench.attach(f"c{number}", node=f"n{1 + number % 2}") for number in range(4)]
    assert sorted(given) == ["10.0.1.3/29", "10.0.1.4/29", "10.0.1.5/29", "10.0.1.6/29"]
    with pytest.raises(FailedPrecondition, match="no address is left in network open"):
        await bench.attach("c9")


async def test_asked_again_the_answer_is_the_same(bench: Bench) -> None:
    attachment_id = new_id()
    first = await bench.attach("c1", id_=attachment_id)
    assert await bench.attach("c1", id_=attachment_id) == first
    assert await bench.attach("c1", "open-id", id_=attachment_id) == first
    assert bench.ids() == [attachment_id]


async def test_an_address_that_was_freed_is_not_given_again_at_once(bench: Bench) -> None:
    attachment_id = new_id()
    assert await bench.attach("c1", id_=attachment_id) == "10.0.1.3/29"
    await bench.attachments.detach("n1", DetachRequest(attachment_ids=(attachment_id,)))
    assert await bench.attach("c2") == "10.0.1.4/29"


@pytest.mark.parametrize(
    ("container", "network", "options", "kind", "text"),
    [
        ("c1", "closed", {}, PermissionDenied, "^network closed not manually attachable$"),
        ("c1", "nowhere", {}, NotFound, "nowhere"),
        ("c1", "open", {"node": "stranger"}, NotFound, "stranger"),
        ("c1", "open", {"id_": "short"}, InvalidArgument, "an attachment has an id"),
        ("", "open", {}, InvalidArgument, "an attachment has an id"),
        ("c1", "open", {"address": "10.0.1.2"}, FailedPrecondition, "Address already in use: 10.0.1.2"),
        ("c1", "open", {"address": "10.0.1.1"}, FailedPrecondition, "Address already in use: 10.0.1.1"),
        ("c1", "open", {"address": "10.9.9.9"}, InvalidArgument, "no configured subnet contains IP address 10.9.9.9"),
        ("c1", "open", {"address": "ten"}, InvalidArgument, "invalid IPv4 address"),
        ("c1", "open", {"mac": "01:00:00:00:00:07"}, InvalidArgument, "not the address of a single host"),
        ("c1", "open", {"mac": "02:42:0a:00:01:05"}, InvalidArgument, "belongs to the network's address 10.0.1.5"),
    ],
)
async def test_what_is_refused_leaves_nothing(
    bench: Bench, container: str, network: str, options: dict[str, str], kind: type[PyswarmError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        await bench.attach(container, network, **options)
    assert bench.ids() == []
    assert [spec.id for spec in bench.store.view.task_specs] == ["spec"]


async def test_an_address_can_be_asked_for(bench: Bench) -> None:
    assert await bench.attach("c1", address="10.0.1.5") == "10.0.1.5/29"
    with pytest.raises(FailedPrecondition, match="already in use"):
        await bench.attach("c2", address="10.0.1.5")


async def test_a_mac_address_can_be_asked_for_and_is_given_once(bench: Bench) -> None:
    attachment_id = new_id()
    await bench.attach("c1", id_=attachment_id, mac="02-AA-00-00-00-01")
    assert bench.store.view.tasks.must_get(attachment_id).attachments[0].mac == "02:aa:00:00:00:01"
    with pytest.raises(FailedPrecondition, match=f"already in use on network open, by task {attachment_id}"):
        await bench.attach("c2", mac="02:aa:00:00:00:01")
    await bench.attachments.detach("n1", DetachRequest(attachment_ids=(attachment_id,)))
    await bench.attach("c2", mac="02:aa:00:00:00:01")


async def test_a_network_from_the_pool_grows_before_it_is_full(bench: Bench) -> None:
    growing = Network(id="g", name="g", spec_json=NEW.spec_json, vni=4099, subnet="10.0.9.0/29", gateway="10.0.9.1")
    await bench.store.update(lambda tx: tx.create(growing))
    given = [await bench.attach(f"c{number}", "g") for number in range(8)]
    assert len(set(given)) == 8
    assert [address.split(".")[2] for address in given] == ["9"] * 5 + ["3"] * 3
    assert bench.store.view.networks.must_get("g").further_subnets == ("10.0.3.0/24",)


async def test_what_was_chosen_for_a_service_is_given_to_no_container(bench: Bench) -> None:
    options = {"pyswarm.addresses": "10.0.1.3+10.0.1.6", "com.docker.network.endpoint.macaddress": "02:00:00:00:00:07"}
    template = msgspec.json.encode({"Networks": [{"Target": "open-id", "DriverOpts": options}]})

    def add_service(tx: Transaction) -> None:
        tx.create(TaskSpec(id="fixed", template_json=template))
        tx.create(Service(id="fix", name="fix", task_spec_id="fixed"))

    await bench.store.update(add_service)
    with pytest.raises(FailedPrecondition, match=r"Address already in use: 10\.0\.1\.6"):
        await bench.attach("c1", address="10.0.1.6")
    with pytest.raises(FailedPrecondition, match="already in use on network open, by service fix"):
        await bench.attach("c1", mac="02:00:00:00:00:07")
    assert [await bench.attach("c1"), await bench.attach("c2")] == ["10.0.1.4/29", "10.0.1.5/29"]
    with pytest.raises(FailedPrecondition, match="no address is left in network open"):
        await bench.attach("c3")
    await bench.store.update(lambda tx: tx.delete(Service, "fix"))
    assert await bench.attach("c3") in ("10.0.1.3/29", "10.0.1.6/29")


async def test_a_node_frees_only_its_own(bench: Bench) -> None:
    mine, theirs = new_id(), new_id()
    await bench.attach("c1", id_=mine)
    await bench.attach("c2", id_=theirs, node="n2")
    with pytest.raises(InvalidArgument, match="is no attachment of this container"):
        await bench.attach("c1", id_=theirs)
    await bench.attachments.detach("n1", DetachRequest(attachment_ids=(mine, theirs, "unknown")))
    assert bench.ids() == [theirs]
    assert len(list(bench.store.view.task_specs)) == 2


async def test_a_task_of_a_service_cannot_be_taken_for_an_attachment(bench: Bench) -> None:
    task_id = new_id()
    await bench.store.update(lambda tx: tx.create(Task(id=task_id, task_spec_id="spec", service_id="svc", node_id="n1")))
    with pytest.raises(InvalidArgument):
        await bench.attach("c1", id_=task_id)
    await bench.attachments.detach("n1", DetachRequest(attachment_ids=(task_id,)))
    assert bench.ids() == [task_id]


async def test_a_network_that_was_just_made_is_waited_for(bench: Bench) -> None:
    asked = asyncio.ensure_future(bench.attach("c1", "new"))
    await bench.clock.advance(1.0)
    assert not asked.done()
    allocated = msgspec.structs.replace(NEW, vni=4098, subnet="10.0.3.0/24", gateway="10.0.3.1")
    await bench.store.update(lambda tx: tx.update(allocated))
    assert await asked == "10.0.3.2/24"


async def test_a_network_that_gets_no_subnet_is_not_waited_for_forever(bench: Bench) -> None:
    asked = asyncio.ensure_future(bench.attach("c1", "new"))
    await bench.clock.advance(6.0)
    with contextlib.suppress(Unavailable):
        await asked
    assert isinstance(asked.exception(), Unavailable)


async def test_its_network_stays_while_it_is_there(bench: Bench) -> None:
    attachment_id = new_id()
    await bench.attach("c1", id_=attachment_id)
    await bench.store.update(lambda tx: tx.update(msgspec.structs.replace(tx.services.must_get("svc"), virtual_ips=())))
    with pytest.raises(FailedPrecondition, match=f"is in use by task {attachment_id}"):
        await bench.store.update(lambda tx: remove_network(tx, "open-id"))
    await bench.attachments.detach("n1", DetachRequest(attachment_ids=(attachment_id,)))
    await bench.store.update(lambda tx: remove_network(tx, "open-id"))


async def test_its_node_gets_the_view_and_no_spec_and_all_learn_its_names(bench: Bench) -> None:
    attachment_id = new_id()
    await bench.attach("c1", id_=attachment_id)
    view, views = bench.store.view, NetworkViews()
    for table in (view.networks, view.services, view.tasks):
        for item in table:
            {Network: views.note_network, Service: views.note_service, Task: views.note_task}[type(item)](None, item)  # type: ignore[operator]
    views.refresh(view, 1)
    endpoint = views.published["open-id"].view.endpoints[attachment_id]
    assert (endpoint.name, endpoint.aliases, endpoint.data_path_address) == ("c1", ("c1-alias",), "192.0.2.1")
    message, sent = next_assignments(view, "n1", Sent(), views.published, is_complete=True)
    assert message is not None
    assert [(task.task_id, task.attached_container_id, task.task_spec_id) for task in message.tasks] == [(attachment_id, "c1", "")]
    assert list(sent.views) == ["open-id"]
    assert message.task_specs == {}


async def test_neither_scheduler_nor_enforcer_count_it(bench: Bench) -> None:
    await bench.attach("c1")
    assert ClusterLoad(bench.store.view).nodes["n1"].task_count == 0
    assert enforcer.decide(bench.store.view, 0).is_empty


async def test_a_node_that_was_down_for_a_day_or_removed_gives_its_addresses_back(bench: Bench) -> None:
    await bench.attach("c1")
    await bench.attach("c2", node="n2")
    since_ns = bench.clock.now_ns()
    await bench.change_node(status=NodeStatus(state="down", since_ns=since_ns))
    assert orphaning.decide(bench.store.view, since_ns + DAY_NS - 1).is_empty
    found = orphaning.decide(bench.store.view, since_ns + DAY_NS)
    assert [task.attached_container_id for task in found.deleted if isinstance(task, Task)] == ["c1"]
    await bench.store.update(found.apply_to)
    await bench.store.update(lambda tx: tx.delete(Node, "n2"))
    await bench.store.update(orphaning.decide(bench.store.view, since_ns).apply_to)
    assert bench.ids() == []
    assert [spec.id for spec in bench.store.view.task_specs] == ["spec"]
