"""A network of this node, as it is kept on disk (JSON)."""

from pyswarm_common.objects import Record

DEFAULT_MTU_BYTES = 1500
MTU_OPTION = "com.docker.network.driver.mtu"
NAME_OPTION = "com.docker.network.bridge.name"
MASQUERADE_OPTION = "com.docker.network.bridge.enable_ip_masquerade"
BINDING_OPTION = "com.docker.network.bridge.host_binding_ipv4"
COMMUNICATION_OPTION = "com.docker.network.bridge.enable_icc"


class NodeNetwork(Record, frozen=True, kw_only=True):
    """`subnet`, `ip_range` ("" for the whole subnet) with prefix length; `gateway` and `reserved` addresses without.

    `id`: 64 hexadecimal digits. `interface`: the host's end of it.
    """

    id: str
    name: str
    driver: str = "bridge"
    created_at_ns: int = 0
    subnet: str
    gateway: str
    ip_range: str = ""
    reserved: dict[str, str] = {}
    is_internal: bool = False
    is_attachable: bool = False
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    interface: str = ""

    @property
    def mtu_bytes(self) -> int:
        """Of its interfaces."""
        return int(self.options.get(MTU_OPTION) or DEFAULT_MTU_BYTES)

    @property
    def masquerades(self) -> bool:
        """Whether what leaves it has the host's address."""
        return self.options.get(MASQUERADE_OPTION, "true").lower() not in ("false", "0")

    @property
    def host_binding(self) -> str:
        """The address of the host on which its containers publish ports that name none; "" for all."""
        address = self.options.get(BINDING_OPTION, "")
        return "" if address == "0.0.0.0" else address
