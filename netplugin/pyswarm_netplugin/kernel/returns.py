"""The way back to the mesh's gateways, in the sandbox of a task: table `pyswarm_returns`, and routes by mark.

    map gateways { type ether_addr : mark; elements = { 02:42:0a:00:00:02 : 0x0a000002 } }
    map zones { type ether_addr : mark; elements = { 02:42:0a:00:00:02 : 0x0002 } }
    chain zones { type filter hook prerouting priority -300; iifname "eth0" ct original zone set ether saddr map @zones }
    chain marks { type filter hook prerouting priority -150; iifname "eth0" ct mark set ether saddr map @gateways }
    chain datagrams { type nat hook prerouting priority -100; iifname "eth0" meta l4proto udp ct mark != 0 dnat to 172.19.0.5
                                                                                                          (and sctp) }
    chain answers { type route hook output priority -150; ct direction reply ct mark != 0 meta mark set ct mark }
    chain input { type nat hook input priority 100 }                                                (empty)
    chain v2_eth0_172.19.0.5                                                                        (empty: says the settings)

    ip rule: 999 fwmark 0 lookup main; 1000 fwmark 0x0a000002 lookup 167772162
    table 167772162: default via 10.0.0.2 dev eth0 onlink

A mark, and its table's number, is the gateway's IPv4 address. **Zones**: one client may use the same source port towards two nodes,
and both connections reach this task looking alike. Each gateway is a zone of its own for what comes in, so they are two connections
to the kernel, and it gives one of them another source port (in `input`, only then). **Datagrams**: a program that listens on all
addresses answers from the address that its default route gives, so it gets datagrams on that one. So do associations of SCTP.
"""

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from pyswarm_netplugin.kernel import flow_expressions as flow
from pyswarm_netplugin.kernel import nftables as nft
from pyswarm_netplugin.kernel import policy_routes as routes
from pyswarm_netplugin.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from pyswarm_netplugin.mesh.records import ReturnRoutes
from pyswarm_netplugin.operations import ChangeReturns

TABLE, GATEWAYS, ZONES = "pyswarm_returns", "gateways", "zones"
_VERSION = "v2"
_RAW, _MANGLE, _DESTINATION_NAT, _SOURCE_NAT = -300, -150, -100, 100
_UDP, _SCTP = 17, 132
_GONE = (errno.ENOENT, errno.ESRCH, errno.EINVAL)
_SYSCTL = Path("/proc/sys/net/ipv4/conf")


def change_returns(netlink: NetlinkSocket, change: ChangeReturns) -> None:
    """Carry the change out; the thread must be in the sandbox's namespace, as the netfilter socket is. Raises OSError.

    Routes come before what marks packets for them, and go after it.
    """
    wanted = change.returns
    with NetlinkSocket(NETLINK_ROUTE) as route:
        if change.is_first:
            _trust_the_interface(wanted.interface)
            netlink.send_whole(_base(wanted.interface, wanted.datagram_address))
            route.send([routes.unmarked_rule_add()], tolerated=(errno.EEXIST,))
        route.send(_additions(change.add, socket.if_nametoindex(wanted.interface)), tolerated=(errno.EEXIST,))
        _change_elements(netlink, wanted, is_first=change.is_first)
        route.send(_removals(change.remove), tolerated=_GONE)


def remove_returns(netlink: NetlinkSocket, gateways: tuple[str, ...]) -> None:
    """Remove all of it; as `change_returns`."""
    netlink.send_whole(nft.batch([nft.table_add(TABLE), nft.table_remove(TABLE)]))
    with NetlinkSocket(NETLINK_ROUTE) as route:
        route.send([*_removals(gateways), routes.unmarked_rule_remove()], tolerated=_GONE)


def read_returns(netlink: NetlinkSocket, indices: Mapping[str, int]) -> ReturnRoutes | None:
    """Return what the calling thread's namespace has, None without the table. `indices`: those of its interfaces, by name.

    A gateway that lacks a rule, a route or an element has a hardware address that none has.
    """
    settings = _settings(netlink)
    if settings is None:
        return None
    interface, datagram_address = settings
    marked = dict(_read(_element_bodies(netlink)))
    with NetlinkSocket(NETLINK_ROUTE) as route:
        rules, is_unmarked_ruled = routes.read_marks(route)
        ways = routes.read_gateway_routes(route)
    index = indices.get(interface, 0)
    gateways = {}
    for mark in {*marked.values(), *rules, *ways}:
        address = socket.inet_ntoa(mark.to_bytes(4, "big"))
        is_whole = mark in rules and ways.get(mark) == (address, index)
        gateways[address] = next((mac.hex(":") for mac, other in marked.items() if other == mark and is_whole), "")
    is_sound = is_unmarked_ruled and _is_trusted(interface)
    return ReturnRoutes(interface=interface if is_sound else "", datagram_address=datagram_address, gateways=gateways)


