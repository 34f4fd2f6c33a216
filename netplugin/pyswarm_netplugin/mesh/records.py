"""The routing mesh as values."""

from collections.abc import Mapping

from pyswarm_common.objects import Record

MESH_SANDBOX_ID = "ingress-gateway"
INGRESS_INTERFACE, EGRESS_INTERFACE = "eth0", "eth1"
"""Of the mesh sandbox."""


class MeshBalancer(Record, frozen=True, kw_only=True):
    """Where connections to a published port of the mesh go: a chain's content. `backends`: plain addresses, at least one."""

    protocol: str
    published_port: int
    target_port: int
    backends: tuple[str, ...]
    is_by_source: bool = False

    @property
    def key(self) -> str:
        """The port as text, `tcp/8080`."""
        return f"{self.protocol}/{self.published_port}"


class ReturnRoutes(Record, frozen=True, kw_only=True):
    """How a sandbox's answers return through the gateway by which a request came.

    `interface` is the one on the ingress network; `gateways`: their hardware addresses, by address. `datagram_address`: the
    address on which datagrams from the mesh are delivered, so that answers of programs that listen on all addresses bear it: the
    one that the sandbox's default route gives; "" for the one they were sent to.
    """

    interface: str
    datagram_address: str = ""
    gateways: Mapping[str, str] = {}
