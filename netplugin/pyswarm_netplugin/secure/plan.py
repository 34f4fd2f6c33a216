"""From the encryption that should be and that is to what must be done; pure.

It is made before the tunnels that need it and removed after them. Tunnels live on while it is made anew: the namespace stays.
"""

from collections.abc import Iterator

import msgspec

from pyswarm_netplugin.secure.operations import ChangeSecurePeers, MakeSecure, RemoveSecure, SecureOperation
from pyswarm_netplugin.secure.records import SecureKeys, SecureNetwork, peer_differences


def secure_removals(wanted: SecureNetwork | None, seen: SecureNetwork | None) -> Iterator[SecureOperation]:
    """Yield what takes it away, if nobody wants it."""
    if wanted is None and seen is not None:
        yield RemoveSecure()


def secure_changes(wanted: SecureNetwork | None, seen: SecureNetwork | None, keys: SecureKeys) -> Iterator[SecureOperation]:
    """Yield what makes it as it should be."""
    if wanted is None or wanted is seen:
        return
    peers = seen.peers if seen is not None else {}
    if seen is None or not seen.has_settings_of(wanted):
        yield MakeSecure(network=msgspec.structs.replace(wanted, peers={}), keys=keys)
        peers = {}
    if wanted.peers is not peers and wanted.peers != peers:
        add, remove = peer_differences(wanted.peers, peers)
        yield ChangeSecurePeers(add=add, remove=remove, keys=keys)
