"""A node with local containers on a bridge of its own, in a host that is a network namespace, with the API on a socket."""

import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent_parts import agent_parts
from api_server import MEMORY_BYTES, served
from docker_command import DockerCLI
from image_builder import BuiltImage, write_docker_archive
from overlay_hosts import Machine
from runtime_harness import RuntimeNode

from pyswarm_agent.api.agent_services import AgentServices
from pyswarm_agent.local_containers.network import LocalBridge
from pyswarm_agent.node_networks.store import NodeNetworks
from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_common.objects import NodeResources
from pyswarm_netplugin.dns.client import DNSClient
from pyswarm_netplugin.dns_when_needed import DNSWhenNeeded
from pyswarm_netplugin.driver import NetworkDriver
from pyswarm_netplugin.host_bridges.linux import HostBridges
from pyswarm_netplugin.kernel.linux import LinuxKernel
from pyswarm_netplugin.kernel.namespaces import enter
from pyswarm_node.api.app import create_app
from pyswarm_node.api.control import LocalState
from pyswarm_node.api.fake_control import FakeNodeControl
from pyswarm_node.serving import bind_unix

IMAGE = "box:1"


class LocalNode:
    """One life of the daemon on a node's folders. `docker` talks to it."""

    def __init__(self, node: RuntimeNode, machine: Machine, agent: AgentServices, network: LocalBridge, socket: Path) -> None:
        self.node = node
        self.machine = machine
        self.agent = agent
        self.network = network
        self.docker = DockerCLI(str(socket))

    async def load_image(self) -> None:
        """Put busybox into the image store as `box:1`."""
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            tar.add(self.node.layer, arcname=".")
        archive = self.node.data_dir / "image.tar"
        built = BuiltImage([layer.getvalue()], {"Cmd": ["sh"], "Env": ["PATH=/bin"]})
        write_docker_archive(archive, [(built, [IMAGE])])
        await self.agent.images.load(archive)
        archive.unlink()

    async def remove_everything(self) -> None:
        """Leave nothing behind."""
        for record in self.agent.containers.list():
            await self.agent.local.remove(record.config.id, force=True, with_volumes=True)
        await self.network.teardown()


def bridge_of(node: RuntimeNode, machine: Machine, networks: NodeNetworks | None = None, **more: Any) -> LocalBridge:
    """Return the bridge of this node, in the machine's network namespace."""
    tag, data_dir, runtime_dir = f"{node.tag[:5]}", node.data_dir / "local-network", node.runtime_dir / "local-network"

    def kernel() -> LinuxKernel:
        with open(machine.netns) as file:
            enter(file.fileno())
        return LinuxKernel(tag, runtime_dir / "netns", joins=True)

    def open_driver() -> NetworkDriver:
        client = DNSClient(node.runtime_dir / "local-dns.sock", instance_tag=tag, log_path=node.data_dir / "dns.log")
        dns = DNSWhenNeeded(client)
        driver = NetworkDriver(
            instance_tag=tag,
            data_dir=data_dir,
            runtime_dir=runtime_dir,
            data_path_address="127.0.0.1",
            egress_pool="172.17.0.0/16",
            dns=dns,
            make_kernel=kernel,
        )
        dns.is_needed = driver.is_on_networks
        return driver

    ends = HostBridges(tag, runtime_dir / "netns")
    return LocalBridge(open_driver, data_dir, lambda container_id: node.runtime.get(container_id), networks or (), ends, **more)


@asynccontextmanager
async def local_node(node: RuntimeNode, machine: Machine, *, is_last_life: bool = True) -> AsyncIterator[LocalNode]:
    """Yield the node at work; `node.runtime` is started. With `is_last_life` nothing of it may be left."""
    networks = NodeNetworks(node.data_dir / "node-networks")
    network, access = bridge_of(node, machine, networks), ContainerAccess(node.runtime)
    await access.start()
    async with agent_parts(node.data_dir, node.runtime, access, network, networks) as agent:
        resources = NodeResources(nano_cpus=2_000_000_000, memory_bytes=MEMORY_BYTES)
        state = LocalState(swarm_state="inactive", hostname="box", resources=resources, data_dir=node.data_dir)
        socket = node.runtime_dir / "api.sock"
        socket.unlink(missing_ok=True)
        async with served(create_app(FakeNodeControl(state, agent, None)), bind_unix(socket)):
            local = LocalNode(node, machine, agent, network, socket)
            if agent.images.get(IMAGE) is None:
                await local.load_image()
            try:
                yield local
            finally:
                if is_last_life:
                    await local.remove_everything()
    await access.close()
