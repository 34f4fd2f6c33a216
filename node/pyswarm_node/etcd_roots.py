"""Restarts this manager's etcd member when the cluster says that it is its turn: etcd reads the roots to trust at its start only.

While this manager leads it hands over first, so that the others notice nothing; a manager that is alone pauses for as long as etcd
takes to start.
"""

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import Unavailable
from pyswarm_common.failpoints import failpoint
from pyswarm_manager.etcd.member import EtcdMember
from pyswarm_manager.store.store import Store
from pyswarm_node.certificate_keeper import CertificateKeeper

RETRY_PAUSE_S = 1.0
RESTART_LIMIT_S = 6.0
"""How long requests wait for a member that restarts; after that they are told that there is no leader."""

_log = structlog.get_logger()


class EtcdRoots:
    """Keeps the roots of a running member those that the node trusts. Make it before the member is started."""

    def __init__(self, keeper: CertificateKeeper, clock: Clock) -> None:
        self._keeper = keeper
        self._clock = clock
        self._digest = keeper.trust_digest()

    async def run(self, member: EtcdMember, store: Store) -> None:
        """Run until cancelled, beside a member that serves."""
        self._keeper.note_etcd_trust(self._digest)
        try:
            while True:
                await self._keeper.is_etcd_restart_due.wait()
                if self._digest != self._keeper.trust_digest():
                    await self._restart(member, store)
                else:  # said already; the cluster has not taken it in yet
                    await self._clock.sleep(RETRY_PAUSE_S)
        finally:
            self._keeper.note_etcd_trust("")

    async def _restart(self, member: EtcdMember, store: Store) -> None:
        digest = self._keeper.trust_digest()
        _log.info("etcd.restarts", reason="the roots to trust have changed")
        store.excuse_member(RESTART_LIMIT_S)
        try:
            has_handed_over = store.is_leader and await store.hand_over()
            failpoint("root/handed-over")
            await member.restart()
        except Unavailable as error:
            _log.warning("etcd.not_restarted", reason=error.message)
            await self._clock.sleep(RETRY_PAUSE_S)
            return
        finally:
            store.resume_leading()
        failpoint("root/restarted")
        self._digest = digest
        self._keeper.note_etcd_trust(digest)
        _log.info("etcd.restarted", handed_over=has_handed_over)
