"""Certificates of nodes that are managers no more: etcd's peers must not accept them for the rest of their life.

Nothing else needs a list: the node port asks the store who a caller is, at every request. Etcd reads the list at every handshake;
it looks for serials only, at neither signature nor expiry (checked with 3.4.23).
"""

from collections.abc import Callable

import msgspec
import structlog

from pyswarm_common import pki_chain
from pyswarm_common.clock import Clock
from pyswarm_common.objects import Cluster, Node
from pyswarm_common.waiting import wait_first
from pyswarm_manager.ca.signing import moment, signing_in_force, unexpired
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction

LOOK_AGAIN_S = 3600.0
"""How long an expired certificate may stay in the list."""
RETRY_PAUSE_S = 5.0

_log = structlog.get_logger()


def revoke_manager_certificates(tx: Transaction, node: Node) -> Node:
    """Let no etcd accept the node as a peer any more: for when it stops being a manager or is removed.

    Returns the node without these certificates, as it then is in the store if the store has it.
    """
    cluster = tx.cluster
    gone = tuple(certificate for certificate in node.certificates if certificate.is_manager)
    revoked = unexpired(tuple(dict.fromkeys((*cluster.revoked_certificates, *gone))), tx.now_ns)
    if revoked != cluster.revoked_certificates:
        tx.update(msgspec.structs.replace(cluster, revoked_certificates=revoked))
    kept = tuple(certificate for certificate in node.certificates if not certificate.is_manager)
    node = msgspec.structs.replace(node, certificates=kept)
    return tx.update(node) if node.id in tx.nodes and gone else node


def revocation_file(cluster: Cluster, now_ns: int) -> str:
    """Return the list (PEM) that etcd shall refuse."""
    signing = signing_in_force(cluster)
    serials = [certificate.serial for certificate in unexpired(cluster.revoked_certificates, now_ns)]
    return pki_chain.revocation_list(signing.root_pem, signing.key_pem, serials, moment(now_ns))


class RevocationFileKeeper:
    """Writes the list whenever it changes, on every manager, by `write` (the list in PEM)."""

    def __init__(self, store: Store, clock: Clock, write: Callable[[str], None]) -> None:
        self._store = store
        self._clock = clock
        self._write = write
        self._written: tuple[str, ...] | None = None

    async def run(self) -> None:
        """Run until cancelled. A list that cannot be written is tried again: meanwhile etcd goes by the former one."""
        with self._store.watch(Cluster) as subscription:
            while True:
                subscription.take()
                try:
                    self._write_if_changed()
                    pause_s = LOOK_AGAIN_S
                except OSError as error:
                    _log.error("revocation.not_written", error=str(error))
                    pause_s = RETRY_PAUSE_S
                await wait_first(subscription.wait(), self._clock.sleep(pause_s))

    def _write_if_changed(self) -> None:
        cluster, now_ns = self._store.view.cluster, self._clock.now_ns()
        serials = tuple(certificate.serial for certificate in unexpired(cluster.revoked_certificates, now_ns))
        if serials != self._written:
            self._write(revocation_file(cluster, now_ns))
            self._written = serials
