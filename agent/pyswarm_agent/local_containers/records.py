"""What is known of a local container besides what the runtime keeps; kept on disk as JSON."""

from typing import Any

import msgspec

from pyswarm_agent.local_containers.restart_policy import RestartPolicy, RestartProgress
from pyswarm_common.container_spec import DNSConfig
from pyswarm_common.objects import Record
from pyswarm_netplugin.published_ports.records import PortRequest, PublishedPort

BRIDGE, HOST, NONE, CONTAINER_PREFIX = "bridge", "host", "none", "container:"


class OverlayAttachment(Record, frozen=True, kw_only=True):
    """A single container's place on a network of the cluster during one run: `address` with prefix length."""

    id: str
    network_id: str
    network_name: str
    address: str
    ports: tuple[PublishedPort, ...] = ()


class LocalContainer(Record, frozen=True, kw_only=True):
    """A container that was made through the Engine API. `config` and `host_config` are as `inspect` shows them."""

    id: str
    name: str
    config: dict[str, Any] = {}
    host_config: dict[str, Any] = {}
    network_mode: str = BRIDGE
    """`bridge`, `host`, `none`, `container:` and an id, or the name or id of an attachable network of the cluster."""
    aliases: tuple[str, ...] = ()
    """Further names of it on that network."""
    address: str = ""
    """The one that it is to have there, "" for any."""
    attachment: OverlayAttachment | None = None
    """Of its last run."""
    port_requests: tuple[PortRequest, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    """As `name:address`."""
    dns: DNSConfig = DNSConfig()
    restart_policy: RestartPolicy = RestartPolicy()
    restarts: RestartProgress = RestartProgress()
    auto_remove: bool = False
    is_stopped_by_hand: bool = False
    was_started: bool = False
    start_error: str = ""
    """Why it could not be started the last time, and with which exit code it counts."""
    start_exit_code: int = 0
    is_going: bool = False
    """Whether it is being removed with its anonymous volumes."""
    volumes: tuple[str, ...] = ()
    """Names of the volumes that it mounts."""

    @property
    def is_on_overlay(self) -> bool:
        """Whether it joins a network of the cluster."""
        return self.network_mode not in (BRIDGE, HOST, NONE) and not self.network_mode.startswith(CONTAINER_PREFIX)


class NetworkPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container that runs is on the network; `address` with prefix length, "" without one of its own."""

    netns_path: str | None
    resolv_conf: str
    hosts: str
    hostname: str = ""
    address: str = ""
    gateway: str = ""
    ports: tuple[PublishedPort, ...] = ()
    attachment: OverlayAttachment | None = None
    """On a network of the cluster: its address is `address`."""
