"""What the API's tests share: a cluster's two nodes, and a server for applications."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pyswarm_common.objects import ManagerStatus, Network, Node, NodeDescription, NodeResources, NodeStatus
from pyswarm_common.specs import NodeSpec
from pyswarm_node.serving import serve

MANAGER_ID = "x6awaxwz8h1axgi66sh4sk4k8"
WORKER_ID = "k0vrkkcp7wqh4tyl6v1tzv9t3"
MEMORY_BYTES = 25276510208
INGRESS = Network(
    id="awu67qfnd58e0cob36l18efg3",
    name="ingress",
    spec_json=b'{"Name":"ingress","Driver":"overlay","Scope":"swarm","Ingress":true}',
    vni=4096,
    subnet="10.0.0.0/24",
    gateway="10.0.0.1",
)
"""As `swarm init` and the allocator make it."""


def node(node_id: str, hostname: str, role: str, **changes: Any) -> Node:
    manager = ManagerStatus(address="127.0.0.1:2377") if role == "manager" else None
    return Node(
        id=node_id,
        spec=NodeSpec(role=role),
        role=role,
        description=NodeDescription(
            hostname=hostname,
            architecture="x86_64",
            resources=NodeResources(nano_cpus=2_000_000_000, memory_bytes=MEMORY_BYTES),
            engine_version="20.10.24",
            data_path_address="127.0.0.1",
        ),
        status=NodeStatus(state="ready", address="127.0.0.1"),
        manager=manager,
        **changes,
    )


@asynccontextmanager
async def served(app: Any, listener: socket.socket, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Serve the application on a bound socket, as the daemon does."""
    serving = asyncio.ensure_future(serve(app, [listener], tls))
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
