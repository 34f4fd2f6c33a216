"""The sandboxes' way out of this node: the subnet that it chose once, and their addresses there. Blocking."""

from collections.abc import Iterable

from pyswarm_netplugin.desired import SandboxRecord
from pyswarm_netplugin.egress import choose_address, choose_subnet, gateway_of, random_ipv6_subnet
from pyswarm_netplugin.memory import EgressMemory, Memory
from pyswarm_netplugin.overlay_links import twin_with_prefix
from pyswarm_netplugin.state import Egress


class WayOut:
    """`choose` first."""

    def __init__(self, memory: Memory, pool: str) -> None:
        self._memory = memory
        self._pool = pool
        self._chosen = EgressMemory()
        self._last_address = ""

    def choose(self, routes: tuple[str, ...]) -> None:
        """Take the remembered subnets, or choose some beside the host's routes. Raises InvalidArgument, FailedPrecondition."""
        known = self._memory.egress()
        subnet = known.subnet or choose_subnet(self._pool, routes)
        self._chosen = EgressMemory(subnet=subnet, ipv6_subnet=known.ipv6_subnet or random_ipv6_subnet())
        if self._chosen != known:
            self._memory.put_egress(self._chosen)

    def egress(self, mtu_bytes: int) -> Egress:
        """Return the host's end of it."""
        gateway = gateway_of(self._chosen.subnet)
        return Egress(address=gateway, ipv6_address=twin_with_prefix(self._chosen.ipv6_subnet, gateway), mtu_bytes=mtu_bytes)

    def next_address(self, records: Iterable[SandboxRecord]) -> str:
        """Return an address that none of these sandboxes has. Raises FailedPrecondition when there is none."""
        used = [record.egress_address for record in records if record.egress_address]
        self._last_address = choose_address(self._chosen.subnet, used, self._last_address)
        return self._last_address
