"""Makes the container of a task and takes it away: image, network, mounts, configuration.

It knows what a task's container needs, and in which order; the parts (images, netplugin, runtime) know how.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pyswarm_agent.container_config import NodeInfo, allowed_access, build_container_config, container_hostname
from pyswarm_agent.images import Image, ImageStore
from pyswarm_agent.images.records import registry_auth_of_header
from pyswarm_agent.placeholders import placeholder_values
from pyswarm_agent.resolver_config import search_domains
from pyswarm_agent.runtime import Runtime
from pyswarm_agent.task_mounts import task_mounts
from pyswarm_agent.task_place import host_place, own_network
from pyswarm_agent.task_ports import given_ports, port_requests
from pyswarm_agent.volumes.mounting import ContainerMounts
from pyswarm_common.container_spec import ContainerSpec, DNSConfig
from pyswarm_common.errors import InvalidArgument, NotFound
from pyswarm_common.failpoints import failpoint
from pyswarm_common.own_networks import HOST, NONE
from pyswarm_common.specs import PortConfig, TaskTemplate
from pyswarm_common.wire import TaskAssignment
from pyswarm_netplugin.driver import Sandbox, SandboxRequest
from pyswarm_netplugin.published_ports.allocation import PortUnavailable

PARALLEL_STARTS = 4


class Network(Protocol):
    """What tasks need of the netplugin."""

    async def attach(self, request: SandboxRequest) -> Sandbox:
        """Make the task's sandbox; idempotent."""
        ...

    async def detach(self, sandbox_id: str) -> None:
        """Remove the task's sandbox; idempotent."""
        ...


class MadeContainer(NamedTuple):
    """A task's container, and the ports of the node that lead to it."""

    id: str
    ports: tuple[PortConfig, ...]


@dataclass
class TaskContainers:
    """The containers of this node's tasks. `starts` limits how many are made or started at once."""

    images: ImageStore
    runtime: Runtime
    network: Network
    node: Callable[[], NodeInfo]
    mounts: ContainerMounts
    starts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL_STARTS))

    async def make(self, assignment: TaskAssignment, template: TaskTemplate) -> MadeContainer:
        """Make everything that the task's container needs, and the container. Idempotent.

        Raises PortUnavailable, in Docker's words, when a port of the node that is to lead to it is taken.
        """
        container_id = container_id_of(assignment.task_id)
        spec = template.container_spec or ContainerSpec()
        allowed_access(spec, self.node())  # before anything is fetched for a container that may not be
        image = await self._image(spec)
        hostname = container_hostname(assignment, template, self.node()) or container_id[:12]
        own = own_network(template)
        async with self.starts:
            dns = spec.dns_config or DNSConfig()
            request = SandboxRequest(
                id=assignment.task_id,
                hostname=hostname,
                attachments=assignment.attachments,
                search=search_domains(dns),
                nameservers=tuple(dns.nameservers or ()),
                ports=port_requests(assignment.host_ports),
                is_closed=own == NONE,
            )
            sandbox = await (asyncio.to_thread(host_place) if own == HOST else self._attached(request, assignment, container_id))
            failpoint("task/sandboxed")
            asked = task_mounts(spec, placeholder_values(assignment, self.node()))
            async with self.mounts.prepared(asked, image.config.volumes, container_id) as mounts:
                failpoint("task/volumes-made")
                config = build_container_config(
                    assignment,
                    template,
                    image,
                    sandbox=sandbox,
                    node=self.node(),
                    mounts=mounts,
                    layer_paths=[str(path) for path in self.images.layer_paths(image)],
                    container_id=container_id,
                )
                await self.runtime.create(config)
        failpoint("task/created")
        return MadeContainer(container_id, given_ports(assignment.host_ports, sandbox))

    async def _attached(self, request: SandboxRequest, assignment: TaskAssignment, container_id: str) -> Sandbox:
        try:
            return await self.network.attach(request)
        except PortUnavailable as error:
            raise PortUnavailable(
                "starting container failed: driver failed programming external connectivity on endpoint "
                f"{assignment.name} ({container_id}): {error.message}"
            ) from error

    async def remove(self, task_id: str) -> None:
        """Remove the task's container and what was made for it, but for its network. Idempotent."""
        await self.runtime.remove(container_id_of(task_id))
        failpoint("task/removed")
        await self.mounts.discard(container_id_of(task_id))

    async def _image(self, spec: ContainerSpec) -> Image:
        if not spec.image:
            raise InvalidArgument("the task's spec names no image")
        image = self.images.get(spec.image)
        if image is not None:
            return image
        auth = registry_auth_of_header(spec.pull_options.registry_auth if spec.pull_options else "")
        try:
            return await self.images.pull(spec.image, auth=auth)
        except NotFound as error:
            raise NotFound(f"No such image: {spec.image} ({error.message})") from error


def container_id_of(task_id: str) -> str:
    """Return the id of the task's container: 64 hex digits that follow from the task's id."""
    return hashlib.sha256(f"pyswarm task {task_id}".encode()).hexdigest()
