"""Single containers on networks of the cluster: asking for addresses, giving them back, and what the managers say of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from agent_bench import Bench, message, raw, running_bench, view

from pyswarm_agent.local_containers.network import LocalBridge
from pyswarm_agent.local_containers.overlay import OPEN_LIMIT_S, VIEW_LIMIT_S, OverlayNetworks
from pyswarm_agent.local_containers.places import ContainerPlaces
from pyswarm_agent.local_containers.records import Joined, LocalContainer, NetworkPlace
from pyswarm_agent.runtime.records import ContainerConfig
from pyswarm_common.attachment_messages import ATTACH_PATH, AttachAnswer, AttachRequest, DetachRequest
from pyswarm_common.errors import NotFound, PermissionDenied, PyswarmError, Unavailable, Unimplemented
from pyswarm_common.objects import NetworkAttachment
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import TaskAssignment
from pyswarm_netplugin import operations as op
from pyswarm_netplugin.driver import NetworkDriver
from pyswarm_netplugin.fake_dns import FakeDNS
from pyswarm_netplugin.kernel.fake import FakeKernel

CONTAINER = "c" * 64
SANDBOX = f"container-{CONTAINER}"


class Managers:
    """Give addresses, and note what they are asked. `refusal` is raised instead; `is_lost`: but only after the request was done."""

    def __init__(self) -> None:
        self.attachments: dict[str, AttachRequest] = {}
        self.asked: list[AttachRequest] = []
        self.refusal: PyswarmError | None = None
        self.is_lost = False
        self.before_release: Callable[[], None] = lambda: None

    async def __call__(self, path: str, body: bytes, timeout_s: float) -> bytes:
        """Answer as the managers do."""
        await asyncio.sleep(0)
        if self.refusal is not None and not self.is_lost:
            raise self.refusal
        if path != ATTACH_PATH:
            self.before_release()
            for attachment_id in msgspec.json.decode(body, type=DetachRequest).attachment_ids:
                self.attachments.pop(attachment_id, None)
            return b""
        request = msgspec.json.decode(body, type=AttachRequest)
        self.asked.append(request)
        self.attachments[request.attachment_id] = request
        if self.refusal is not None:
            raise self.refusal
        address = f"{request.address or '10.0.1.7'}/24"
        return msgspec.json.encode(AttachAnswer(network_id="net", network_name="open", address=address))

    def assignments(self) -> list[TaskAssignment]:
        """Return the attachments as they are sent."""
        place = (NetworkAttachment(network_id="net", address="10.0.1.7/24"),)
        return [
            TaskAssignment(
                task_id=request.attachment_id,
                task_spec_id="",
                desired_state=TaskState.RUNNING,
                attachments=place,
                attached_container_id=request.container_id,
            )
            for request in self.attachments.values()
        ]


class Node:
    """The bench's agent with single containers, and scripted managers."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.managers = bench, Managers()
        self.is_member = True
        self.serving: asyncio.Task[None] | None = None
        self.container = LocalContainer(id=CONTAINER, name="tool", network_mode="open", aliases=("helper",))
        self.begin()

    def begin(self) -> None:
        """Make what a daemon that starts makes; `serve` follows."""
        self.overlays = OverlayNetworks(self.bench.clock, lambda: self.is_member)

    def serve(self) -> None:
        """Be at work in the cluster."""
        self.bench.agent.attachments = self.overlays
        self.serving = asyncio.ensure_future(self.overlays.serve(self.bench.driver, self.managers))

    async def end(self) -> None:
        """Be at work there no more."""
        if self.serving is not None:
            self.serving.cancel()
            await asyncio.gather(self.serving, return_exceptions=True)

    async def attach(self) -> NetworkPlace:
        """Attach the container."""
        return await self.overlays.attach(self.container, ContainerConfig(id=CONTAINER, name="tool", hostname="tool-host"))

    async def tell(self, *, complete: bool = True, **more: object) -> None:
        """Send the node what the managers have."""
        tasks = self.managers.assignments() if complete else ()
        await self.bench.agent.handle(message(*tasks, complete=complete, **more))

    async def attached(self) -> NetworkPlace:
        """Attach the container; the network's view comes with the attachment."""
        attaching = asyncio.ensure_future(self.attach())
        await self.bench.until(lambda: bool(self.managers.attachments))
        await self.tell(views=(raw(view()),))
        return await attaching

    async def settle(self) -> None:
        """Let what is under way end."""
        for _ in range(20):
            await asyncio.sleep(0.002)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_bench(tmp_path) as bench:
        node = Node(bench)
        node.serve()
        yield node
        await node.end()


