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


class Joined(Record, frozen=True, kw_only=True):
    """A network that a container is on, or will be when it runs.

    `network`: `bridge`, or the name or id that was asked for; `network_id`, `network_name`: of a network of this node. `address`,
    `mac`: those that it is to have, "" for any. The highest `priority` has the default route, then the first by name.
    """

    network: str
    network_id: str = ""
    network_name: str = ""
    aliases: tuple[str, ...] = ()
    address: str = ""
    mac: str = ""
    priority: int = 0

    @property
    def name(self) -> str:
        """The network's name, as far as it is known."""
        return self.network_name or self.network


class LocalContainer(Record, frozen=True, kw_only=True):
    """A container that was made through the Engine API. `config` and `host_config` are as `inspect` shows them."""

    id: str
    name: str
    config: dict[str, Any] = {}
    host_config: dict[str, Any] = {}
    network_mode: str = BRIDGE
    """`bridge`, `host`, `none`, `container:` and an id, or the name or id of a network of this node or the cluster."""
    aliases: tuple[str, ...] = ()
    """Further names of it on that network."""
    address: str = ""
    """The one that it is to have there, "" for any."""
    joined: tuple[Joined, ...] | None = None
    """Its networks; None when they follow from the mode."""
    attachment: OverlayAttachment | None = None
    """Of its last run, when a network of the cluster is its only one."""
    attachments: tuple[OverlayAttachment, ...] = ()
    """Of its last run, when it is on networks of the cluster and of this node."""
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
    def names_network(self) -> bool:
        """Whether its mode is a network that somebody made, of this node or of the cluster."""
        return self.network_mode not in (BRIDGE, HOST, NONE) and not self.network_mode.startswith(CONTAINER_PREFIX)

    @property
    def joins(self) -> tuple[Joined, ...]:
        """Its networks, the mode's first; () when it is on none of its own."""
        if self.joined is not None:
            return self.joined
        if self.network_mode != BRIDGE and not self.names_network:
            return ()
        return (Joined(network=self.network_mode, aliases=self.aliases, address=self.address),)


class PlacedNetwork(Record, frozen=True, kw_only=True):
    """A container's place on one network: `address` with prefix length."""

    id: str
    name: str
    address: str = ""
    gateway: str = ""
    mac: str = ""


class NetworkPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container that runs is on the network; `address` with prefix length, "" without one of its own."""

    netns_path: str | None
    resolv_conf: str
    hosts: str
    hostname: str = ""
    address: str = ""
    gateway: str = ""
    ports: tuple[PublishedPort, ...] = ()
    networks: tuple[PlacedNetwork, ...] = ()
    """Those that somebody made. The default bridge has `address` and `gateway`."""
    attachment: OverlayAttachment | None = None
    """On a network of the cluster alone: its address is `address`."""
    attachments: tuple[OverlayAttachment, ...] = ()
    """On networks of the cluster beside those of this node."""
