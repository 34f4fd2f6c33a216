"""Whether a node suits a task template, as far as that does not depend on what else runs there: constraints, platforms. Pure.

What the scheduler's filters ask before a task is placed is asked here of tasks that are there already, and for global services.
"""

from collections.abc import Sequence

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Node
from pyswarm_common.specs import Placement, Platform, TaskTemplate
from pyswarm_manager.scheduler.constraints import Constraint, normal_architecture, parse_constraints

NO_LONGER_MEETS_CONSTRAINTS = "assigned node no longer meets constraints"
_NO_PLACEMENT = Placement()


class Suitability:
    """What one template asks of any node; make one and ask it of many nodes."""

    def __init__(self, template: TaskTemplate) -> None:
        placement = template.placement or _NO_PLACEMENT
        self._constraints = _parsed(placement.constraints or ())
        self._platforms = placement.platforms or ()

    def suits(self, node: Node) -> bool:
        """Whether the node satisfies all constraints, and one of the platforms if any are named."""
        if self._constraints is None or not all(constraint.matches(node) for constraint in self._constraints):
            return False
        return not self._platforms or any(_runs(platform, node) for platform in self._platforms)


def _parsed(expressions: Sequence[str]) -> tuple[Constraint, ...] | None:
    """The constraints; None, which nothing satisfies, when they cannot be understood."""
    try:
        return parse_constraints(expressions)
    except InvalidArgument:
        return None


def _runs(platform: Platform, node: Node) -> bool:
    """Whether the node is of this platform; an empty part of it means any."""
    description = node.description
    has_architecture = normal_architecture(platform.architecture) == normal_architecture(description.architecture)
    return (not platform.architecture or has_architecture) and (not platform.os or platform.os.lower() == description.os.lower())
