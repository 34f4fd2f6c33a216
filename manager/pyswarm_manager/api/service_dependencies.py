"""What a service may depend on (label `pyswarm.depends_on`), and the form of that label and of `pyswarm.rebalance`.

A service that is named need not exist, as `docker stack deploy` creates services in any order. So a cycle is closed by whichever
service comes last, and that one is refused.
"""

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.service_labels import DEPENDS_ON, REBALANCE, full_names, names_depended_on
from pyswarm_common.specs import ServiceSpec
from pyswarm_manager.api.service_validation import validate_name
from pyswarm_manager.store.tables import View


def validate_dependency_labels(spec: ServiceSpec) -> None:
    """Check the labels by themselves. Raises InvalidArgument."""
    labels = spec.labels or {}
    for name in names_depended_on(labels):
        try:
            validate_name(name)
        except InvalidArgument as error:
            problem = f'label {DEPENDS_ON}: "{name}" is not the name of a service ({error}); separate names by commas'
            raise InvalidArgument(problem, grpc_code="InvalidArgument") from error
    if labels.get(REBALANCE, "").lower() not in ("", "true", "false"):
        raise InvalidArgument(f'label {REBALANCE} is "{labels[REBALANCE]}": it must be true or false', grpc_code="InvalidArgument")


def refuse_cycle(view: View, name: str, labels: dict[str, str] | None) -> None:
    """Check that a service with this name and these labels would not wait for itself. Raises InvalidArgument, showing the cycle."""
    cycle = _find_cycle(view, name, labels)
    if not cycle:
        return
    if len(cycle) == 1:
        problem = f"service {name} cannot depend on itself"
    else:
        problem = f"services cannot depend on each other in a circle: {' -> '.join([*cycle, name])}"
    raise InvalidArgument(f"label {DEPENDS_ON}: {problem}", grpc_code="InvalidArgument")


def _find_cycle(view: View, name: str, labels: dict[str, str] | None) -> list[str]:
    """The services on a way from this one back to it, beginning with it; none when there is no such way."""
    came_from: dict[str, str] = {}
    pending = [name]
    while pending:
        current = pending.pop()
        for following in _dependencies(view, current, name, labels):
            if following == name:
                return _way(came_from, name, current)
            if following not in came_from:
                came_from[following] = current
                pending.append(following)
    return []


def _way(came_from: dict[str, str], first: str, last: str) -> list[str]:
    way = [last]
    while way[-1] != first:
        way.append(came_from[way[-1]])
    return way[::-1]


def _dependencies(view: View, current: str, name: str, labels: dict[str, str] | None) -> list[str]:
    """What a service depends on, of what is there or is just being stored as `name`; full names."""
    if current != name:
        labels = view.services.named(current)[0].spec.labels
    found = []
    for short_name in names_depended_on(labels):
        full_name = next((n for n in full_names(short_name, labels) if n == name or view.services.named(n)), None)
        if full_name is not None:
            found.append(full_name)
    return found
