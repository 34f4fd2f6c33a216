"""Published ports as values."""

from pyswarm_common.objects import Record

ANY_ADDRESS, ANY_IPV6_ADDRESS = "0.0.0.0", "::"


class PortRequest(Record, frozen=True, kw_only=True):
    """A port of a sandbox to be reached through the host.

    `first_host_port` to `last_host_port` is the range to choose from; 0: any free port. `host_address` "" is every address,
    of IPv6 too where the host has it.
    """

    protocol: str = "tcp"
    container_port: int
    host_address: str = ""
    first_host_port: int = 0
    last_host_port: int = 0


class PublishedPort(Record, frozen=True, kw_only=True):
    """A port of the host that leads to a port of a sandbox. `host_address` 0.0.0.0 is every address of IPv4, :: of IPv6."""

    protocol: str
    container_port: int
    host_address: str = ANY_ADDRESS
    host_port: int

    @property
    def is_ipv6(self) -> bool:
        """Whether clients reach it by IPv6, and the sandbox too."""
        return ":" in self.host_address

    @property
    def shown(self) -> str:
        """The host's side as text: `0.0.0.0:8080`, `[::]:8080`."""
        return f"[{self.host_address}]:{self.host_port}" if self.is_ipv6 else f"{self.host_address}:{self.host_port}"

    def overlaps(self, other: "PublishedPort") -> bool:
        """Whether both cannot be published at a time."""
        addresses = (self.host_address, other.host_address)
        same_address = self.host_address == other.host_address or (
            self.is_ipv6 == other.is_ipv6 and (ANY_ADDRESS in addresses or ANY_IPV6_ADDRESS in addresses)
        )
        return same_address and (self.protocol, self.host_port) == (other.protocol, other.host_port)


class PortForward(Record, frozen=True, kw_only=True):
    """A published port, and the address of the sandbox to which it leads."""

    port: PublishedPort
    address: str
