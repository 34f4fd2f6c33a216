"""Finds the container that a request means."""

from collections.abc import Sequence

from pyswarm_agent.runtime.interface import no_such_container
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.errors import Conflict


def resolve_container(containers: Sequence[ContainerRecord], reference: str) -> ContainerRecord:
    """Find by id, name, or a unique beginning of an id. Raises NotFound, Conflict."""
    wanted = reference.removeprefix("/")
    for container in containers:
        if wanted in (container.config.id, container.config.name):
            return container
    matches = [container for container in containers if wanted and container.config.id.startswith(wanted)]
    if not matches:
        raise no_such_container(reference)
    if len(matches) > 1:
        raise Conflict(f"Multiple IDs found with provided prefix: {reference}")
    return matches[0]
