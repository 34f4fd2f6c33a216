"""Turns the host into an IPv6 router for sandboxes, and for nothing else.

The kernel forwards between all interfaces or none. So what the host did not forward before is kept from being forwarded: in table
`ip6 pyswarm_ipv6guard` packets from one of the interfaces that were there to another of them are dropped. Bridges and their ports
are left out, which others (Docker) may want to forward to, as is what comes later. A host that forwards already is left as it is.
All instances of pyswarm on a host share this; the last that needs it turns it off again.

    table ip6 pyswarm_ipv6guard {
        chain forward { type filter hook forward priority 0; iifname "eth0" jump uplinks; iifname "eth1" jump uplinks }
        chain uplinks { oifname "eth0" drop; oifname "eth1" drop } }
"""

import contextlib
from collections.abc import Collection

from pyswarm_netplugin.kernel import ipv6
from pyswarm_netplugin.kernel import nftables as nft
from pyswarm_netplugin.kernel.netlink import NETLINK_NETFILTER, NetlinkSocket
from pyswarm_netplugin.naming import IPV6_GUARD_TABLE, PORTS_TABLE_SUFFIX

_TABLES_PREFIX = "pyswarm_"
_PRIORITY = 0


def start(uplinks: Collection[str]) -> None:
    """Forward IPv6, but not among these interfaces unless the host did so already. Raises OSError."""
    if ipv6.is_forwarding():
        return
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        netlink.send_whole(nft.batch(_guard(sorted(uplinks))))
    ipv6.forward()


def is_left_over(tables: Collection[str]) -> bool:
    """Whether forwarding was started and, of all the tables in `ip6`, none needs it any more.

    Ports lead nowhere when their instance's way out is gone.
    """
    own = [table for table in tables if table.startswith(_TABLES_PREFIX) and not table.endswith(PORTS_TABLE_SUFFIX)]
    return own == [IPV6_GUARD_TABLE]


def stop_unless_needed() -> None:
    """Be no router any more when this or another instance started it and none needs it. Raises OSError."""
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        chains = netlink.dump(nft.GET_CHAIN, nft.chains_request(family=nft.IPV6))
        if not is_left_over({nft.read_chain(body)[0] for _, body in chains}):
            return
        ipv6.forward_no_more()
        with contextlib.suppress(FileNotFoundError):
            netlink.send_whole(nft.batch([nft.table_remove(IPV6_GUARD_TABLE, family=nft.IPV6)]))


def _guard(uplinks: Collection[str]) -> list[bytes]:
    table, family = IPV6_GUARD_TABLE, nft.IPV6
    return [
        nft.table_add(table, family=family),
        nft.table_remove(table, family=family),
        nft.table_add(table, family=family),
        nft.chain_add(table, "uplinks", family=family),
        nft.base_chain_add(table, "forward", "filter", nft.FORWARD, _PRIORITY, family=family),
        *(nft.rule_add(table, "forward", nft.interface_is(name), nft.jump("uplinks"), family=family) for name in uplinks),
        *(
            nft.rule_add(table, "uplinks", nft.interface_is(name, is_output=True), nft.verdict(nft.DROP), family=family)
            for name in uplinks
        ),
    ]
