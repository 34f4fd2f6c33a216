"""What must not leave an overlay's namespace by the tunnel: claims to another's IPv6 address.

ARP never does, as the VXLAN device answers or drops it. Neighbour solicitations neither, unless hidden behind an extension header.
But a container with CAP_NET_RAW could send neighbour advertisements, router advertisements and redirects to one on another host,
which would believe them. The rules stand in the overlay's namespace, where no container can touch them:

    table bridge pyswarm { chain forward { type filter hook forward priority 0;
        oifname vxlan0 icmpv6 type { nd-router-advert, nd-neighbor-advert, nd-redirect } drop
        oifname vxlan0 icmpv6 type nd-neighbor-solicit ip6 nexthdr != icmpv6 drop } }
"""

from pyswarm_netplugin.kernel import nftables as nft
from pyswarm_netplugin.kernel.netlink import NETLINK_NETFILTER, NetlinkSocket
from pyswarm_netplugin.naming import SANDBOX_TABLE

_ICMPV6 = 58
_ROUTER_ADVERTISEMENT, _NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT, _REDIRECT = 134, 135, 136, 137
_PRIORITY = 0


def guard_tunnel(device: str) -> None:
    """Load the rules into the calling thread's namespace, in the place of those that are there. Raises OSError."""
    out, drop = nft.interface_is(device, is_output=True), nft.verdict(nft.DROP)
    message_types = (_ROUTER_ADVERTISEMENT, _NEIGHBOUR_ADVERTISEMENT, _REDIRECT)
    kinds = [nft.transport_byte_is(0, kind) for kind in message_types]
    kinds.append(nft.transport_byte_is(0, _NEIGHBOUR_SOLICITATION) + nft.first_ipv6_header_is_not(_ICMPV6))
    table, family = SANDBOX_TABLE, nft.BRIDGE
    messages = [
        nft.table_add(table, family=family),
        nft.table_remove(table, family=family),
        nft.table_add(table, family=family),
        nft.base_chain_add(table, "forward", "filter", nft.FORWARD, _PRIORITY, family=family),
        *(nft.rule_add(table, "forward", out, nft.protocol_is(_ICMPV6), kind, drop, family=family) for kind in kinds),
    ]
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        netlink.send_whole(nft.batch(messages))
