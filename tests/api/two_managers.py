"""Two managers on one log, whose node ports stand on real sockets under TLS, for tests of forwarding."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
from agent_parts import agent_parts
from api_server import MEMORY_BYTES, node, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from tls_certificates import Certificates

from pyswarm_agent.runtime.access.fake import FakeContainerAccess
from pyswarm_agent.runtime.fake import FakeContainerRuntime
from pyswarm_common import wire
from pyswarm_common.clock import SystemClock
from pyswarm_common.objects import Cluster, ManagerStatus, Node, NodeResources, Task, TaskStatus
from pyswarm_common.task_states import TaskState
from pyswarm_manager.api.manager_services import ManagerServices
from pyswarm_manager.forwarding.channel import ManagerChannel, RenewedTLS
from pyswarm_manager.forwarding.engine_port import EnginePort
from pyswarm_manager.forwarding.leader_requests import LeaderRequests
from pyswarm_manager.forwarding.leader_view import LeaderView
from pyswarm_manager.log_broker import LogBroker
from pyswarm_manager.store.memory import MemoryBackend, MemoryCluster
from pyswarm_manager.store.store import Store
from pyswarm_node.api.app import create_app
from pyswarm_node.api.control import LocalState
from pyswarm_node.api.fake_control import FakeNodeControl

NAMES = ("manager1", "manager2")


@dataclass
class Manager:
    """One of two managers: its store, its API, and what its node port saw under /engine."""

    name: str
    store: Store
    broker: LogBroker
    client: httpx.AsyncClient
    address: str
    seen: list[Request]
    before: list[Callable[[], Awaitable[Response | None]]]
    """What happens before the next forwarded requests are answered; a Response is the answer, and none is sent after it."""
    streams: asyncio.Queue[wire.OpenStream]
    told: list[str]
    """What the other managers say of who leads; the last one counts."""


class Managers:
    """Both, and the log below them."""

    def __init__(self, cluster: MemoryCluster, first: Manager, second: Manager) -> None:
        self.cluster = cluster
        self.first = first
        self.second = second

    async def elect(self, number: int) -> Manager:
        """Let a manager lead; return it."""
        elected = (self.first, self.second)[number - 1]
        self.cluster.elect(number)
        await elected.store.wait_leader()
        return elected


@asynccontextmanager
async def manager(cluster: MemoryCluster, number: int, certificates: Certificates, folder: Path) -> AsyncIterator[Manager]:
    name = NAMES[number - 1]
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    async with AsyncExitStack() as stack:
        store = Store(MemoryBackend(cluster, number), cluster.data_keys, name, SystemClock())
        running = asyncio.ensure_future(store.run())
        stack.push_async_callback(asyncio.gather, running, return_exceptions=True)
        stack.callback(running.cancel)
        streams: asyncio.Queue[wire.OpenStream] = asyncio.Queue()
        broker = LogBroker(store, lambda node_id, message: streams.put_nowait(message) or True)
        channel = ManagerChannel(RenewedTLS(certificates.client, [certificates.folder / "node.pem"]))
        stack.push_async_callback(channel.close)
        told: list[str] = []
        leader = LeaderView(store, SystemClock(), lambda: told[-1] if told else "")
        requests = LeaderRequests(store, channel, SystemClock(), leader)
        services = ManagerServices(store, broker, SystemClock(), lambda: leader.node_id, leader_requests=requests)
        local = LocalState(
            swarm_state="active",
            hostname=name,
            resources=NodeResources(nano_cpus=1, memory_bytes=MEMORY_BYTES),
            data_dir=folder,
            node_id=name,
            is_manager=True,
        )
        runtime = FakeContainerRuntime(SystemClock())
        stack.push_async_callback(runtime.close)
        agent = await stack.enter_async_context(agent_parts(folder, runtime, FakeContainerAccess(runtime)))
        control = FakeNodeControl(local, agent, services)
        transport = httpx.ASGITransport(create_app(control))
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=20))
        made = Manager(
            name, store, broker, client, f"127.0.0.1:{listener.getsockname()[1]}", seen=[], before=[], streams=streams, told=told
        )

        def check(request: Request) -> None:
            made.seen.append(request)

        engine = EnginePort(lambda: services, check)

        async def observed(scope: Any, receive: Any, send: Any) -> None:
            answer = await made.before.pop(0)() if made.before else None
            await (answer or engine)(scope, receive, send)

        async def join(request: Request) -> Response:
            return await requests.forward(request, {"pyswarm-forwarded-address": "10.0.0.9"})

        app = Starlette(routes=[Mount(wire.ENGINE_PATH, observed), Route(wire.JOIN_PATH, join, methods=["POST"])])
        await stack.enter_async_context(served(app, listener, certificates.server()))
        await store.wait_loaded()
        yield made


@asynccontextmanager
async def two_managers(folder: Path) -> AsyncIterator[Managers]:
    """Run both; the first leads."""
    certificates = Certificates.make(folder / "certificates")
    cluster = MemoryCluster([1, 2])
    async with (
        manager(cluster, 1, certificates, folder) as first,
        manager(cluster, 2, certificates, folder) as second,
    ):
        await first.store.wait_leader()
        await first.store.update(lambda tx: tx.create(Cluster(id="c1")))
        for each in (first, second):
            made = manager_node(each.name, each.address)
            await first.store.update(lambda tx, made=made: tx.create(made))
        await second.store.read_index()
        yield Managers(cluster, first, second)


def manager_node(name: str, address: str) -> Node:
    """Return a manager's node, which says that it is at this address."""
    return msgspec.structs.replace(node(name, name, "manager"), manager=ManagerStatus(address=address))


def service(name: str) -> dict[str, Any]:
    return {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "nginx"}}, "Mode": {"Replicated": {"Replicas": 1}}}


async def running_task(managers: Managers) -> None:
    """Make the service `web` with one task that runs on the first manager's node."""
    created = (await managers.first.client.post("/services/create", json=service("web"))).json()
    spec_id = managers.first.store.view.services.must_get(created["ID"]).task_spec_id
    task = Task(
        id="t1",
        service_id=created["ID"],
        task_spec_id=spec_id,
        slot=1,
        node_id="manager1",
        status=TaskStatus(state=TaskState.RUNNING, container_id="c"),
    )
    await managers.first.store.update(lambda tx: tx.create(task))
