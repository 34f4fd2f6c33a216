"""`swarm init`, `join` and `leave` on this node, as the API asks for them.

Each either succeeds as a whole or leaves the node as it was. `state.json` is written last when entering a cluster and removed
first when leaving it, so a daemon that is killed in between starts again as a node of no cluster and clears what it finds.
"""

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from pyswarm_agent.api.agent_services import AgentServices
from pyswarm_common import pki
from pyswarm_common.errors import Conflict, InvalidArgument, PermissionDenied, PyswarmError, Unavailable
from pyswarm_common.failpoints import failpoint
from pyswarm_common.wire import JoinRequest
from pyswarm_node.addresses import is_local, resolve_advertise_address, split_port
from pyswarm_node.api.control import ALREADY_IN_SWARM, NOT_IN_SWARM, LocalState, SwarmState
from pyswarm_node.daemon import Daemon
from pyswarm_node.hardware import describe_resources
from pyswarm_node.joining import join_cluster
from pyswarm_node.key_file import SWARM_IS_LOCKED
from pyswarm_node.member import ClusterMember
from pyswarm_node.membership import Membership

if TYPE_CHECKING:
    from pyswarm_manager.api.manager_services import ManagerServices

JOIN_WAIT_S = 50.0
"""How long a manager may take to join while its client waits; managers join one after the other, about 5 s each."""
UNLOCK_WAIT_S = 10.0
"""How long `swarm unlock` waits for its manager to serve."""

_log = structlog.get_logger()


class SwarmControl:
    """The daemon as the API sees it (`api.control.NodeControl`). Membership changes one at a time."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._busy = asyncio.Lock()
        self._resources = describe_resources(daemon.config.generic_resources)
        parts = daemon.local
        self.agent = AgentServices(
            parts.images,
            parts.runtime,
            parts.volumes,
            parts.health,
            parts.access,
            parts.single,
            parts.events,
            daemon.clock,
            parts.network_watch,
        )

    @property
    def manager(self) -> "ManagerServices | None":
        """This node's manager, while it serves."""
        member = self._daemon.member
        return member.manager_services if member is not None else None

    @property
    def local(self) -> LocalState:
        """The node as it is now."""
        daemon = self._daemon
        membership = daemon.read_membership()
        state = LocalState(
            swarm_state="inactive",
            hostname=daemon.hostname,
            resources=self._resources,
            data_dir=daemon.config.data_dir,
            log_driver=daemon.config.log_driver,
        )
        if membership is None:
            return state
        return replace(
            state,
            swarm_state=self._state_of(membership),
            node_id=membership.node_id,
            node_addr=membership.advertise_address,
            error=self._error,
            progress=daemon.member.manager.progress if daemon.member is not None else "",
            is_manager=membership.is_manager,
            managers=membership.managers,
            encryption=daemon.member.encryption if daemon.member is not None else "",
        )

    @property
    def _error(self) -> str:
        if self._daemon.files.is_locked:
            return SWARM_IS_LOCKED
        member = self._daemon.member
        return self._daemon.error or (member.manager.error if member is not None else "")

    def _state_of(self, membership: Membership) -> SwarmState:
        if self._daemon.files.is_locked:
            return "locked"
        if self._error:
            return "error"
        member = self._daemon.member
        has_begun = self.manager is not None if membership.is_manager else member is not None and member.has_been_told.is_set()
        return "active" if has_begun else "pending"

    async def init_swarm(self, request: dict[str, Any]) -> str:
        """Begin a new cluster with this node as its first manager, or force one from its data; returns the node's id."""
        async with self._busy:
            if request.get("ForceNewCluster") and self._daemon.files.load() is not None:
                from pyswarm_node.forcing import force_new_cluster

                return await force_new_cluster(self._daemon, request)
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
            failpoint("join/admitted")
            data_path = str(request.get("DataPathAddr") or "")
            files.change_lock(answer.unlock_key)
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
                is_address_foreign=not is_local(answer.address, daemon.config.instance_tag),
            )
            failpoint("join/certificate-saved")
            files.save(membership)
            failpoint("join/remembered")
            _log.info("swarm.joined", node=answer.node_id, cluster=answer.cluster_id, role=answer.role)
            await self._begin(daemon.new_member(membership))

    async def _begin(self, member: ClusterMember) -> None:
        """Be at work in the cluster from now on; returns when a manager serves. Raises Unavailable when that takes long."""
        daemon = self._daemon
        daemon.start_member(member)
        daemon.keep_running()
        try:
            async with asyncio.timeout(JOIN_WAIT_S):
                await member.wait_ready()
        except TimeoutError:
            why = member.manager.error or member.manager.progress
            raise Unavailable(
                "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. "
                f'Use the "docker info" command to see the current swarm status of your node. Last seen: {why}'
            ) from None

    async def unlock_swarm(self, unlock_key: str) -> None:
        """Open the node's locked keys and start; returns when the manager serves, or soon: the others may be locked too."""
        async with self._busy:
            daemon = self._daemon
            if daemon.files.load() is None:
                raise Unavailable(NOT_IN_SWARM)
            if not daemon.files.is_locked:
                raise Conflict("swarm is not locked")
            member = daemon.unlock(unlock_key)
            _log.info("swarm.unlocked")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UNLOCK_WAIT_S):
                    await member.wait_ready()

    async def restore_swarm(self, backup: bytes, addresses: dict[str, Any], unlock_key: str) -> dict[str, Any]:
        """Begin the cluster in a backup anew, with this node as its only manager."""
        async with self._busy:
            self._require_no_membership()
            from pyswarm_node.restoring import restore_cluster  # brings in all of the manager, as founding does

            return await restore_cluster(self._daemon, backup, addresses, unlock_key)

    async def leave_swarm(self, force: bool) -> None:
        """Leave the cluster: everything of it on this node is removed."""
        async with self._busy:
            daemon, membership = self._daemon, self._daemon.read_membership()
            if membership is None:
                raise Unavailable(NOT_IN_SWARM)
            if membership.is_manager:
                await self._leave_managers(force)
                failpoint("leave/manager-removed")
            await daemon.end_member()
            daemon.files.forget()
            failpoint("leave/forgotten")
            await daemon.new_member(membership, listener=None).remove_everything()
            daemon.clear_cluster_state()
            daemon.error = ""
            _log.info("swarm.left", node=membership.node_id)

    async def _leave_managers(self, force: bool) -> None:
        """Be removed from the managers, unless this is the last one; forced, go even when that cannot be."""
        member, manager = self._daemon.member, self.manager
        if member is None or manager is None or sum(n.manager is not None for n in manager.store.view.nodes) <= 1:
            return
        for is_last_try in (False, True):  # a leader that hands over says no for that time
            try:
                await member.directory.leave()
                return
            except PyswarmError as error:
                if error.status_code == PermissionDenied.status_code:
                    return  # it is none any more
                _log.warning("swarm.left_without_leave", reason=error.message)
                if is_last_try and not force:
                    raise

    def _resolve(self, text: str) -> str:
        return resolve_advertise_address(text, self._daemon.config.instance_tag)

    def _require_no_membership(self) -> None:
        if self._daemon.read_membership() is not None:
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
