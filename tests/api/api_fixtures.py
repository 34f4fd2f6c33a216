"""Fixtures of the API's tests: the whole application over a real store in memory, with a daemon that only says yes."""

import datetime
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from agent_parts import agent_parts
from api_server import INGRESS, MANAGER_ID, MEMORY_BYTES, WORKER_ID, node, served

from pyswarm_agent.runtime.access.fake import FakeContainerAccess
from pyswarm_agent.runtime.fake import FakeContainerRuntime
from pyswarm_common import pki
from pyswarm_common.clock import SystemClock
from pyswarm_common.objects import Cluster, NodeResources
from pyswarm_common.wire import ManagerAddress
from pyswarm_manager.api.manager_services import ManagerServices
from pyswarm_manager.log_broker import LogBroker
from pyswarm_manager.store.memory import memory_store
from pyswarm_manager.store.store import Store
from pyswarm_node.api.app import create_app
from pyswarm_node.api.control import LocalState
from pyswarm_node.api.fake_control import FakeNodeControl
from pyswarm_node.serving import bind_unix


@pytest.fixture
def golden() -> Callable[[str], Any]:
    folder = Path(__file__).parent / "golden"
    return lambda name: json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def root_pem() -> str:
    return pki.new_root(datetime.datetime.now(datetime.UTC))[0]


@pytest.fixture
async def store(root_pem: str) -> AsyncIterator[Store]:
    async with memory_store(SystemClock()) as store:
        cluster = Cluster(
            id="caadj67je6k1zt8ntouxomh56",
            root_certificate_pem=root_pem,
            worker_join_token=pki.new_join_token(root_pem),
            manager_join_token=pki.new_join_token(root_pem),
        )
        await store.update(lambda tx: tx.create(cluster))
        await store.update(lambda tx: tx.create(node(MANAGER_ID, "vm", "manager")))
        await store.update(lambda tx: tx.create(node(WORKER_ID, "worker1", "worker")))
        await store.update(lambda tx: tx.create(INGRESS))
        yield store


@pytest.fixture
async def control(store: Store, tmp_path: Path) -> AsyncIterator[FakeNodeControl]:
    broker = LogBroker(store, lambda node_id, message: False)
    local = LocalState(
        swarm_state="active",
        hostname="vm",
        resources=NodeResources(nano_cpus=2_000_000_000, memory_bytes=MEMORY_BYTES),
        data_dir=tmp_path,
        node_id=MANAGER_ID,
        node_addr="127.0.0.1",
        is_manager=True,
        managers=(ManagerAddress(node_id=MANAGER_ID, address="127.0.0.1:2377"),),
    )
    runtime = FakeContainerRuntime(SystemClock())
    manager = ManagerServices(store, broker, SystemClock(), lambda: MANAGER_ID, lambda _: "reachable")
    async with agent_parts(tmp_path, runtime, FakeContainerAccess(runtime)) as agent:
        yield FakeNodeControl(local, agent, manager)
        await runtime.close()


@pytest.fixture
async def api_socket(control: FakeNodeControl) -> AsyncIterator[str]:
    """The path of a unix socket that serves the API."""
    with TemporaryDirectory(prefix="psw-api-") as folder:
        path = Path(folder) / "api.sock"
        async with served(create_app(control), bind_unix(path)):
            yield str(path)


@pytest.fixture
async def client(control: FakeNodeControl) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(control))
    async with httpx.AsyncClient(transport=transport, base_url="http://docker") as client:
        yield client
