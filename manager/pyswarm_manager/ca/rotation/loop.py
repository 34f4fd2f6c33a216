"""The shell of a change of the root CA, on the leader: looks at what nodes say of themselves, and takes the next step."""

import msgspec
import structlog

from pyswarm_common import pki
from pyswarm_common.objects import Cluster, Node
from pyswarm_manager.ca.rotation.decide import Step, awaited_nodes, finished, next_step
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.transaction import Transaction

_log = structlog.get_logger()


class RootRotator:
    """Carries changes of the root through."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._awaited: tuple[str, ...] = ()

    async def run(self) -> None:
        """Run until cancelled. Raises Unavailable when this manager stops leading."""
        with self._store.watch(Cluster, Node) as subscription:
            while True:
                subscription.take()
                await self._step()
                await subscription.wait()

    async def _step(self) -> None:
        view = self._store.view
        self._tell_awaited()
        match next_step(view.cluster, view.nodes):
            case Step.FINISH:
                if await self._store.update(_finish):
                    _log.info("root.changed", root=pki.root_digest(self._store.view.cluster.root_certificate_pem))
            case Step.DROP_CROSS:
                if await self._store.update(_drop_cross):
                    _log.info("root.former_forgotten")

    def _tell_awaited(self) -> None:
        awaited = awaited_nodes(self._store.view.cluster, self._store.view.nodes)
        if awaited != self._awaited:
            self._awaited = awaited
            _log.info("root.awaits_nodes", nodes=awaited)


def _finish(tx: Transaction) -> bool:
    if next_step(tx.cluster, tx.nodes) is not Step.FINISH:
        return False
    cluster = finished(tx.cluster)
    tokens = {field: pki.new_join_token(cluster.root_certificate_pem) for field in ("worker_join_token", "manager_join_token")}
    tx.update(msgspec.structs.replace(cluster, **tokens))
    return True


def _drop_cross(tx: Transaction) -> bool:
    if next_step(tx.cluster, tx.nodes) is not Step.DROP_CROSS:
        return False
    tx.update(msgspec.structs.replace(tx.cluster, cross_certificate_pem=""))
    return True
