"""Which container a request means."""

from collections.abc import Iterable

from starlette.requests import Request

from pyswarm_agent.api.agent_services import agent_of
from pyswarm_agent.runtime.interface import no_such_container
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.errors import Conflict


def container_of(request: Request, reference: str) -> ContainerRecord:
    """Return this node's container that a request's path names. Raises NotFound, Conflict."""
    return resolve_container(agent_of(request).containers.list(), reference)


def resolve_container(containers: Iterable[ContainerRecord], reference: str) -> ContainerRecord:
    """Find by id, name, or a unique beginning of an id; pure. Raises NotFound, Conflict."""
    wanted = reference.removeprefix("/")
    containers = list(containers)
    for container in containers:
        if wanted in (container.config.id, container.config.name):
            return container
    matches = [container for container in containers if wanted and container.config.id.startswith(wanted)]
    if not matches:
        raise no_such_container(reference)
    if len(matches) > 1:
        raise Conflict(f"Multiple IDs found with provided prefix: {reference}")
    return matches[0]
