"""What is left of a node's resources while the tasks on it are counted. Pure."""

from collections import Counter
from collections.abc import Iterable

from pyswarm_common.objects import NodeResources
from pyswarm_common.specs import GenericResource, ResourceAmounts, TaskTemplate

_NO_RESERVATION = ResourceAmounts()
_UNKNOWN = 2**62
"""Of a node that does not say how many processes it allows."""


class Room:
    """A node's resources, before any task."""

    def __init__(self, resources: NodeResources) -> None:
        self._nano_cpus = resources.nano_cpus
        self._memory_bytes = resources.memory_bytes
        self._pids = resources.pids or _UNKNOWN
        self._generic = _counted(resources.generic_resources)

    def take(self, template: TaskTemplate, generic_resources: Iterable[GenericResource]) -> bool:
        """Count a task's reservations and the generic resources it was given; False, with nothing counted, when it is too much."""
        reservation = (template.resources.reservations if template.resources else None) or _NO_RESERVATION
        given = _counted(generic_resources)
        if reservation.nano_cpus > self._nano_cpus or reservation.memory_bytes > self._memory_bytes:
            return False
        if reservation.pids > self._pids:
            return False
        if any(count > self._generic[resource] for resource, count in given.items()):
            return False
        self._nano_cpus -= reservation.nano_cpus
        self._memory_bytes -= reservation.memory_bytes
        self._pids -= reservation.pids
        self._generic.subtract(given)
        return True


def _counted(resources: Iterable[GenericResource]) -> Counter[tuple[str, str]]:
    """How many there are of each kind (and name, of named ones)."""
    counts: Counter[tuple[str, str]] = Counter()
    for resource in resources:
        if (discrete := resource.discrete_resource_spec) is not None:
            counts[discrete.kind, ""] += discrete.value
        if (named := resource.named_resource_spec) is not None:
            counts[named.kind, named.value] += 1
    return counts
