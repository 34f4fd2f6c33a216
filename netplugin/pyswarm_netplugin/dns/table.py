"""What the containers of this node may ask: names by network, networks by sandbox. Pure: no sockets, no clock, no chance.

A name is looked up in the sandbox's networks in their order, first as it stands, then without the network's own name behind it
(`web.app`, as Docker has it), then without each of its search suffixes. An address is answered with that longer name.
"""

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class SandboxNames(NamedTuple):
    """What a sandbox sees: its networks in order, and the suffixes (with a leading dot) that may follow a name."""

    network_ids: tuple[str, ...]
    suffixes: tuple[bytes, ...]


class _Network(NamedTuple):
    addresses: dict[bytes, tuple[bytes, ...]]
    names: dict[bytes, bytes]
    suffix: bytes


class Table:
    """Names and addresses of every network, and the networks of every sandbox."""

    def __init__(self) -> None:
        self._networks: dict[str, _Network] = {}
        self._sandboxes: dict[str, SandboxNames] = {}

    @property
    def network_ids(self) -> tuple[str, ...]:
        """The networks known."""
        return tuple(self._networks)

    @property
    def sandbox_ids(self) -> tuple[str, ...]:
        """The sandboxes known."""
        return tuple(self._sandboxes)

    def set_network(self, network_id: str, records: Mapping[str, Sequence[str]], name: str = "") -> None:
        """Replace a network's names: addresses (with or without a prefix length) by name. Raises ValueError for a bad address."""
        addresses = {_canonical(known): tuple(map(pack_address, texts)) for known, texts in records.items()}
        suffix = b"." + _canonical(name) if name.strip(".") else b""
        self._networks[network_id] = _Network(addresses, _names_by_address(addresses), suffix)

    def remove_network(self, network_id: str) -> None:
        """Forget a network; nothing happens when it is unknown."""
        self._networks.pop(network_id, None)

    def set_sandbox(self, sandbox_id: str, network_ids: Iterable[str], search: Iterable[str]) -> None:
        """Say which networks a sandbox is in (they may become known later) and its search domains."""
        suffixes = tuple(b"." + _canonical(domain) for domain in search if domain.strip("."))
        self._sandboxes[sandbox_id] = SandboxNames(tuple(network_ids), suffixes)

    def remove_sandbox(self, sandbox_id: str) -> None:
        """Forget a sandbox; nothing happens when it is unknown."""
        self._sandboxes.pop(sandbox_id, None)

    def find(self, sandbox_id: str, name: bytes) -> tuple[bytes, ...] | None:
        """Return the packed addresses of a name (lower case, no dot at its end); None: not a name of this sandbox's networks."""
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return None
        found = self._find_in(sandbox.network_ids, name)
        if found is None:
            for suffix in sandbox.suffixes:
                if name.endswith(suffix) and (found := self._find_in(sandbox.network_ids, name[: -len(suffix)])) is not None:
                    return found
        return found

    def _find_in(self, network_ids: tuple[str, ...], name: bytes) -> tuple[bytes, ...] | None:
        for network_id in network_ids:
            network = self._networks.get(network_id)
            if network is not None and (found := network.addresses.get(name)) is not None:
                return found
        for network_id in network_ids if b"." in name else ():
            network = self._networks.get(network_id)
            if network is not None and network.suffix and name.endswith(network.suffix):
                found = network.addresses.get(name[: -len(network.suffix)])
                if found is not None:
                    return found
        return None

    def find_name(self, sandbox_id: str, address: bytes) -> bytes | None:
        """Return the name of a packed address, the one that means it most exactly; None: not of this sandbox's networks."""
        sandbox = self._sandboxes.get(sandbox_id)
        for network_id in sandbox.network_ids if sandbox else ():
            network = self._networks.get(network_id)
            if network is not None and (name := network.names.get(address)) is not None:
                return name + network.suffix
        return None


def pack_address(text: str) -> bytes:
    """Return an IPv4 or IPv6 address, with or without a prefix length, as 4 or 16 bytes. Raises ValueError."""
    address = text.partition("/")[0]
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError as error:
        raise ValueError(f"not an IP address: {text!r}") from error


def _canonical(name: str) -> bytes:
    return name.encode().lower().rstrip(b".")


def _names_by_address(addresses: Mapping[bytes, tuple[bytes, ...]]) -> dict[bytes, bytes]:
    names: dict[bytes, bytes] = {}
    # A name that stands for several addresses, such as `tasks.web`, says less of one of them than its own does.
    for name in sorted(addresses, key=lambda n: (len(addresses[n]), n.startswith(b"tasks."))):
        for address in addresses[name]:
            names.setdefault(address, name)
    return names