async def test_a_container_gets_an_address_and_a_place(node: Node) -> None:
    place = await node.attached()
    (request,) = node.managers.asked
    assert (request.container_id, request.network, request.names) == (CONTAINER, "open", ("tool", "helper", CONTAINER[:12]))
    assert place.attachment is not None
    assert (place.address, place.attachment.id, place.attachment.network_name) == ("10.0.1.7/24", request.attachment_id, "open")
    assert "nameserver 127.0.0.11" in place.resolv_conf
    assert "10.0.1.7\ttool-host" in place.hosts
    assert node.bench.kernel.sandboxes[SANDBOX].links["eth0"].address == "10.0.1.7/24"
    assert node.bench.reports == [], "an attachment is no task to run"


async def test_its_sandbox_goes_before_its_address_is_given_back(node: Node) -> None:
    await node.attached()
    stood: list[bool] = []
    node.managers.before_release = lambda: stood.append(SANDBOX in node.bench.kernel.sandboxes)
    await node.overlays.detach(CONTAINER)
    await node.bench.until(lambda: not node.managers.attachments)
    assert stood == [False]
    assert not node.overlays.holds(CONTAINER)


async def test_each_run_asks_anew(node: Node) -> None:
    first = await node.attached()
    await node.overlays.detach(CONTAINER)
    second = await node.attached()
    assert first.attachment is not None
    assert second.attachment is not None
    assert first.attachment.id != second.attachment.id
    await node.bench.until(lambda: list(node.managers.attachments) == [second.attachment.id])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("refusal", "kind", "text"),
    [
        (
            PermissionDenied("rpc error: code = PermissionDenied desc = network open not manually attachable"),
            PyswarmError,
            "^Could not attach to network open: rpc error: code = PermissionDenied desc = network open not manually attachable$",
        ),
        (NotFound("network open not found"), NotFound, "^network open not found$"),
        (Unavailable("the manager at m1 cannot be reached"), Unavailable, "^Could not attach to network open: the manager at m1"),
    ],
)
async def test_a_refusal_says_why_and_leaves_nothing(node: Node, refusal: PyswarmError, kind: type, text: str) -> None:
    node.managers.refusal = refusal
    with pytest.raises(kind, match=text) as refused:
        await node.attach()
    assert refused.value.status_code == refusal.status_code
    await node.overlays.detach(CONTAINER)
    assert (node.bench.kernel.sandboxes, node.overlays.holds(CONTAINER)) == ({}, False)


async def test_an_answer_that_was_lost_leaves_no_attachment(node: Node) -> None:
    node.managers.refusal, node.managers.is_lost = Unavailable("the connection broke"), True
    with pytest.raises(Unavailable):
        await node.attach()
    assert node.managers.attachments
    node.managers.refusal = None
    await node.overlays.detach(CONTAINER)
    await node.bench.until(lambda: not node.managers.attachments)


async def test_giving_back_is_tried_until_a_manager_answers(node: Node) -> None:
    await node.attached()
    node.managers.refusal = Unavailable("no manager")
    await node.overlays.detach(CONTAINER)
    await node.settle()
    assert node.managers.attachments
    node.managers.refusal = None
    await node.bench.until(lambda: not node.managers.attachments, advancing_s=1.0)


async def test_a_view_that_does_not_come_is_not_waited_for_forever(node: Node) -> None:
    attaching = asyncio.ensure_future(node.attach())
    await node.bench.until(lambda: bool(node.managers.attachments))
    await node.bench.clock.advance(VIEW_LIMIT_S + 1)
    with pytest.raises(Unavailable, match="the managers did not tell this node of it"):
        await attaching


async def test_outside_of_clusters_there_is_no_such_network(node: Node) -> None:
    await node.end()
    node.is_member = False
    with pytest.raises(NotFound, match=r"^network open not found$"):
        await node.attach()


