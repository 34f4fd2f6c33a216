"""The Engine API of a node in no cluster, over a real runtime."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agent_parts import agent_parts
from api_server import MEMORY_BYTES, served

from pyswarm_agent.runtime import ContainerRuntime
from pyswarm_agent.runtime.access.container_access import ContainerAccess
from pyswarm_common.objects import NodeResources
from pyswarm_node.api.app import create_app
from pyswarm_node.api.control import LocalState
from pyswarm_node.api.fake_control import FakeNodeControl
from pyswarm_node.serving import bind_unix


@asynccontextmanager
async def access_served(folder: Path, runtime: ContainerRuntime, access: ContainerAccess) -> AsyncIterator[str]:
    """Yield the path of a socket that serves the API of these containers."""
    resources = NodeResources(nano_cpus=2_000_000_000, memory_bytes=MEMORY_BYTES)
    local = LocalState(swarm_state="inactive", hostname="box", resources=resources, data_dir=folder)
    async with (
        agent_parts(folder, runtime, access) as agent,
        served(create_app(FakeNodeControl(local, agent, None)), bind_unix(folder / "api.sock")),
    ):
        yield str(folder / "api.sock")
