"""Keeps a manager's key file under the cluster's unlock key: locked, under another key, or plain, as the operators say.

Runs on every manager. A manager that was down during a rotation opens with the key that it had, and follows as soon as it knows
what the cluster says now; before that it changes nothing, since its own copy of the store may be older than its key file.
"""

from typing import Protocol

import structlog

from pyswarm_common.clock import Clock
from pyswarm_common.errors import Unavailable
from pyswarm_common.failpoints import failpoint
from pyswarm_common.objects import Cluster
from pyswarm_manager.store.store import Store

RETRY_PAUSE_S = 1.0

_log = structlog.get_logger()


class Lockable(Protocol):
    """What holds the keys: `MembershipStore`."""

    @property
    def unlock_key(self) -> str:
        """The unlock key in use, "" for none."""
        ...

    def change_lock(self, unlock_key: str) -> None:
        """Use this one. Raises OSError, and then goes on with the other."""
        ...


class KeyLocker:
    """Makes `files` follow the cluster's unlock key."""

    def __init__(self, store: Store, files: Lockable, clock: Clock) -> None:
        self._store = store
        self._files = files
        self._clock = clock

    async def run(self) -> None:
        """Run until cancelled."""
        with self._store.watch(Cluster) as changes:
            await self._wait_current()
            while True:
                await self._follow()
                await changes.wait()

    async def _wait_current(self) -> None:
        """Return once the view holds what the cluster has agreed on; from then on it never goes back."""
        while True:
            try:
                await self._store.read_index()
                if not self._store.is_leaderless:
                    return
            except Unavailable as error:
                _log.info("key_locker.waits", reason=error.message)
            await self._clock.sleep(RETRY_PAUSE_S)

    async def _follow(self) -> None:
        while (wanted := self._store.view.cluster.unlock_key) != self._files.unlock_key:
            failpoint("unlock-key/known")
            try:
                self._files.change_lock(wanted)
            except OSError as error:
                _log.error("key_file.not_changed", is_to_be_locked=bool(wanted), reason=str(error))
                await self._clock.sleep(RETRY_PAUSE_S)
                continue
            failpoint("unlock-key/followed")
            _log.info("key_file.changed", is_locked=bool(wanted))
