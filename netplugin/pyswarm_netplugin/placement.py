"""Which interface of a sandbox is on which network, and which carries the default route; pure.

Interfaces keep their names while networks come and go: what has a name in `interfaces` has that; the rest get eth0, eth1 … in
order, those that are free.
"""

from collections.abc import Mapping, Sequence

from pyswarm_common.objects import Record

WAY_OUT = ""
"""Stands for the way out among the ids of networks."""


class Placement(Record, frozen=True, kw_only=True):
    """What a sandbox is to have besides its networks.

    `interfaces`: names by network id. `default_network`: which carries the default route. `has_way_out`: whether it has one of
    its own even when its networks are internal.
    """

    interfaces: dict[str, str] = {}
    default_network: str = WAY_OUT
    has_way_out: bool = False


def interface_names(network_ids: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """Return a name for each network."""
    taken = {given[network_id] for network_id in network_ids if network_id in given}
    free = iter(name for number in range(len(network_ids) + len(taken)) if (name := f"eth{number}") not in taken)
    return [given.get(network_id) or next(free) for network_id in network_ids]
