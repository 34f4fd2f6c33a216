"""The leading manager of a simulation: the real control loops' decisions, one look at a time, without their asyncio shells.

One writer commits for all loops, a transaction after the other, so a large decision keeps everybody waiting for as many
commits as its operations fill transactions. A look is what `ControlLoop.run` does: take keys from the agenda, decide on the head,
commit, note what remains. Whoever leads next begins with new loops and an empty agenda.
"""

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from pyswarm_common.clock import NANOSECONDS_PER_SECOND
from pyswarm_manager.agenda import Agenda
from pyswarm_manager.decisions import DEFAULT_LIMIT
from pyswarm_manager.loops import TASKS_PER_LOOK, ControlLoop
from pyswarm_manager.simulator.head import Head, SimulatedClock
from pyswarm_manager.store.store import Store
from pyswarm_manager.store.subscription import Change

MOST_IDLE_LOOKS = 10_000
"""At one moment, one after the other, of all loops."""
LoopMaker = Callable[[Store, SimulatedClock], Sequence[ControlLoop]]


class Interruption(enum.Enum):
    """Where a leader falls."""

    BEFORE_COMMIT = "it has decided, nothing was committed"
    AFTER_COMMIT = "the decision was committed, and the loop learned nothing of it"


@dataclass
class _Turn:
    """A loop and what it has to do."""

    loop: ControlLoop
    agenda: Agenda = field(default_factory=Agenda)
    free_at_ns: int = 0


class Leader:
    """All control loops on one head."""

    def __init__(
        self, head: Head, clock: SimulatedClock, make_loops: LoopMaker, commit_ns: int, limit: int = DEFAULT_LIMIT
    ) -> None:
        self.interruption_of: Callable[[int], Interruption | None] = lambda _: None
        """Asked at each decision that changes something, with its number from 1: whether the leader falls there."""
        self.decision_count = 0
        self.leader_count = 0
        self.gap_ns = 0
        """How long nobody leads after an interruption."""
        self._head = head
        self._clock = clock
        self._make_loops = make_loops
        self._commit_ns = commit_ns
        self._limit = limit
        self._turns: list[_Turn] = []
        self._next = 0
        self._writer_free_at_ns = 0
        self._leads_from_ns = 0
        self._idle_looks = 0
        self._idle_at_ns = -1
        self._take_over()
        head.listeners.append(self._hear)

    def fall(self, gap_ns: int) -> None:
        """Nobody leads for so long; then somebody does whose loops know nothing but the store."""
        self._turns = []
        self._leads_from_ns = self._clock.now_ns() + gap_ns

    def _take_over(self) -> None:
        self.leader_count += 1
        self._next = 0
        self._turns = [_Turn(loop) for loop in self._make_loops(cast(Store, self._head), self._clock)]
        for turn in self._turns:
            turn.agenda.add(turn.loop.all_keys(self._head.view))

    def work(self) -> bool:
        """Take one look, of the next loop that has something to do and may do it now; False when there is none."""
        now_ns = self._clock.now_ns()
        if now_ns < max(self._writer_free_at_ns, self._leads_from_ns):
            return False
        if not self._turns:
            self._take_over()
            return True
        for step in range(len(self._turns)):
            position = (self._next + step) % len(self._turns)
            turn = self._turns[position]
            if turn.free_at_ns <= now_ns and (keys := self._take(turn)):
                self._next = position + 1
                self._look(turn, keys)
                return True
        return False

    def next_ns(self) -> int | None:
        """Return when there will be something to do; None when only a change can bring that."""
        if not self._turns:
            return max(self._leads_from_ns, self._writer_free_at_ns)
        times = (self._next_of(turn) for turn in self._turns)
        earliest = min((at_ns for at_ns in times if at_ns is not None), default=None)
        return None if earliest is None else max(earliest, self._writer_free_at_ns)

    @property
    def is_busy(self) -> bool:
        """Whether a loop has something to do that does not wait for its time, or nobody leads."""
        return not self._turns or any(turn.agenda.has_due for turn in self._turns)

    def _next_of(self, turn: _Turn) -> int | None:
        if turn.agenda.has_due:
            return turn.free_at_ns
        alarm_s = turn.agenda.next_alarm_s
        if alarm_s is None:
            return None
        alarm_ns = self._clock.start_ns + math.ceil(alarm_s * NANOSECONDS_PER_SECOND)
        return max(turn.free_at_ns, alarm_ns, self._clock.now_ns() + 1)  # it is later than now, if only by the last bit of a float

    def _take(self, turn: _Turn) -> list[str]:
        tasks = self._head.view.tasks
        budget = TASKS_PER_LOOK * max(1, self._limit // DEFAULT_LIMIT)
        return turn.agenda.take(self._clock.monotonic_s(), lambda key: 1 + len(tasks.of_service(key)), budget)

    def _look(self, turn: _Turn, keys: list[str]) -> None:
        now_ns = self._clock.now_ns()
        decisions = turn.loop.decide(self._head.view, now_ns, keys, self._limit)
        interruption = None
        self._guard(turn.loop, now_ns, is_idle=decisions.is_empty)
        if not decisions.is_empty:
            self.decision_count += 1
            interruption = self.interruption_of(self.decision_count)
        if interruption is not Interruption.BEFORE_COMMIT:
            if not decisions.is_empty:
                self._head.update(decisions.apply_to)
            operations = len(decisions.created) + len(decisions.updated) + len(decisions.deleted)
            self._writer_free_at_ns = now_ns + -(-operations // DEFAULT_LIMIT) * self._commit_ns
        if interruption is not None:
            self.fall(self.gap_ns)
            return
        turn.agenda.note(decisions, now_ns, self._clock.monotonic_s())
        turn.free_at_ns = self._writer_free_at_ns + round(turn.loop.pause_s * NANOSECONDS_PER_SECOND)
        turn.loop.after_commit(decisions)

    def _guard(self, loop: ControlLoop, now_ns: int, *, is_idle: bool) -> None:
        """Find out a loop that would keep a real manager busy for nothing. Raises RuntimeError."""
        self._idle_looks = self._idle_looks + 1 if is_idle and now_ns == self._idle_at_ns else 0
        self._idle_at_ns = now_ns
        if self._idle_looks > MOST_IDLE_LOOKS:
            raise RuntimeError(f"{type(loop).__name__} looks again and again, and decides nothing")

    def _hear(self, changes: Sequence[Change]) -> None:
        view = self._head.view
        by_type = [(type(change.item), change) for change in changes]
        for turn in self._turns:
            watched, keys_of = turn.loop.watched, turn.loop.keys_of
            for type_, change in by_type:
                if type_ in watched and (keys := keys_of(change, view)):
                    turn.agenda.add(keys)
