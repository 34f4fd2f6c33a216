"""The node's end of encrypted overlays as values; pure.

A private key travels inside `Secret`, which never shows it: states and operations are printed and logged.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Literal

from pyswarm_common.objects import Record

KEY_BYTES = 32
NO_KEY = base64.b64encode(bytes(KEY_BYTES)).decode()
"""How WireGuard says that there is no preshared key."""


class Secret(Record, frozen=True):
    """A secret key in base64, "" for none."""

    text: str = ""

    def __repr__(self) -> str:
        """Show nothing of it."""
        return "Secret(…)" if self.text else "Secret()"

    __str__ = __repr__


class SecureKeys(Record, frozen=True, kw_only=True):
    """The node's private key, and the key that all nodes of the cluster share beside their pairs."""

    private: Secret = Secret()
    preshared: Secret = Secret()


class SecurePeer(Record, frozen=True, kw_only=True):
    """Another node. `preshared_mark` stands for the shared key that is in force with it, "" for none."""

    public_key: str
    port: int
    preshared_mark: str = ""


class SecureNetwork(Record, frozen=True, kw_only=True):
    """The WireGuard interface: the node's data path address behind a UDP port of its host. `peers` by their data path address.

    Observed with an empty `public_key`: the namespace stands, but its interface is not whole.
    """

    address: str = ""
    port: int = 0
    public_key: str = ""
    mtu_bytes: int = 0
    peers: Mapping[str, SecurePeer] = {}

    def has_settings_of(self, other: "SecureNetwork") -> bool:
        """Whether all but the peers is the same."""
        own = (self.address, self.port, self.public_key, self.mtu_bytes)
        return own == (other.address, other.port, other.public_key, other.mtu_bytes)


class Encryption(Record, frozen=True, kw_only=True):
    """Whether this node can carry encrypted overlays: by which WireGuard, else the reason in words; and how peers reach it."""

    kind: Literal["", "kernel", "userspace"] = ""
    problem: str = ""
    public_key: str = ""
    port: int = 0


def preshared_mark(key: str) -> str:
    """Return what stands for a shared key (base64) where it must not be shown."""
    return "" if key in ("", NO_KEY) else hashlib.blake2s(key.encode(), digest_size=4, person=b"psk").hexdigest()


def peer_differences(
    wanted: Mapping[str, SecurePeer], seen: Mapping[str, SecurePeer]
) -> tuple[dict[str, SecurePeer], tuple[str, ...]]:
    """Return the peers to set, by address, and the public keys to forget. A peer with another key is forgotten and set anew."""
    add = {address: peer for address, peer in wanted.items() if seen.get(address) != peer}
    kept = {peer.public_key for peer in wanted.values()}
    return add, tuple(peer.public_key for peer in seen.values() if peer.public_key not in kept)
