"""The store of a simulation: tables, real transactions on them, and listeners that hear of every commit."""

from collections.abc import Callable
from typing import TypeVar

from pyswarm_common.objects import Service
from pyswarm_manager.store.subscription import Change
from pyswarm_manager.store.tables import Tables
from pyswarm_manager.store.transaction import Transaction

T = TypeVar("T")
Listener = Callable[[list[Change]], None]


class SimulatedClock:
    """Virtual time. As a `Clock` for loops, which may look at it but never sleep."""

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self._now_ns = start_ns

    def now_ns(self) -> int:
        """Return virtual wall time."""
        return self._now_ns

    def monotonic_s(self) -> float:
        """Return the virtual seconds since the start."""
        return (self._now_ns - self.start_ns) / 1e9

    def move_to(self, at_ns: int) -> None:
        """Let time pass; it never goes back."""
        self._now_ns = max(self._now_ns, at_ns)

    async def sleep(self, seconds: float) -> None:
        """Refuse: what runs in a simulation returns at once and says when it wants to be woken."""
        raise NotImplementedError("nothing sleeps in a simulation")


class Head:
    """All objects. Every change goes through `update`, as in the real store, and is seen at once."""

    def __init__(self, clock: SimulatedClock) -> None:
        self.view = Tables()
        self.commit_count = 0
        self.listeners: list[Listener] = []
        self._clock = clock

    def update(self, function: Callable[[Transaction], T]) -> T:
        """Run a function on the head and tell the listeners what it changed. When it raises, nothing is changed."""
        transaction = Transaction(self.view, self._clock.now_ns())
        try:
            result = function(transaction)
            transaction.finish()
        except Exception:
            transaction.undo()
            raise
        changes = transaction.changes()
        if changes:
            self.commit_count += 1
            for change in changes:
                if isinstance(change.after, Service):
                    self.view.services.set_version(change.after.id, self.commit_count)
            for listener in self.listeners:
                listener(changes)
        return result
