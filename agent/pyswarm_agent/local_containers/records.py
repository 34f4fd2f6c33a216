"""What is known of a local container besides what the runtime keeps; kept on disk as JSON."""

from typing import Any

import msgspec

from pyswarm_agent.local_containers.restart_policy import RestartPolicy, RestartProgress
from pyswarm_common.container_spec import DNSConfig
from pyswarm_common.objects import Record
from pyswarm_netplugin.published_ports.records import PortRequest, PublishedPort

BRIDGE, HOST, NONE, CONTAINER_PREFIX = "bridge", "host", "none", "container:"


class LocalContainer(Record, frozen=True, kw_only=True):
    """A container that was made through the Engine API. `config` and `host_config` are as `inspect` shows them."""

    id: str
    name: str
    config: dict[str, Any] = {}
    host_config: dict[str, Any] = {}
    network_mode: str = BRIDGE
    """`bridge`, `host`, `none`, or `container:` and an id."""
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
    volumes: tuple[str, ...] = ()
    """Names of the volumes that it mounts."""


class NetworkPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container that runs is on the network; `address` with prefix length, "" without one of its own."""

    netns_path: str | None
    resolv_conf: str
    hosts: str
    hostname: str = ""
    address: str = ""
    gateway: str = ""
    ports: tuple[PublishedPort, ...] = ()
