"""What a control loop has to look at: keys that are due now, and keys that become due at some time. Pure."""

from collections.abc import Callable, Iterable

from pyswarm_manager.decisions import Decisions


class Agenda:
    """Keys in the order in which they became due, each once, and one alarm per key (wall time, nanoseconds)."""

    def __init__(self) -> None:
        self._due: dict[str, None] = {}
        self._alarms: dict[str, int] = {}

    def add(self, keys: Iterable[str]) -> None:
        """Note that these keys are to be looked at now."""
        self._due.update(dict.fromkeys(keys))

    def take(self, now_ns: int, cost: Callable[[str], int], budget: int) -> list[str]:
        """Return keys that are due, at least one if there is any, then as many as cost no more than `budget` together."""
        self.add(sorted(key for key, at_ns in self._alarms.items() if at_ns <= now_ns))
        taken: list[str] = []
        for key in self._due:
            budget -= cost(key)
            if taken and budget < 0:
                break
            taken.append(key)
        for key in taken:
            del self._due[key]
            self._alarms.pop(key, None)
        return taken

    def note(self, decisions: Decisions) -> None:
        """Note what came of a look: keys that are not finished, and those that want to be woken."""
        self.add(decisions.unfinished)
        self._alarms.update(decisions.wake_at_ns)

    @property
    def has_due(self) -> bool:
        """Whether a key waits to be looked at."""
        return bool(self._due)

    @property
    def next_alarm_ns(self) -> int | None:
        """When the next key becomes due by itself; None when none does."""
        return min(self._alarms.values(), default=None)
