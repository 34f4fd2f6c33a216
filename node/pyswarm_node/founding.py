"""How a node founds a cluster: `swarm init`. Loaded when it is asked for, since it brings in all of the manager."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from pyswarm_common.errors import InvalidArgument, NotFound
from pyswarm_common.failpoints import failpoint
from pyswarm_common.unlock_key import new_unlock_key
from pyswarm_common.wire import ManagerAddress
from pyswarm_manager.api.swarm import cluster_settings, wants_autolock
from pyswarm_manager.ca.bootstrap import NewCluster, new_cluster
from pyswarm_manager.ca.signing import trusted_roots
from pyswarm_manager.etcd.member import free_peer_port
from pyswarm_manager.recovery.restoring import RestoredCluster
from pyswarm_manager.store.envelope import DataKeys
from pyswarm_node.addresses import is_local, join_port, resolve_advertise_address, split_port
from pyswarm_node.daemon import Daemon
from pyswarm_node.membership import Membership
from pyswarm_node.serving import bind_tcp

INIT_TIMEOUT_S = 30.0

BeginningT = TypeVar("BeginningT", NewCluster, RestoredCluster)

_log = structlog.get_logger()


@dataclass(frozen=True)
class Addresses:
    """Where the first manager listens and is reached. `listen` and `node` are host:port, the others bare IPs."""

    listen: str
    advertise: str
    node: str
    data_path: str
    data_path_port: int


def parse_addresses(request: dict[str, Any], instance_tag: str) -> Addresses:
    """Return the addresses that the body of `POST /swarm/init` means. Raises InvalidArgument."""
    listen_host, listen_port = split_port(str(request.get("ListenAddr") or "0.0.0.0:2377"))
    advertise_text = str(request.get("AdvertiseAddr") or "")
    advertise = resolve_advertise_address(advertise_text, instance_tag)
    advertised_port = split_port(advertise_text or advertise, listen_port)[1]
    data_path_port = int(request.get("DataPathPort") or 4789)
    if not 1024 <= data_path_port <= 49151:
        raise InvalidArgument("invalid data path port: it must be between 1024 and 49151")
    return Addresses(
        listen=f"{listen_host}:{listen_port}",
        advertise=advertise,
        node=join_port(advertise, str(advertised_port)),
        data_path=resolve_advertise_address(str(request.get("DataPathAddr") or "") or advertise, instance_tag),
        data_path_port=data_path_port,
    )


async def found_cluster(daemon: Daemon, request: dict[str, Any]) -> str:
    """Begin a new cluster with this node as its first manager; returns the node's id.

    Raises PyswarmError, and then leaves the node as it was.
    """
    if request.get("ForceNewCluster"):
        raise NotFound("there is no cluster on this node that could be recovered")
    addresses = parse_addresses(request, daemon.config.instance_tag)
    spec = dict(request.get("Spec") or {})
    settings = {**cluster_settings(spec), "data_path_port": addresses.data_path_port}
    if request.get("AutoLockManagers") or wants_autolock(spec):
        settings["unlock_key"] = new_unlock_key()

    def make(private_key_pem: str) -> NewCluster:
        return new_cluster(
            private_key_pem=private_key_pem,
            hostname=daemon.hostname,
            address=addresses.advertise,
            data_path_address=addresses.data_path,
            node_address=addresses.node,
            settings=settings,
            clock=daemon.clock,
        )

    new = await begin_cluster(daemon, addresses, make, timeout_s=INIT_TIMEOUT_S)
    _log.info("swarm.initialised", node=new.node.id, cluster=new.cluster.id, address=addresses.node)
    return new.node.id


async def begin_cluster(daemon: Daemon, addresses: Addresses, make: Callable[[str], BeginningT], *, timeout_s: float) -> BeginningT:
    """Make this node the first manager of the cluster that `make` returns for its private key (PEM); returns that cluster.

    Raises PyswarmError, and then leaves the node as it was.
    """
    files = daemon.files
    listener = bind_tcp(addresses.listen)
    try:
        files.forget()
        key = files.private_key()
        new = make(key)
        files.change_lock(new.cluster.unlock_key)
        files.save_certificate(root_pem=trusted_roots(new.cluster), certificate_pem=new.certificate_pem, key_pem=key)
        files.save_data_keys(DataKeys.generate().encode())
        membership = _first_membership(new, addresses, is_foreign=not is_local(addresses.advertise, daemon.config.instance_tag))
        async with asyncio.timeout(timeout_s):
            await daemon.begin_member(daemon.new_member(membership, listener=listener, new=new))
        failpoint("begin/stored")
        files.save(membership)
    except BaseException:
        listener.close()
        await daemon.end_member()
        files.forget()
        raise
    daemon.keep_running()
    return new


def _first_membership(new: NewCluster | RestoredCluster, addresses: Addresses, *, is_foreign: bool) -> Membership:
    return Membership(
        node_id=new.node.id,
        cluster_id=new.cluster.id,
        role="manager",
        advertise_address=addresses.advertise,
        data_path_address=addresses.data_path,
        listen_address=addresses.listen,
        node_address=addresses.node,
        managers=(ManagerAddress(node_id=new.node.id, address=addresses.node),),
        etcd_peer_port=free_peer_port(addresses.advertise),
        data_path_port=addresses.data_path_port,
        is_address_foreign=is_foreign,
        incarnation=new.cluster.incarnation,
    )
