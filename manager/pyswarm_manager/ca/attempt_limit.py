"""How often strangers may knock: a token bucket per address for what the node port answers without a certificate.

A join that succeeds costs nothing, so a rack of machines behind one address gets in. IPv6 addresses count by their /64. Only so
many addresses are remembered; who has not knocked for longest is forgotten first.
"""

import ipaddress
import math
from collections import OrderedDict

from pyswarm_common.clock import Clock
from pyswarm_common.errors import ResourceExhausted

BURST = 200.0
"""Attempts at once; a join makes two, one for the CA's certificate and one with the token."""
REFILL_PER_S = 5.0
MOST_ADDRESSES = 10_000


class AttemptLimit:
    """The buckets, by address."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Count an attempt. Raises ResourceExhausted, saying how long to wait, when the address has none left."""
        key, now_s = _network_of(address), self._clock.monotonic_s()
        level = self._level(key, now_s)
        if level < 1:
            wait_s = math.ceil((1 - level) / REFILL_PER_S)
            raise ResourceExhausted(f"too many attempts to join from {address}: try again in {wait_s} s")
        self._put(key, level - 1, now_s)

    def give_back(self, address: str) -> None:
        """Do not count the last two attempts: they made a good join."""
        key, now_s = _network_of(address), self._clock.monotonic_s()
        self._put(key, min(BURST, self._level(key, now_s) + 2), now_s)

    def _level(self, key: str, now_s: float) -> float:
        level, at_s = self._buckets.get(key, (BURST, now_s))
        return min(BURST, level + (now_s - at_s) * REFILL_PER_S)

    def _put(self, key: str, level: float, now_s: float) -> None:
        self._buckets[key] = (level, now_s)
        self._buckets.move_to_end(key)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)


def _network_of(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
