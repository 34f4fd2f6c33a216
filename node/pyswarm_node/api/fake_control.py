"""A daemon that only says yes: a `NodeControl` for tests of the API, with a real store and real services behind it."""

from dataclasses import replace
from typing import Any

from pyswarm_agent.api.agent_services import AgentServices
from pyswarm_manager.api.manager_services import ManagerServices
from pyswarm_node.api.control import LocalState


class FakeNodeControl:
    """Keeps the state that tests set; init, join, unlock and leave change it and are remembered in `requests`."""

    def __init__(self, local: LocalState, agent: AgentServices, manager: ManagerServices | None = None) -> None:
        self.local = local
        self.agent = agent
        self.manager = manager
        self.requests: list[tuple[str, Any]] = []

    async def init_swarm(self, request: dict[str, Any]) -> str:
        """Become an active manager."""
        self.requests.append(("init", request))
        self.local = replace(self.local, swarm_state="active", is_manager=True)
        return self.local.node_id

    async def join_swarm(self, request: dict[str, Any]) -> None:
        """Become an active worker."""
        self.requests.append(("join", request))
        self.local = replace(self.local, swarm_state="active", is_manager=False)

    async def unlock_swarm(self, unlock_key: str) -> None:
        """Be active again."""
        self.requests.append(("unlock", unlock_key))
        self.local = replace(self.local, swarm_state="active", is_manager=True)

    async def restore_swarm(self, backup: bytes, addresses: dict[str, Any], unlock_key: str) -> dict[str, Any]:
        """Become an active manager."""
        self.requests.append(("restore", (backup, addresses, unlock_key)))
        self.local = replace(self.local, swarm_state="active", is_manager=True)
        address = f"{self.local.node_addr}:2377"
        return {"NodeID": self.local.node_id, "NodeAddr": address, "FormerManagers": [self.local.node_addr], "Locked": False}

    async def leave_swarm(self, force: bool) -> None:
        """Be in no swarm."""
        self.requests.append(("leave", force))
        self.local = replace(self.local, swarm_state="inactive", is_manager=False)
        self.manager = None
