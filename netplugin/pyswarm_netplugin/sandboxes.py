"""What is asked of the network for one container, and what it gets."""

from collections.abc import Mapping

from pyswarm_common.objects import NetworkAttachment, Record
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.desired import RESOLV_CONF, SandboxRecord, hosts_file
from pyswarm_netplugin.placement import Placement
from pyswarm_netplugin.published_ports.records import PortRequest, PublishedPort


class SandboxRequest(Record, frozen=True, kw_only=True):
    """A container's place in the network: `id` is the task's; interfaces eth0, eth1 … in the order of the attachments.

    `is_closed`: it has no way out. `ports` of the host are to lead to it.
    """

    id: str
    hostname: str
    attachments: tuple[NetworkAttachment, ...] = ()
    is_closed: bool = False
    ports: tuple[PortRequest, ...] = ()
    search: tuple[str, ...] = ()
    """Domains that its resolver may append to names."""
    nameservers: tuple[str, ...] = ()
    """Where its names are looked up that are none of its networks', from its namespace; () for the host's nameservers."""
    placement: Placement = Placement()


class Sandbox(Record, frozen=True, kw_only=True):
    """A namespace that is ready: its path, and the contents of two files for the container.

    `address` is that of its way out, with prefix length, "" without one; `ports` of the host lead there.
    """

    id: str
    netns_path: str
    resolv_conf: str
    hosts: str
    address: str = ""
    ports: tuple[PublishedPort, ...] = ()
    network_names: dict[str, str] = {}
    """Names of the overlays that it is on, by id."""


def sandbox_of(record: SandboxRecord, netns_path: str, views: Mapping[str, NetworkView]) -> Sandbox:
    """Return the sandbox that was made for a record."""
    return Sandbox(
        id=record.id,
        netns_path=netns_path,
        resolv_conf=RESOLV_CONF,
        hosts=hosts_file(record, views),
        address=record.egress_address,
        ports=record.ports,
        network_names={a.network_id: views[a.network_id].name for a in record.attachments if a.network_id in views},
    )