async def test_a_node_that_is_not_at_work_yet_is_waited_for_a_while(node: Node) -> None:
    await node.end()
    attaching = asyncio.ensure_future(node.attach())
    await node.bench.clock.advance(OPEN_LIMIT_S + 1)
    with pytest.raises(Unavailable, match="is the cluster's, in which this node is not at work"):
        await attaching
    await node.overlays.detach(CONTAINER)
    attaching = asyncio.ensure_future(node.attach())
    await node.bench.clock.advance(1.0)
    node.serve()
    await node.bench.until(lambda: bool(node.managers.attachments))
    await node.tell(views=(raw(view()),))
    assert (await attaching).address == "10.0.1.7/24"


async def test_what_no_container_uses_is_given_back(node: Node) -> None:
    place = await node.attached()
    left_over = AttachRequest(attachment_id="left-over", container_id="gone", network="open")
    node.managers.attachments["left-over"] = left_over
    await node.tell()
    assert place.attachment is not None
    await node.bench.until(lambda: list(node.managers.attachments) == [place.attachment.id])  # type: ignore[union-attr]


@pytest.mark.parametrize("is_complete", [True, False])
async def test_one_that_the_managers_lost_is_asked_for_again(node: Node, is_complete: bool) -> None:
    place = await node.attached()
    assert place.attachment is not None
    node.managers.attachments.clear()
    more = {} if is_complete else {"removed_tasks": (place.attachment.id,)}
    await node.tell(complete=is_complete, **more)
    await node.bench.until(lambda: place.attachment.id in node.managers.attachments)  # type: ignore[union-attr]
    assert (node.managers.asked[-1].address, node.managers.asked[-1].network) == ("10.0.1.7", "net")
    assert SANDBOX in node.bench.kernel.sandboxes


async def test_one_whose_address_another_has_leaves_the_network(node: Node) -> None:
    await node.attached()
    node.managers.attachments.clear()
    node.managers.refusal = NotFound("network net not found")
    await node.tell()
    await node.bench.until(lambda: all(not link.network_id for link in node.bench.kernel.sandboxes[SANDBOX].links.values()))
    node.managers.refusal = None
    await node.overlays.detach(CONTAINER)
    assert SANDBOX not in node.bench.kernel.sandboxes


async def test_a_daemon_that_starts_again_keeps_the_places_of_containers_that_run(node: Node) -> None:
    place = await node.attached()
    await node.end()
    await node.bench.restart()
    node.begin()
    container = msgspec.structs.replace(node.container, attachment=place.attachment)
    config = ContainerConfig(id=CONTAINER, name="tool", netns_path=place.netns_path)
    taken_up = node.overlays.take_up(container, config)
    node.serve()
    await node.tell()
    await node.settle()
    assert (taken_up.address, taken_up.attachment, taken_up.netns_path) == (place.address, place.attachment, place.netns_path)
    assert list(node.managers.attachments) == [place.attachment.id] if place.attachment else []
    assert SANDBOX in node.bench.kernel.sandboxes


async def test_a_daemon_that_starts_again_removes_what_ended_meanwhile(node: Node) -> None:
    await node.attached()
    await node.end()
    await node.bench.restart()
    node.begin()
    node.serve()
    await node.bench.until(lambda: SANDBOX not in node.bench.kernel.sandboxes)
    await node.tell()
    await node.bench.until(lambda: not node.managers.attachments)


async def test_detaching_is_tried_again_when_the_kernel_refuses(node: Node) -> None:
    await node.attached()

    def refuse(operation: op.Operation) -> None:
        if isinstance(operation, op.RemoveSandbox):
            raise OSError("busy")

    node.bench.kernel.refuse = refuse
    with contextlib.suppress(PyswarmError):
        await node.overlays.detach(CONTAINER)
    assert node.overlays.holds(CONTAINER)
    assert node.managers.attachments
    node.bench.kernel.refuse = lambda _: None
    await node.overlays.detach(CONTAINER)
    await node.bench.until(lambda: not node.managers.attachments)


