"""What the driver needs of a kernel: the real one (`linux.LinuxKernel`) or a model of it (`fake.FakeKernel`)."""

from typing import TYPE_CHECKING, Protocol

from pyswarm_common.objects import Record
from pyswarm_netplugin.operations import Operation
from pyswarm_netplugin.secure.records import Encryption
from pyswarm_netplugin.state import State

if TYPE_CHECKING:
    from pyswarm_netplugin.audit.auditor import Inspector


class HostNetwork(Record, frozen=True, kw_only=True):
    """What the host brings along: the MTU of the interface that carries the data path address, and its routes' destinations.

    `has_ipv6`: its interfaces may have IPv6 addresses.
    """

    mtu_bytes: int
    routes: tuple[str, ...] = ()
    has_ipv6: bool = False


class Kernel(Protocol):
    """Blocking; all calls come from one thread at a time."""

    def host_network(self, data_path_address: str) -> HostNetwork:
        """Look at the host. Raises FailedPrecondition when no interface has the address."""
        ...

    def encryption(self) -> Encryption:
        """Return whether encrypted overlays are possible, without keys and port; it is looked at once."""
        ...

    def observe(self) -> State:
        """Return what stands. Raises OSError."""
        ...

    def execute(self, operation: Operation) -> None:
        """Carry one operation out. Raises PyswarmError or OSError."""
        ...

    def inspector(self) -> "Inspector | None":
        """Return what reads single facts for the audit; None where there are none beside the state."""
        ...

    def close(self) -> None:
        """Let go; what was made stays."""
        ...
