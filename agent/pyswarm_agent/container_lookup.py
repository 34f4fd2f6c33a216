"""Which of this node's containers a reference means; pure."""

from collections.abc import Iterable

from pyswarm_agent.runtime.interface import no_such_container
from pyswarm_agent.runtime.records import ContainerRecord
from pyswarm_common.errors import Conflict


def find_container(containers: Iterable[ContainerRecord], reference: str) -> ContainerRecord:
    """Find by id, name, or a unique beginning of an id. Raises NotFound, Conflict."""
    wanted = reference.removeprefix("/")
    known = list(containers)
    for container in known:
        if wanted in (container.config.id, container.config.name):
            return container
    matches = [container for container in known if wanted and container.config.id.startswith(wanted)]
    if not matches:
        raise no_such_container(reference)
    if len(matches) > 1:
        raise Conflict(f"Multiple IDs found with provided prefix: {reference}")
    return matches[0]
