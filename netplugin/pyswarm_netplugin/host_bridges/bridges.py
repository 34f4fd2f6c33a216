"""A network of one node as the host has it: a value.

The switch itself is an overlay's without a tunnel, in a namespace of its own, where the host's firewall does not see what the
containers say to each other. The host has one end of a veth pair there, with the network's gateway address: so containers reach
the host and what it forwards to, and programs of the host reach containers by their addresses.
"""

from pyswarm_common.objects import Record
from pyswarm_netplugin.published_ports.records import PortForward

INTERFACE_PREFIX = "br-"
_ID_DIGITS = 12


class HostBridge(Record, frozen=True, kw_only=True):
    """The host's end of one network: `interface` with `address` (the gateway's, with prefix length).

    `is_internal`: nothing leads out of the network; `masquerades`: what goes out has the host's address. `forwards`: ports of the
    host that lead to containers on it. `closed_ports`: UDP ports of tunnels, to which no container may send: what arrives there is
    taken for an overlay's, whoever sent it.
    """

    network_id: str
    interface: str
    address: str
    mtu_bytes: int
    is_internal: bool = False
    masquerades: bool = True
    forwards: tuple[PortForward, ...] = ()
    closed_ports: tuple[int, ...] = (4789,)


def interface_name(network_id: str) -> str:
    """Return the name of the host's interface on a network, as Docker names its bridges."""
    return f"{INTERFACE_PREFIX}{network_id[:_ID_DIGITS]}"
