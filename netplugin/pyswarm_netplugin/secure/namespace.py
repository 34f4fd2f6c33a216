"""The secure namespace in the kernel: makes it, changes it, reads it back. Blocking; on the network driver's thread."""

import contextlib
import errno
import socket
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pyswarm_common.errors import FailedPrecondition, PyswarmError
from pyswarm_netplugin import naming
from pyswarm_netplugin.kernel import links
from pyswarm_netplugin.kernel.namespaces import Namespaces
from pyswarm_netplugin.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from pyswarm_netplugin.kernel.observe import LinkSeen, read_addresses, read_links, read_routes
from pyswarm_netplugin.secure.detection import detect
from pyswarm_netplugin.secure.links import only_route_add, sends_in
from pyswarm_netplugin.secure.operations import ChangeSecurePeers, MakeSecure, RemoveSecure, SecureOperation
from pyswarm_netplugin.secure.records import Encryption, SecureKeys, SecureNetwork
from pyswarm_netplugin.state import Overlay, State, Stray

if TYPE_CHECKING:
    from pyswarm_netplugin.secure.interfaces import WireGuard

_GONE = (errno.ENODEV, errno.ENOENT)
_NAME, _INTERFACE = naming.SECURE_NAMESPACE, naming.SECURE_INTERFACE
_NO_IPV6 = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")


class SecureNamespace:
    """The node's one, below the instance's folder of namespaces."""

    def __init__(self, tag: str, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._host_name = naming.secure_interface(tag, str(namespaces.directory))
        self._encryption: Encryption | None = None

    @cached_property
    def _kernel(self) -> "WireGuard":
        from pyswarm_netplugin.secure.interfaces import KernelWireGuard  # not on the many nodes without encrypted networks

        return KernelWireGuard(self._namespaces)

    @cached_property
    def _userspace(self) -> "WireGuard":
        from pyswarm_netplugin.secure.interfaces import UserspaceWireGuard

        return UserspaceWireGuard(self._namespaces, self._host_name)

    def encryption(self) -> Encryption:
        """Return what this machine can do; it is looked at once."""
        if self._encryption is None:
            self._encryption = detect()
        return self._encryption

    def execute(self, operation: SecureOperation) -> None:
        """Carry one operation out. Raises PyswarmError or OSError."""
        match operation:
            case MakeSecure():
                self._make(operation.network, operation.keys)
            case ChangeSecurePeers():
                preshared = operation.keys.preshared.text
                self._present().change_peers(operation.add, operation.remove, preshared)
            case RemoveSecure():
                self._remove_interface()
                self._namespaces.remove(_NAME)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Run the block where VXLAN devices of encrypted overlays belong. Raises OSError."""
        with self._namespaces.inside(_NAME):
            yield

    def added_to(self, state: State) -> State:
        """Return an observed state with what stands here, which of its tunnels are encrypted, and what was left on the way in.

        Raises OSError.
        """
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            if self._host_name in read_links(netlink):
                stray = Stray(kind="link", name=self._host_name)
                state = msgspec.structs.replace(state, strays=state.strays | {stray})
        if not self._namespaces.is_live(_NAME):
            return state
        with self._namespaces.open(_NAME) as descriptor:
            overlays = {network_id: self._marked(network_id, overlay, descriptor) for network_id, overlay in state.overlays.items()}
        return msgspec.structs.replace(state, overlays=overlays, secure=self.observe())

    def _marked(self, network_id: str, overlay: Overlay, descriptor: int) -> Overlay:
        if overlay.tunnel is None:
            return overlay
        with self._namespaces.inside(naming.OVERLAY_PREFIX + network_id), NetlinkSocket(NETLINK_ROUTE) as netlink:
            if not sends_in(netlink, naming.OVERLAY_TUNNEL, descriptor):
                return overlay
        return msgspec.structs.replace(overlay, tunnel=msgspec.structs.replace(overlay.tunnel, is_encrypted=True))

    def observe(self) -> SecureNetwork:
        """Return what stands in the namespace, which lives. Raises OSError."""
        with self._namespaces.inside(_NAME), NetlinkSocket(NETLINK_ROUTE) as netlink:
            link = read_links(netlink).get(_INTERFACE)
            index = link.index if link is not None else 0
            addresses = read_addresses(netlink).get(index, [])
            is_routed = any(to == "0.0.0.0/0" and over == index for to, _, over in read_routes(netlink))
        if link is None or not link.is_up or not is_routed or len(addresses) != 1:
            return SecureNetwork()
        return self._observed(link, naming.address_of(addresses[0]))

    def _observed(self, link: LinkSeen, address: str) -> SecureNetwork:
        try:
            public_key, port, peers = self._behind(link).read()
        except (OSError, PyswarmError, ValueError):  # its process is gone or broken: to be made anew
            return SecureNetwork()
        return SecureNetwork(address=address, port=port, public_key=public_key, mtu_bytes=link.mtu_bytes, peers=peers)

    def _behind(self, link: LinkSeen) -> "WireGuard":
        return self._kernel if link.kind == "wireguard" else self._userspace

    def _present(self) -> "WireGuard":
        with self._namespaces.inside(_NAME), NetlinkSocket(NETLINK_ROUTE) as netlink:
            return self._behind(read_links(netlink)[_INTERFACE])

    def _make(self, network: SecureNetwork, keys: SecureKeys) -> None:
        encryption = self.encryption()
        if not encryption.kind:
            raise FailedPrecondition(f"encrypted overlays are not possible on this node: {encryption.problem}")
        with self._namespaces.create(_NAME):
            with contextlib.suppress(FileNotFoundError):
                _NO_IPV6.write_text("1")
            _send([links.link_up("lo")])
        self._remove_interface()
        wireguard = self._kernel if encryption.kind == "kernel" else self._userspace
        wireguard.make(keys.private.text, network.port, network.mtu_bytes)
        with self._namespaces.inside(_NAME):
            index = socket.if_nametoindex(_INTERFACE)
            _send([links.link_mtu(_INTERFACE, network.mtu_bytes), links.address_add(index, f"{network.address}/32")])
            _send([links.link_up(_INTERFACE)])
            _send([only_route_add(index)])
        wireguard.wait_up(network.port)

    def _remove_interface(self) -> None:
        if self._namespaces.is_live(_NAME):
            with self._namespaces.inside(_NAME):
                _send([links.link_remove(_INTERFACE)], tolerated=_GONE)
        for wireguard in (self._kernel, self._userspace):
            wireguard.end()


def _send(messages: list[bytes], tolerated: tuple[int, ...] = ()) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        netlink.send(messages, tolerated)
