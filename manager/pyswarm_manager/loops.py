"""The shell of every control loop: watch the store, look at what changed, decide on the head, commit, until nothing remains.

A loop is level-triggered: events only say which *keys* (services, mostly) to look at; what is done follows from the head
alone, so a lost or doubled event does no harm. The first event after a quiet time is acted on at once; after each look the
loop pauses for `pause_s`, while further events gather. A look handles a bounded number of tasks and writes a bounded number
of objects, so that the event loop is never blocked for long; what remains follows in the next look.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable

from pyswarm_common.clock import Clock
from pyswarm_common.objects import AnyObject
from pyswarm_manager.agenda import Agenda
from pyswarm_manager.decisions import DEFAULT_LIMIT, LEAST_LIMIT, Decisions
from pyswarm_manager.store.batch import TransactionTooLarge
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.subscription import Change, Subscription
from pyswarm_manager.store.tables import View
from pyswarm_manager.store.transaction import Transaction

TASKS_PER_LOOK = 5_000
"""How many tasks of services one look goes through at most (unless a single service has more)."""


class ControlLoop(ABC):
    """Base of the loops; a loop says what it watches, which keys a change touches, and how it decides."""

    watched: tuple[type[AnyObject], ...] = ()
    pause_s = 0.0

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    @abstractmethod
    def all_keys(self, view: View) -> Iterable[str]:
        """Return the keys to look at when the loop starts."""

    @abstractmethod
    def keys_of(self, change: Change, view: View) -> Iterable[str]:
        """Return the keys that a change touches; `view` already includes it."""

    @abstractmethod
    def decide(self, view: View, now_ns: int, keys: list[str], limit: int) -> Decisions:
        """Return what to do about these keys with so many operations."""

    def after_commit(self, decisions: Decisions) -> None:
        """Learn what was committed; nothing by default."""
        del decisions

    async def run(self) -> None:
        """Work until cancelled. Raises Unavailable when this manager stops leading."""
        agenda = Agenda()
        with self._store.watch(*self.watched) as subscription:
            agenda.add(self.all_keys(self._store.view))
            while True:
                self._note(agenda, subscription.take())
                keys = agenda.take(self._clock.monotonic_s(), self._cost, TASKS_PER_LOOK)
                if not keys:
                    self._note(agenda, await self._wait_changes(subscription, agenda.next_alarm_s))
                    continue
                await self._look(agenda, keys)
                if self.pause_s and not agenda.has_due:
                    await self._clock.sleep(self.pause_s)

    async def _look(self, agenda: Agenda, keys: list[str]) -> None:
        limit = DEFAULT_LIMIT
        while True:
            try:
                decisions = await self._store.update(lambda tx, limit=limit: self._decide_and_apply(tx, keys, limit))  # type: ignore[misc]
                break
            except TransactionTooLarge:  # fewer objects, as these are large ones
                if limit <= LEAST_LIMIT:
                    raise
                limit = max(LEAST_LIMIT, limit // 4)
        agenda.note(decisions, self._clock.now_ns(), self._clock.monotonic_s())
        self.after_commit(decisions)

    def _decide_and_apply(self, tx: Transaction, keys: list[str], limit: int) -> Decisions:
        decisions = self.decide(tx, tx.now_ns, keys, limit)
        decisions.apply_to(tx)
        return decisions

    def _cost(self, key: str) -> int:
        return 1 + len(self._store.view.tasks.of_service(key))

    def _note(self, agenda: Agenda, changes: Iterable[Change]) -> None:
        view = self._store.view
        for change in changes:
            agenda.add(self.keys_of(change, view))

    async def _wait_changes(self, subscription: Subscription, alarm_s: float | None) -> list[Change]:
        """Return the next changes, or none when the alarm goes off first."""
        if alarm_s is None:
            return await anext(subscription)
        delay_s = max(0.0, alarm_s - self._clock.monotonic_s())
        changes = asyncio.ensure_future(anext(subscription))
        alarm = asyncio.ensure_future(self._clock.sleep(delay_s))
        try:
            await asyncio.wait({changes, alarm}, return_when=asyncio.FIRST_COMPLETED)
            return changes.result() if changes.done() else []
        finally:
            changes.cancel()
            alarm.cancel()
            await asyncio.gather(changes, alarm, return_exceptions=True)
