"""Which address a node advertises: given as an address, an interface, or neither; and what when the machine loses it."""

import ipaddress

import msgspec

from pyswarm_common.errors import InvalidArgument
from pyswarm_netplugin.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from pyswarm_netplugin.kernel.observe import read_addresses, read_links
from pyswarm_node.membership import Membership

DEFAULT_NODE_PORT = 2377


def split_port(text: str, default_port: int = DEFAULT_NODE_PORT) -> tuple[str, int]:
    """Return host and port of `host`, `host:port` or `[v6]:port`. Raises InvalidArgument."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text.strip(), str(default_port)
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"{text} is not an address: expected ADDRESS or ADDRESS:PORT with a port from 1 to 65535")
    return host.strip("[]"), int(port)


def resolve_advertise_address(text: str, instance_tag: str) -> str:
    """Return the address to advertise for an address, an interface's name, or "" (the only address there is).

    Raises InvalidArgument, in Docker's words where there are several to choose from.
    """
    host = split_port(text)[0] if text else ""
    addresses = local_addresses(instance_tag)
    if host in addresses:
        return addresses[host][0]
    if host:
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            known = ", ".join(sorted(addresses))
            raise InvalidArgument(f"{host} is neither an address nor an interface of this machine (it has {known})") from None
    candidates = [(name, address) for name, all_ in sorted(addresses.items()) if name != "lo" for address in all_]
    if len(candidates) == 1:
        return candidates[0][1]
    if not candidates:
        raise InvalidArgument("could not find the system's IP address; specify one with --advertise-addr")
    choices = ", ".join(f"{address} on {name}" for name, address in candidates)
    raise InvalidArgument(
        "could not choose an IP address to advertise since this system has multiple addresses "
        f"({choices}) - specify one with --advertise-addr"
    )


def local_addresses(instance_tag: str) -> dict[str, list[str]]:
    """Return this machine's IPv4 addresses by interface; those of this daemon's own interfaces are left out."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        addresses = read_addresses(netlink)
        links = read_links(netlink)
    return {
        name: [address.partition("/")[0] for address in addresses[link.index]]
        for name, link in links.items()
        if link.index in addresses and not name.startswith(f"{instance_tag}-")
    }


def is_local(address: str, instance_tag: str) -> bool:
    """Whether this machine has the address: behind NAT, what a node advertises may be another machine's."""
    return any(address in found for found in local_addresses(instance_tag).values())


def readdressed(membership: Membership, asked: str, instance_tag: str) -> Membership:
    """Return the membership with the address that the node shall have from now on.

    That is `asked` (an address or interface) if given; or the machine's only one when it has lost the one that it advertised.
    Raises InvalidArgument when there are several to choose from.
    """
    former = membership.advertise_address
    if not asked and (membership.is_address_foreign or is_local(former, instance_tag)):
        return membership
    address = resolve_advertise_address(asked, instance_tag)
    port = membership.node_address.rpartition(":")[2]
    return msgspec.structs.replace(
        membership,
        advertise_address=address,
        data_path_address=address if membership.data_path_address == former else membership.data_path_address,
        node_address=join_port(address, port) if port else "",
        is_address_foreign=not is_local(address, instance_tag),
    )


def join_port(host: str, port: str) -> str:
    """Return host:port, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
