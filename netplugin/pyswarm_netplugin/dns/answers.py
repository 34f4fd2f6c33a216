"""Which questions the table answers, which are refused, and which go upstream. Pure.

Where this differs from Docker: a name of one label that no network knows is answered NXDOMAIN at once and never sent upstream.
No public or host resolver can know it, and the name of a service that was just removed should fail at once, neither after
an upstream's time-out nor with a leak of the cluster's names.
"""

from collections.abc import Callable

from pyswarm_netplugin.dns.message import (
    CLASS_ANY,
    CLASS_IN,
    NOERROR,
    NXDOMAIN,
    REFUSED,
    TYPE_A,
    TYPE_AAAA,
    TYPE_ANY,
    TYPE_DNSKEY,
    TYPE_DS,
    TYPE_NS,
    TYPE_PTR,
    TYPE_SOA,
    Query,
    encode_addresses,
    encode_empty,
    encode_pointer,
)
from pyswarm_netplugin.dns.table import Table

_ZONE_TYPES = frozenset((TYPE_NS, TYPE_SOA, TYPE_DS, TYPE_DNSKEY))
_LENGTH_OF_TYPE = {TYPE_A: 4, TYPE_AAAA: 16}
_IPV4_SUFFIX = b".in-addr.arpa"
_IPV6_SUFFIX = b".ip6.arpa"


def answer(table: Table, sandbox_id: str, query: Query, max_bytes: int, shuffle: Callable[[list[bytes]], None]) -> bytes | None:
    """Return the packet that answers a sandbox's question within `max_bytes`; None: ask upstream."""
    if query.class_ not in (CLASS_IN, CLASS_ANY):
        return encode_empty(query, REFUSED)
    addresses = table.find(sandbox_id, query.name)
    if addresses is not None:
        return _answer_known(query, addresses, max_bytes, shuffle)
    if query.type == TYPE_PTR:
        address = reverse_address(query.name)
        name = table.find_name(sandbox_id, address) if address else None
        return encode_pointer(query, name) if name is not None else None
    if query.label_count == 1 and query.type not in _ZONE_TYPES:
        return encode_empty(query, NXDOMAIN)
    return None


def _answer_known(query: Query, addresses: tuple[bytes, ...], max_bytes: int, shuffle: Callable[[list[bytes]], None]) -> bytes:
    if query.type == TYPE_ANY:
        wanted = list(addresses)
    else:
        length = _LENGTH_OF_TYPE.get(query.type)
        wanted = [a for a in addresses if len(a) == length]
    if not wanted:
        return encode_empty(query, NOERROR)
    if len(wanted) > 1:
        shuffle(wanted)
    return encode_addresses(query, wanted, max_bytes)


def reverse_address(name: bytes) -> bytes | None:
    """Return the packed address that a PTR question asks for; None when the name is none of an address."""
    try:
        if name.endswith(_IPV4_SUFFIX):
            octets = bytes(int(label) for label in reversed(name[: -len(_IPV4_SUFFIX)].split(b".")))
            return octets if len(octets) == 4 else None
        if name.endswith(_IPV6_SUFFIX):
            nibbles = name[: -len(_IPV6_SUFFIX)].split(b".")
            packed = bytes.fromhex(b"".join(reversed(nibbles)).decode("ascii"))
            return packed if len(nibbles) == 32 and len(packed) == 16 else None
    except ValueError:
        return None
    return None
