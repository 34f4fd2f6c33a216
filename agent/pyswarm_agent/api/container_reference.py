"""Which container a request means."""

from starlette.requests import Request

from pyswarm_agent.api.agent_services import agent_of
from pyswarm_agent.container_lookup import find_container
from pyswarm_agent.runtime.records import ContainerRecord


def container_of(request: Request, reference: str) -> ContainerRecord:
    """Return this node's container that a request's path names. Raises NotFound, Conflict."""
    return find_container(agent_of(request).containers.list(), reference)
