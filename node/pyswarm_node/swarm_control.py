"""`swarm init`, `join` and `leave` on this node, as the API asks for them.

Each either succeeds as a whole or leaves the node as it was. `state.json` is written last when entering a cluster and removed
first when leaving it, so a daemon that is killed in between starts again as a node of no cluster and clears what it finds.
"""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from pyswarm_agent.api.agent_services import AgentServices
from pyswarm_common import pki
from pyswarm_common.errors import InvalidArgument, PyswarmError, Unavailable
from pyswarm_common.objects import NodeResources
from pyswarm_common.wire import JoinRequest
from pyswarm_node.addresses import resolve_advertise_address, split_port
from pyswarm_node.api.control import ALREADY_IN_SWARM, NOT_IN_SWARM, LocalState, SwarmState
from pyswarm_node.daemon import Daemon
from pyswarm_node.hardware import total_memory_bytes, total_nano_cpus
from pyswarm_node.joining import join_cluster
from pyswarm_node.membership import Membership

if TYPE_CHECKING:
    from pyswarm_manager.api.manager_services import ManagerServices

_log = structlog.get_logger()


class SwarmControl:
    """The daemon as the API sees it (`api.control.NodeControl`). Membership changes one at a time."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._busy = asyncio.Lock()
        self._resources = NodeResources(nano_cpus=total_nano_cpus(), memory_bytes=total_memory_bytes())
        self.agent = AgentServices(daemon.local.images, daemon.local.runtime, daemon.clock)

    @property
    def manager(self) -> "ManagerServices | None":
        """This node's manager, while it serves."""
        member = self._daemon.member
        return member.manager_services if member is not None else None

    @property
    def local(self) -> LocalState:
        """The node as it is now."""
        daemon = self._daemon
        membership = daemon.files.load()
        state = LocalState(
            swarm_state="inactive", hostname=daemon.hostname, resources=self._resources, data_dir=daemon.config.data_dir
        )
        if membership is None:
            return state
        swarm_state: SwarmState = "error" if daemon.error else "active"
        return replace(
            state,
            swarm_state=swarm_state,
            node_id=membership.node_id,
            node_addr=membership.advertise_address,
            error=daemon.error,
            is_manager=membership.is_manager,
            managers=membership.managers,
        )

    async def init_swarm(self, request: dict[str, Any]) -> str:
        """Begin a new cluster with this node as its first manager; returns the node's id."""
        async with self._busy:
            self._require_no_membership()
            from pyswarm_node.founding import found_cluster  # brings in all of the manager, which workers shall not carry

            return await found_cluster(self._daemon, request)

    async def join_swarm(self, request: dict[str, Any]) -> None:
        """Join an existing cluster through the first of the given managers that answers."""
        async with self._busy:
            daemon, files = self._daemon, self._daemon.files
            self._require_no_membership()
            token = str(request.get("JoinToken") or "")
            pki.parse_join_token(token)
            remotes = [":".join(map(str, split_port(str(r)))) for r in request.get("RemoteAddrs") or () if str(r).strip()]
            if not remotes:
                raise InvalidArgument("at least one remote address is required: pyswarm swarm join --token TOKEN HOST:2377")
            advertise = str(request.get("AdvertiseAddr") or "")
            address = self._resolve(advertise) if advertise else ""
            key = files.private_key()
            join_request = JoinRequest(
                token=token,
                signing_request_pem=pki.new_signing_request(key),
                hostname=daemon.hostname,
                address=address,
            )
            answer = await _join_any(remotes, join_request)
            data_path = str(request.get("DataPathAddr") or "")
            files.save_certificate(root_pem=answer.root_certificate_pem, certificate_pem=answer.certificate_pem, key_pem=key)
            membership = Membership(
                node_id=answer.node_id,
                cluster_id=answer.cluster_id,
                role=answer.role,
                advertise_address=answer.address,
                data_path_address=self._resolve(data_path) if data_path else answer.address,
                listen_address=str(request.get("ListenAddr") or "0.0.0.0:2377"),
                managers=answer.managers,
                data_path_port=answer.data_path_port,
            )
            files.save(membership)
            await daemon.begin_member(daemon.new_member(membership))
            daemon.keep_running()
            _log.info("swarm.joined", node=answer.node_id, cluster=answer.cluster_id, role=answer.role)

    async def leave_swarm(self, force: bool) -> None:
        """Leave the cluster: everything of it on this node is removed."""
        async with self._busy:
            daemon, membership = self._daemon, self._daemon.files.load()
            if membership is None:
                raise Unavailable(NOT_IN_SWARM)
            await daemon.end_member()
            daemon.files.forget()
            await daemon.new_member(membership, listener=None).remove_everything()
            daemon.clear_cluster_state()
            _log.info("swarm.left", node=membership.node_id)

    def _resolve(self, text: str) -> str:
        return resolve_advertise_address(text, self._daemon.config.instance_tag)

    def _require_no_membership(self) -> None:
        if self._daemon.files.load() is not None:
            raise Unavailable(ALREADY_IN_SWARM)


async def _join_any(remotes: list[str], request: JoinRequest) -> Any:
    """Return the first answer; an error that another manager would give too is raised at once."""
    failure: PyswarmError | None = None
    for remote in remotes:
        try:
            return await join_cluster(remote, request)
        except Unavailable as error:
            failure = failure or error
    raise failure or Unavailable("no manager answered")
