"""Published ports as values."""

from pyswarm_common.objects import Record

ANY_ADDRESS = "0.0.0.0"


class PortRequest(Record, frozen=True, kw_only=True):
    """A port of a sandbox to be reached through the host.

    `first_host_port` to `last_host_port` is the range to choose from; 0: any free port. `host_address` "" is every address.
    """

    protocol: str = "tcp"
    container_port: int
    host_address: str = ""
    first_host_port: int = 0
    last_host_port: int = 0


class PublishedPort(Record, frozen=True, kw_only=True):
    """A port of the host that leads to a port of a sandbox. `host_address` 0.0.0.0 is every address."""

    protocol: str
    container_port: int
    host_address: str = ANY_ADDRESS
    host_port: int

    def overlaps(self, other: "PublishedPort") -> bool:
        """Whether both cannot be published at a time."""
        same_address = self.host_address == other.host_address or ANY_ADDRESS in (self.host_address, other.host_address)
        return same_address and (self.protocol, self.host_port) == (other.protocol, other.host_port)


class PortForward(Record, frozen=True, kw_only=True):
    """A published port, and the address of the sandbox to which it leads."""

    port: PublishedPort
    address: str
