"""What the node's end of encrypted overlays should be, from the views of encrypted networks; pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from pyswarm_common.mtu import ENCRYPTION_OVERHEAD_BYTES
from pyswarm_common.wire import NetworkView
from pyswarm_netplugin.secure.records import SecureKeys, SecureNetwork, SecurePeer, preshared_mark


@dataclass(frozen=True)
class SecureSettings:
    """What this node brings along."""

    address: str
    port: int
    public_key: str
    underlay_mtu_bytes: int
    keys: SecureKeys


def secure_network(settings: SecureSettings, views: Iterable[NetworkView]) -> SecureNetwork | None:
    """Return the interface with all nodes of all encrypted networks as peers; None when no network is encrypted."""
    encrypted = [view for view in views if view.is_encrypted]
    if not encrypted:
        return None
    mark = preshared_mark(settings.keys.preshared.text)
    return SecureNetwork(
        address=settings.address,
        port=settings.port,
        public_key=settings.public_key,
        mtu_bytes=settings.underlay_mtu_bytes - ENCRYPTION_OVERHEAD_BYTES,
        peers={
            address: SecurePeer(public_key=key.public_key, port=key.port, preshared_mark=mark)
            for view in encrypted
            for address, key in view.node_keys.items()
            if address != settings.address and key.public_key != settings.public_key
        },
    )
