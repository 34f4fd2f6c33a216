"""The rules of the mesh sandbox: table `pyswarm_mesh`, as `nft list ruleset` shows it there.

    map ports { type inet_proto . inet_service : verdict; elements = { tcp . 8080 : goto tcp_8080_1f0c5a2b } }
    chain prerouting { type nat hook prerouting priority -100; iifname "eth1" meta l4proto . th dport vmap @ports }
    chain tcp_8080_1f0c5a2b { meta l4proto tcp dnat to numgen inc mod 2 map { 0 : 10.0.0.5, 1 : 10.0.0.6 } : 80 }
    chain forward { type filter hook forward priority 0; tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu;
        ct status dnat accept; ct state established,related accept; drop }
    chain postrouting { type nat hook postrouting priority 100 }       (empty: lets the kernel keep connections apart, see below)

Sources are not translated. A port without tasks is not in the map: its packets are for the sandbox itself, where nobody listens, so
that the kernel refuses them. Two published ports of one target can make two connections of a client alike; then, and only then, the
kernel gives one of them another source port. A chain's name says its content, and each port changes in one transaction.

The overlay's packets are smaller than the clients', and a task answers SYNs on a route that is as wide as theirs. So the segments'
size is set as connections begin: many a client never hears that its packets are too large, least of all one on the host's loopback.
"""

import errno
import struct
from collections.abc import Iterator, Mapping, Sequence

from pyswarm_netplugin.kernel import conntrack
from pyswarm_netplugin.kernel import flow_expressions as flow
from pyswarm_netplugin.kernel import nftables as nft
from pyswarm_netplugin.kernel.netlink import NetlinkSocket
from pyswarm_netplugin.mesh.records import EGRESS_INTERFACE, INGRESS_INTERFACE, MeshBalancer
from pyswarm_netplugin.operations import MeshChange

TABLE, PORTS = "pyswarm_mesh", "ports"
SYSCTLS = {
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    f"ipv4/conf/{INGRESS_INTERFACE}/rp_filter": "0",
    f"ipv4/conf/{EGRESS_INTERFACE}/rp_filter": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/icmp_ratelimit": "0",
}
"""Of the mesh sandbox's namespace: it forwards, and refuses every datagram to a port without tasks, not only some each second."""
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_DESTINATION_NAT, _SOURCE_NAT, _FILTER = -100, 100, 0
_BATCH_BYTES = 96 * 1024


def mesh_batches(change: MeshChange) -> list[list[bytes]]:
    """Return the transactions that carry out a change of published ports; each port changes within one."""
    batches = [nft.batch(_base())] if change.is_first else []
    current: list[bytes] = []
    for step in _steps(change):
        current += step
        if sum(map(len, current)) > _BATCH_BYTES:
            batches.append(nft.batch(current))
            current = []
    return [*batches, nft.batch(current)] if current else batches


def change_mesh(netlink: NetlinkSocket, change: MeshChange) -> None:
    """Carry the change out in the netfilter socket's namespace, and forget UDP flows to tasks that left. Raises OSError."""
    for batch in mesh_batches(change):
        netlink.send_whole(batch)
    kept = {balancer.published_port: balancer.backends for _, balancer in change.put if balancer.protocol == "udp"}
    dropped = [key.partition("/") for key in change.drop]
    kept |= {int(port): () for protocol, _, port in dropped if protocol == "udp"}
    conntrack.forget_udp_of_ports(netlink, kept)


def read_mesh(netlink: NetlinkSocket) -> Mapping[str, str] | None:
    """Return the chain of each published port, by `protocol/port`; None without the table."""
    found: dict[str, str] = {}
    try:
        messages = netlink.dump(nft.GET_ELEMENTS, nft.elements_request(TABLE, PORTS))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    for _, body in messages:
        for key, _, chain in flow.read_elements(body):
            protocol, port = struct.unpack("!BxxxHxx", key)
            found[f"{_NAMES.get(protocol, protocol)}/{port}"] = chain
    return found


def _base() -> list[bytes]:
    return [
        nft.table_add(TABLE),
        nft.table_remove(TABLE),
        nft.table_add(TABLE),
        flow.map_add(TABLE, PORTS, 1, (flow.PROTOCOL_AND_PORT, 8), (flow.VERDICT, 0)),
        nft.base_chain_add(TABLE, "prerouting", "nat", nft.PREROUTING, _DESTINATION_NAT),
        nft.rule_add(TABLE, "prerouting", nft.interface_is(EGRESS_INTERFACE), flow.lookup_port(PORTS)),
        nft.base_chain_add(TABLE, "forward", "filter", nft.FORWARD, _FILTER),
        nft.rule_add(TABLE, "forward", flow.limit_segments()),
        nft.rule_add(TABLE, "forward", nft.is_published(), nft.verdict(nft.ACCEPT)),
        nft.rule_add(TABLE, "forward", nft.is_known_connection(), nft.verdict(nft.ACCEPT)),
        nft.rule_add(TABLE, "forward", nft.verdict(nft.DROP)),
        nft.base_chain_add(TABLE, "postrouting", "nat", nft.POSTROUTING, _SOURCE_NAT),
    ]


def _steps(change: MeshChange) -> Iterator[list[bytes]]:
    old = dict(change.old_chains)
    for number, (chain, balancer) in enumerate(change.put, 2):
        key = _key(balancer.key)
        step = [nft.chain_add(TABLE, chain), *_balancer(chain, balancer, number)]
        if balancer.key in old:
            step.append(flow.elements_drop(TABLE, PORTS, [key]))
        step.append(flow.elements_put(TABLE, PORTS, [(key, flow.chain_value(chain))]))
        if balancer.key in old:
            step += _chain_gone(old[balancer.key])
        yield step
    for port in change.drop:
        yield [flow.elements_drop(TABLE, PORTS, [_key(port)]), *_chain_gone(old[port])]


def _key(port: str) -> bytes:
    protocol, _, number = port.partition("/")
    return flow.protocol_and_port(PROTOCOLS.get(protocol) or int(protocol), int(number))


def _chain_gone(chain: str) -> Sequence[bytes]:
    return [nft.chain_empty(TABLE, chain), nft.chain_remove(TABLE, chain)]


def _balancer(chain: str, balancer: MeshBalancer, set_id: int) -> Sequence[bytes]:
    protocol = nft.protocol_is(PROTOCOLS[balancer.protocol])
    backends = balancer.backends
    if len(backends) == 1:
        return [nft.rule_add(TABLE, chain, protocol, nft.send_to(backends[0], balancer.target_port))]
    to_one = flow.send_to_one_of(set_id, len(backends), balancer.target_port, is_by_source=balancer.is_by_source)
    return [*nft.address_list_add(TABLE, set_id, backends), nft.rule_add(TABLE, chain, protocol, to_one)]
