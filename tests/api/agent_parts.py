"""A node's agent for tests of the API, on any container runtime."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pyswarm_agent.api.agent_services import AgentServices
from pyswarm_agent.events import EventBus
from pyswarm_agent.health.monitors import HealthMonitors
from pyswarm_agent.images import ImageStore
from pyswarm_agent.local_containers.fake_network import FakeLocalNetwork
from pyswarm_agent.local_containers.keeper import LocalContainers
from pyswarm_agent.local_containers.network import LocalNetwork
from pyswarm_agent.node_networks.store import NodeNetworks
from pyswarm_agent.runtime import Runtime
from pyswarm_agent.runtime.access.interface import Access
from pyswarm_agent.volumes import VolumeStore
from pyswarm_agent.volumes.mounting import ContainerMounts
from pyswarm_agent.volumes.use import volume_users
from pyswarm_common.clock import SystemClock


@asynccontextmanager
async def agent_parts(
    folder: Path,
    runtime: Runtime,
    access: Access,
    network: LocalNetwork | None = None,
    networks: NodeNetworks | None = None,
) -> AsyncIterator[AgentServices]:
    """Yield the agent's services, with local containers taken up; the runtime stays open afterwards."""
    clock = SystemClock()
    images, volumes = ImageStore(folder), VolumeStore(folder, clock, lambda: volume_users(runtime))
    health, events = HealthMonitors(runtime, access, clock), EventBus(clock)
    runtime.on_event = events.observe_container
    local = LocalContainers(
        images=images,
        runtime=runtime,
        mounts=ContainerMounts(volumes),
        network=network or FakeLocalNetwork(),
        health=health,
        folder=folder / "local-containers",
        clock=clock,
        events=events,
        hostname=lambda: "box",
        networks=networks,
    )
    running = asyncio.ensure_future(local.run())
    await local.wait_running()
    try:
        yield AgentServices(images, runtime, volumes, health, access, local, events)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await health.close()
        await volumes.close()
        await images.close()
