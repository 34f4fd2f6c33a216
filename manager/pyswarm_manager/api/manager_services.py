"""What the manager's routes stand on, and how a route gets it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request

from pyswarm_common.clock import Clock
from pyswarm_manager.api.image_pinning import ImagePinning
from pyswarm_manager.log_broker import LogBroker
from pyswarm_manager.peer_health import Reachability
from pyswarm_manager.reach.tunnels import NodeTunnels
from pyswarm_manager.store.leadership import no_leader
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.tables import Tables, View

if TYPE_CHECKING:
    from pyswarm_manager.forwarding.leader_requests import LeaderRequests


AnswerT = TypeVar("AnswerT")
STORE_FULL = (
    "the cluster's store is full (mvcc: database space exceeded) and takes no changes: "
    "managers make room by themselves, which takes a minute; if it comes back, there are too many objects"
)


@dataclass(frozen=True)
class ManagerServices:
    """The parts of a running manager that the API uses."""

    store: Store
    log_broker: LogBroker
    clock: Clock
    leader_node_id: Callable[[], str | None]
    """The node that leads now, as far as this manager knows."""
    reachability: Callable[[str], Reachability] = lambda _: "unknown"
    """Whether a manager can be reached, as this one finds (`PeerHealth`)."""
    leader_requests: "LeaderRequests | None" = None
    """The way to the leader; None where this is the only manager for certain."""
    tunnels: NodeTunnels = field(default_factory=NodeTunnels)
    """The ways to the Engine API of nodes."""
    image_pinning: ImagePinning | None = None
    """How images get their digests; None where no registry is to be asked."""

    def problem(self) -> str:
        """Return why the cluster cannot be changed through this manager now; "" when it can."""
        if not self.store.is_serving:
            return self.store.trouble() or "this manager's etcd member does not answer"
        if self.leader_node_id() is None:
            return no_leader().api_message
        return STORE_FULL if self.store.has_alarm else ""


def services_of(request: Request) -> ManagerServices:
    """Return the manager of this node. Raises Unavailable, in Docker's words, when the node is none."""
    require_manager: Callable[[], ManagerServices] = request.app.state.require_manager
    return require_manager()


async def read_view(services: ManagerServices) -> View:
    """Return the cluster as it is now: every write that was acknowledged before is in it."""
    await services.store.read_index()
    return services.store.view


async def ask_snapshot(services: ManagerServices, question: Callable[[View], AnswerT]) -> AnswerT:
    """Return the answer to a question that takes long in a large cluster, found beside the event loop on a copy of its tables."""
    view = await read_view(services)
    assert isinstance(view, Tables)  # a store's view is; only transactions show something else
    return await asyncio.to_thread(question, view.copy())