class Mixed:
    """Containers on networks of the node and of the cluster: the node's driver, and its kernel."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.kernel = FakeKernel()
        self.node = node
        bridge = LocalBridge(lambda: self.driver(folder), folder / "memory", lambda _: None, clusters=lambda: node.overlays.views())
        self.places = ContainerPlaces(bridge, node.overlays)
        self.container = LocalContainer(
            id=CONTAINER, name="tool", joined=(Joined(network="bridge"), Joined(network="open", aliases=("helper",)))
        )
        self.config = ContainerConfig(id=CONTAINER, name="tool", hostname="tool")

    def driver(self, folder: Path) -> NetworkDriver:
        """Return the driver of the node's own networks."""
        return NetworkDriver(
            instance_tag="testb",
            data_dir=folder / "local",
            runtime_dir=folder / "local-run",
            data_path_address="127.0.0.1",
            egress_pool="172.17.0.0/16",
            dns=FakeDNS(),
            make_kernel=lambda: self.kernel,
        )

    async def attached(self) -> NetworkPlace:
        """Attach the container; the network's view comes with the attachment."""
        attaching = asyncio.ensure_future(self.places.attach(self.container, self.config))
        await self.node.bench.until(lambda: bool(self.node.managers.attachments))
        await self.node.tell(views=(raw(view()),))
        return await attaching

    def links(self) -> dict[str, tuple[str, str]]:
        """Return the container's interfaces: network and address."""
        return {name: (link.network_id, link.address) for name, link in self.kernel.sandboxes[CONTAINER].links.items()}


@pytest.fixture
async def mixed(node: Node, tmp_path: Path) -> AsyncIterator[Mixed]:
    made = Mixed(node, tmp_path / "mixed")
    yield made
    await made.places.close()


async def test_beside_the_bridge(mixed: Mixed) -> None:
    place = await mixed.attached()
    (request,) = mixed.node.managers.asked
    assert request.names == ("tool", "helper", CONTAINER[:12])
    assert [(one.id, one.address) for one in place.networks] == [("net", "10.0.1.7/24")]
    assert [one.id for one in place.attachments] == [request.attachment_id]
    assert mixed.links() == {"eth0": ("", "172.17.0.2/16"), "eth1": ("net", "10.0.1.7/24")}
    assert mixed.kernel.overlays["net"].tunnel is None, "a trunk leads to the one that has it"
    assert SANDBOX not in mixed.node.bench.kernel.sandboxes
    container = msgspec.structs.replace(mixed.container, attachments=place.attachments)
    again = await mixed.places.attach(container, mixed.config)
    assert (again.attachments, len(mixed.node.managers.asked)) == (place.attachments, 1), "what it has it keeps"
    await mixed.places.attach(msgspec.structs.replace(container, joined=(Joined(network="bridge"),)), mixed.config)
    await mixed.node.bench.until(lambda: not mixed.node.managers.attachments)
    assert mixed.links() == {"eth0": ("", "172.17.0.2/16")}


async def test_its_end_gives_the_address_back(mixed: Mixed) -> None:
    await mixed.attached()
    await mixed.places.detach(CONTAINER)
    await mixed.node.bench.until(lambda: not mixed.node.managers.attachments)
    assert CONTAINER not in mixed.kernel.sandboxes


async def test_a_refusal_changes_nothing(mixed: Mixed) -> None:
    alone = msgspec.structs.replace(mixed.container, joined=(Joined(network="bridge"),))
    await mixed.places.attach(alone, mixed.config)
    mixed.node.managers.refusal = PermissionDenied("network open not manually attachable")
    with pytest.raises(PyswarmError, match="not manually attachable"):
        await mixed.places.attach(mixed.container, mixed.config)
    assert mixed.links() == {"eth0": ("", "172.17.0.2/16")}
    assert mixed.node.overlays.acquired_by(CONTAINER) == frozenset()


async def test_an_address_that_another_has_is_let_go(mixed: Mixed) -> None:
    await mixed.attached()
    mixed.node.managers.attachments.clear()
    mixed.node.managers.refusal = NotFound("network net not found")
    await mixed.node.tell()
    await mixed.node.bench.until(lambda: mixed.links() == {"eth0": ("", "172.17.0.2/16")})


async def test_several_of_the_cluster_need_one_that_leads_out(mixed: Mixed) -> None:
    both = msgspec.structs.replace(mixed.container, joined=(Joined(network="open"), Joined(network="other")))
    with pytest.raises(Unimplemented, match="on none of this node that leads out"):
        await mixed.places.attach(both, mixed.config)
