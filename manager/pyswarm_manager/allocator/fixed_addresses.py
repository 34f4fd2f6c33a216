"""Addresses that users chose for the tasks of a service: what the driver options of its networks say. Pure."""

from dataclasses import dataclass
from functools import lru_cache

from pyswarm_common.network_options import ADDRESSES, MAC_ADDRESS, parse_mac
from pyswarm_common.specs import NetworkAttachmentConfig
from pyswarm_manager.allocator.ipam import PoolError, address_text, parse_address

MOST_ADDRESSES = 4096


@dataclass(frozen=True)
class FixedPlace:
    """What a service's tasks get on one network: slot n the n-th address; () and "" where nothing was chosen."""

    addresses: tuple[int, ...] = ()
    mac: str = ""

    def address_of(self, slot: int) -> int | None:
        """Return the slot's address; None when there are not so many."""
        return self.addresses[slot - 1] if 0 < slot <= len(self.addresses) else None


_NOTHING = FixedPlace()


def fixed_place(config: NetworkAttachmentConfig) -> FixedPlace:
    """Return what the options of a service's place on a network ask for. Raises PoolError and InvalidArgument."""
    options = config.driver_opts
    if not options:
        return _NOTHING
    mac = options.get(MAC_ADDRESS, "")
    return FixedPlace(parse_addresses(options[ADDRESSES]) if ADDRESSES in options else (), parse_mac(mac) if mac else "")


@lru_cache(maxsize=4096)
def parse_addresses(text: str) -> tuple[int, ...]:
    """Return the addresses of a list such as `10.0.5.10-10.0.5.12+10.0.5.20`, in its order. Raises PoolError."""
    found: dict[int, None] = {}
    for part in text.replace(" ", "").split("+"):
        first_text, dash, last_text = part.partition("-")
        first = parse_address(first_text)
        last = parse_address(last_text) if dash else first
        if last < first:
            raise PoolError(f"invalid addresses {part}: the range ends before it begins")
        if len(found) + last - first >= MOST_ADDRESSES:
            raise PoolError(f"invalid addresses {text}: more than {MOST_ADDRESSES}")
        for address in range(first, last + 1):
            if address in found:
                raise PoolError(f"invalid addresses {text}: {address_text(address)} is in it twice")
            found[address] = None
    return tuple(found)
