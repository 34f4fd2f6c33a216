"""What can be done to the node's end of encrypted overlays: values that say themselves; pure."""

from collections.abc import Mapping
from typing import TypeAlias

from pyswarm_common.objects import Record
from pyswarm_netplugin.secure.records import SecureKeys, SecureNetwork, SecurePeer

SECURE_SCOPE = "encryption"


class _Secure(Record, frozen=True, kw_only=True):
    @property
    def scope(self) -> str:
        """All encrypted overlays of the node."""
        return SECURE_SCOPE


class MakeSecure(_Secure, frozen=True, kw_only=True):
    """Make the secure namespace, and in it the WireGuard interface without peers; one that is there is replaced."""

    network: SecureNetwork
    keys: SecureKeys

    def describe(self) -> str:
        """Say it in one line."""
        n = self.network
        return f"encryption: make WireGuard {n.public_key[:8]}… for {n.address}, UDP port {n.port}, MTU {n.mtu_bytes}"


class ChangeSecurePeers(_Secure, frozen=True, kw_only=True):
    """Forget public keys, then set peers by address. Sessions of peers that stay go on, also under another shared key."""

    add: Mapping[str, SecurePeer] = {}
    remove: tuple[str, ...] = ()
    keys: SecureKeys

    def describe(self) -> str:
        """Say it in one line."""
        return f"encryption: set peers {', '.join(self.add) or '-'}, forget {len(self.remove)}"


class RemoveSecure(_Secure, frozen=True, kw_only=True):
    """Remove the interface, what runs it, and the namespace."""

    def describe(self) -> str:
        """Say it in one line."""
        return "encryption: remove WireGuard and its namespace"


SecureOperation: TypeAlias = MakeSecure | ChangeSecurePeers | RemoveSecure