def _base(interface: str, datagram_address: str) -> list[bytes]:
    into, by_sender = nft.interface_is(interface), (flow.ETHER_ADDRESS, 6)
    redirected = nft.send_to(datagram_address) if datagram_address else b""
    return nft.batch(
        [
            nft.table_add(TABLE),
            nft.table_remove(TABLE),
            nft.table_add(TABLE),
            nft.chain_add(TABLE, f"{_VERSION}_{interface}_{datagram_address}"),
            flow.map_add(TABLE, GATEWAYS, 1, by_sender, (flow.MARK, 4)),
            flow.map_add(TABLE, ZONES, 2, by_sender, (flow.MARK, 2)),
            nft.base_chain_add(TABLE, "zones", "filter", nft.PREROUTING, _RAW),
            nft.rule_add(TABLE, "zones", into, flow.lookup_sender(ZONES), flow.set_original_zone()),
            nft.base_chain_add(TABLE, "marks", "filter", nft.PREROUTING, _MANGLE),
            nft.rule_add(TABLE, "marks", into, flow.lookup_sender(GATEWAYS), flow.set_connection_mark()),
            nft.base_chain_add(TABLE, "datagrams", "nat", nft.PREROUTING, _DESTINATION_NAT),
            *(
                nft.rule_add(TABLE, "datagrams", into, nft.protocol_is(protocol), flow.load_connection_mark(), redirected)
                for protocol in (_UDP, _SCTP)
                if redirected
            ),
            nft.base_chain_add(TABLE, "answers", "route", nft.OUTPUT, _MANGLE),
            nft.rule_add(TABLE, "answers", flow.is_reply(), flow.load_connection_mark(), flow.set_mark()),
            nft.base_chain_add(TABLE, "input", "nat", flow.INPUT, _SOURCE_NAT),
        ]
    )


@lru_cache(maxsize=64)
def _additions(gateways: tuple[str, ...], index: int) -> list[bytes]:
    marks = routes.marks_of(gateways)
    ways = [routes.gateway_route_add(mark, gateway, index) for gateway, mark in marks.items()]
    return [*ways, *map(routes.mark_rule_add, marks.values())]


def _removals(gateways: Iterable[str]) -> list[bytes]:
    marks = routes.marks_of(gateways).values()
    return [*map(routes.mark_rule_remove, marks), *map(routes.gateway_route_remove, marks)]


def _change_elements(netlink: NetlinkSocket, wanted: ReturnRoutes, *, is_first: bool) -> None:
    there = () if is_first else _element_bodies(netlink)
    batch = _element_batch(there, tuple(wanted.gateways.items()))
    if batch:
        netlink.send_whole(batch)


@lru_cache(maxsize=16)
def _element_batch(bodies: tuple[bytes, ...], gateways: tuple[tuple[str, str], ...]) -> list[bytes]:
    """Return what makes the elements as they should be; the same for all sandboxes that have the same."""
    there = dict(_read(bodies))
    goal = {bytes.fromhex(mac.replace(":", "")): mark for (_, mac), mark in zip(gateways, _marks(gateways), strict=True)}
    drop = tuple(mac for mac, mark in there.items() if goal.get(mac) != mark)
    put = tuple((mac, mark) for mac, mark in goal.items() if there.get(mac) != mark)
    if not drop and not put:
        return []
    messages = [flow.elements_drop(TABLE, map_, drop) for map_ in (GATEWAYS, ZONES) if drop]
    if put:
        marks = [(mac, flow.plain_value(mark.to_bytes(4, sys.byteorder))) for mac, mark in put]
        zones = [(mac, flow.plain_value(struct.pack("=H", mark & 0xFFFF))) for mac, mark in put]
        messages += [flow.elements_put(TABLE, GATEWAYS, marks), flow.elements_put(TABLE, ZONES, zones)]
    return nft.batch(messages)


def _marks(gateways: tuple[tuple[str, str], ...]) -> Iterable[int]:
    return routes.marks_of(address for address, _ in gateways).values()


def _element_bodies(netlink: NetlinkSocket) -> tuple[bytes, ...]:
    """Return the messages that list the elements, without the number of the namespace's last transaction."""
    messages = netlink.dump(nft.GET_ELEMENTS, nft.elements_request(TABLE, GATEWAYS))
    return tuple(bytes(4) + body[4:] for _, body in messages)


def _read(bodies: Iterable[bytes]) -> list[tuple[bytes, int]]:
    elements = (element for body in bodies for element in flow.read_elements(body))
    return [(key, int.from_bytes(value, sys.byteorder)) for key, value, _ in elements]


def _settings(netlink: NetlinkSocket) -> tuple[str, str] | None:
    chains = [nft.read_chain(body) for _, body in netlink.dump(nft.GET_CHAIN, nft.chains_request())]
    own = [chain for table, chain in chains if table == TABLE]
    words = next((chain.split("_") for chain in own if chain.startswith(f"{_VERSION}_")), None)
    if words is not None:
        return words[1], words[2]
    return ("", "") if own else None


def _trust_the_interface(interface: str) -> None:
    """Let clients' packets in on the interface, though answers to others would leave by another one."""
    for name in ("all", interface):
        with contextlib.suppress(FileNotFoundError):
            (_SYSCTL / name / "rp_filter").write_text("0")


def _is_trusted(interface: str) -> bool:
    files = [_SYSCTL / name / "rp_filter" for name in ("all", interface)]
    return all(file.read_text().strip() == "0" for file in files if file.exists())
