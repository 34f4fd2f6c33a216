"""What the manager's routes stand on, and how a route gets it."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from pyswarm_common.clock import Clock
from pyswarm_manager.log_broker import LogBroker
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.tables import View


@dataclass(frozen=True)
class ManagerServices:
    """The parts of a running manager that the API uses."""

    store: Store
    log_broker: LogBroker
    clock: Clock
    leader_node_id: Callable[[], str | None]
    """The node that leads now, as far as this manager knows."""


def services_of(request: Request) -> ManagerServices:
    """Return the manager of this node. Raises Unavailable, in Docker's words, when the node is none."""
    require_manager: Callable[[], ManagerServices] = request.app.state.require_manager
    return require_manager()


async def read_view(services: ManagerServices) -> View:
    """Return the cluster as it is now: every write that was acknowledged before is in it."""
    await services.store.read_index()
    return services.store.view
