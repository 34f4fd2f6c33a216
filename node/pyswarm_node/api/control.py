"""What the API asks of the daemon: its present state, and the three changes of membership. pyswarmd implements `NodeControl`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from pyswarm_agent.api.agent_services import AgentServices
from pyswarm_common.errors import Unavailable
from pyswarm_common.log_drivers import DEFAULT_DRIVER
from pyswarm_common.objects import NodeResources
from pyswarm_common.wire import ManagerAddress
from pyswarm_node.key_file import SWARM_IS_LOCKED

if TYPE_CHECKING:
    from pyswarm_manager.api.manager_services import ManagerServices

SwarmState: TypeAlias = Literal["inactive", "pending", "error", "locked", "active"]

NOT_IN_SWARM = "This node is not part of a swarm"
ALREADY_IN_SWARM = 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.'
_NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.'
)
NOT_A_MANAGER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)


@dataclass(frozen=True)
class LocalState:
    """The node as it is now. `node_addr` is the address that it advertises, `managers` the managers that it knows."""

    swarm_state: SwarmState
    hostname: str
    resources: NodeResources
    data_dir: Path
    node_id: str = ""
    node_addr: str = ""
    error: str = ""
    progress: str = ""
    """What a manager that does not serve yet is waiting for."""
    is_manager: bool = False
    managers: tuple[ManagerAddress, ...] = ()
    log_driver: str = DEFAULT_DRIVER
    encryption: str = ""
    """How it carries encrypted overlays, or why it cannot; "" when that was not looked at."""


class NodeControl(Protocol):
    """The daemon, as the API sees it."""

    @property
    def local(self) -> LocalState:
        """The node as it is now."""
        ...

    @property
    def manager(self) -> "ManagerServices | None":
        """This node's manager; None on workers, outside a swarm, and while it starts."""
        ...

    @property
    def agent(self) -> AgentServices:
        """This node's images and containers."""
        ...

    async def init_swarm(self, request: dict[str, Any]) -> str:
        """Found a swarm, as the body of `POST /swarm/init` (without nulls) says; returns the node's id. Raises PyswarmError."""
        ...

    async def join_swarm(self, request: dict[str, Any]) -> None:
        """Join a swarm, as the body of `POST /swarm/join` (without nulls) says. Raises PyswarmError."""
        ...

    async def unlock_swarm(self, unlock_key: str) -> None:
        """Open a locked node's keys and start. Raises Conflict when it is not locked, Unauthenticated for a wrong key."""
        ...

    async def restore_swarm(self, backup: bytes, addresses: dict[str, Any], unlock_key: str) -> dict[str, Any]:
        """Begin the swarm in a backup anew; `addresses`: of `POST /swarm/init`. Returns what to answer. Raises PyswarmError."""
        ...

    async def leave_swarm(self, force: bool) -> None:
        """Leave the swarm; the API has asked before whether a manager may. Raises PyswarmError."""
        ...


def require_manager(control: NodeControl) -> "ManagerServices":
    """Return this node's manager. Raises Unavailable, in Docker's words, when there is none."""
    manager = control.manager
    if manager is not None:
        return manager
    local = control.local
    if local.swarm_state == "locked":
        raise Unavailable(SWARM_IS_LOCKED)
    if local.is_manager:
        reason = f": {local.error}" if local.error else ", try again in a moment"
        raise Unavailable(f"This node's manager is not ready{reason}")
    raise Unavailable(_NO_MANAGER if local.swarm_state == "inactive" else NOT_A_MANAGER)
