"""Names and hardware addresses of everything that the data plane makes in the kernel; pure.

A name is computed, never remembered: the same task, network or address always has the same name, so that a restarted daemon
finds its own things. Interface names have at most 15 characters; the instance tag has 4 to 6.
"""

import hashlib
import ipaddress
import re
import socket

from pyswarm_common.errors import InvalidArgument

OVERLAY_BRIDGE = "br0"
OVERLAY_TUNNEL = "vxlan0"
HOST_PORT = "host0"
"""The port of an overlay's bridge behind which is the host, on networks of one node."""
TRUNK_PORT = "trunk0"
"""The port of an overlay's bridge behind which is another driver's bridge of the same network."""
SANDBOX_TABLE = "pyswarm"
IPV6_GUARD_TABLE = "pyswarm_ipv6guard"
"""In the host's namespace, of all instances together; no tag is that long."""
PORTS_TABLE_SUFFIX = "_ports"
OVERLAY_PREFIX = "o-"
SANDBOX_PREFIX = "s-"
SECURE_NAMESPACE = "secure"
SECURE_INTERFACE = "wg0"

SOURCE_HASH_PREFIX, IN_TURN_PREFIX = "h", "t"
"""Of the names of balancers' chains, by the way in which they balance."""

_TAG = re.compile(r"[a-z0-9]{4,6}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


def check_tag(tag: str) -> str:
    """Return the instance tag. Raises InvalidArgument unless it has 4 to 6 characters of a–z and 0–9."""
    if not _TAG.fullmatch(tag):
        raise InvalidArgument(f"instance tag {tag!r} is not 4 to 6 characters of a-z and 0-9")
    return tag


def check_id(id_: str, what: str) -> str:
    """Return the id, which becomes a file's name. Raises InvalidArgument when it could lead elsewhere."""
    if not _ID.fullmatch(id_):
        raise InvalidArgument(f"{what} id {id_!r} cannot name a file")
    return id_


def address_of(interface: str) -> str:
    """Return the address alone: `10.0.1.5` of `10.0.1.5/24`."""
    return interface.partition("/")[0]


def is_ipv6(address: str) -> bool:
    """Whether an address, with or without prefix length, is one of IPv6."""
    return ":" in address


def mac_of(address: str, own: str = "") -> bytes:
    """Return the hardware address of an IPv4 address: its `own`, or 02:42 and its four bytes, as Docker has it."""
    return bytes.fromhex(own.replace(":", "")) if own else b"\x02\x42" + socket.inet_aton(address)


def mac_text(mac: bytes, address: str = "") -> str:
    """Return a hardware address as text; "" when it is the one made of this IPv4 address."""
    return "" if address and mac == mac_of(address) else mac.hex(":")


def address_of_mac(mac: bytes) -> str | None:
    """Return the IPv4 address that a hardware address was made of, or None when it is not one of ours."""
    return str(ipaddress.IPv4Address(mac[2:])) if len(mac) == 6 and mac.startswith(b"\x02\x42") else None


def digest(*parts: str) -> str:
    """Return eight hexadecimal digits that stand for the parts."""
    return hashlib.blake2s("\0".join(parts).encode(), digest_size=4).hexdigest()


def overlay_port(sandbox_id: str, network_id: str) -> str:
    """Return the name of a sandbox's port on an overlay's bridge."""
    return f"p{digest(sandbox_id, network_id)}"


def egress_bridge(tag: str) -> str:
    """Return the name of the host's bridge that leads out."""
    return f"{tag}-egress"


def egress_port(tag: str, sandbox_id: str) -> str:
    """Return the name of a sandbox's port on the egress bridge."""
    return f"{tag}e{digest(sandbox_id)}"


def is_egress_port(tag: str, name: str) -> bool:
    """Whether an interface of the host is an egress port of this instance. Tags of other lengths never match."""
    return re.fullmatch(rf"{tag}e[0-9a-f]{{8}}", name) is not None


def secure_interface(tag: str, folder: str) -> str:
    """Return the name by which a host knows the WireGuard interface on its way into the secure namespace.

    wireguard-go's socket has it too, so no other folder of namespaces has the same.
    """
    return f"{tag}w{digest(folder)}"


def host_table(tag: str) -> str:
    """Return the name of this instance's nft table in the host's namespace."""
    return f"pyswarm_{tag}"


def ports_table(tag: str) -> str:
    """Return the name of this instance's nft table of published ports in the host's namespace."""
    return f"pyswarm_{tag}{PORTS_TABLE_SUFFIX}"


def balancer_chain(virtual_ip: str, backends: tuple[str, ...], balancing: str = "round-robin") -> str:
    """Return the name of the chain that spreads a virtual IP over these backends, in turn or by the source's hash.

    The name says the content: a chain of this name never changes, so that reading names is enough to know the rules.
    """
    way = SOURCE_HASH_PREFIX if balancing == "source-hash" else IN_TURN_PREFIX
    return f"{way}{virtual_ip.replace(':', '_')}_{digest(*backends)}"
