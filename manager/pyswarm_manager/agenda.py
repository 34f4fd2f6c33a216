"""What a control loop has to look at: keys that are due now, and keys that become due at some time. Pure.

Decisions name wall times; the agenda keeps what is left until then on the monotonic clock, so that a wall clock that is set
neither silences an alarm nor sets it off early.
"""

from collections.abc import Callable, Iterable

from pyswarm_common.clock import NANOSECONDS_PER_SECOND
from pyswarm_manager.decisions import Decisions


class Agenda:
    """Keys in the order in which they became due, each once, and one alarm per key (monotonic time, seconds)."""

    def __init__(self) -> None:
        self._due: dict[str, None] = {}
        self._alarms_s: dict[str, float] = {}

    def add(self, keys: Iterable[str]) -> None:
        """Note that these keys are to be looked at now."""
        self._due.update(dict.fromkeys(keys))

    def take(self, now_s: float, cost: Callable[[str], int], budget: int) -> list[str]:
        """Return keys that are due, at least one if there is any, then as many as cost no more than `budget` together."""
        self.add(sorted(key for key, at_s in self._alarms_s.items() if at_s <= now_s))
        taken: list[str] = []
        for key in self._due:
            budget -= cost(key)
            if taken and budget < 0:
                break
            taken.append(key)
        for key in taken:
            del self._due[key]
            self._alarms_s.pop(key, None)
        return taken

    def note(self, decisions: Decisions, now_ns: int, now_s: float) -> None:
        """Note what came of a look: keys that are not finished, and those that want to be woken. Both clocks show one moment."""
        self.add(decisions.unfinished)
        for key, at_ns in decisions.wake_at_ns.items():
            self._alarms_s[key] = now_s + (at_ns - now_ns) / NANOSECONDS_PER_SECOND

    @property
    def has_due(self) -> bool:
        """Whether a key waits to be looked at."""
        return bool(self._due)

    @property
    def next_alarm_s(self) -> float | None:
        """When the next key becomes due by itself; None when none does."""
        return min(self._alarms_s.values(), default=None)
