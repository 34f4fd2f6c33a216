"""What happened when, in words, and how long the cluster took after each event until everything was in its place."""

from collections import Counter
from dataclasses import dataclass

from pyswarm_common.amounts import format_duration_ns
from pyswarm_common.specs import SECOND_NS
from pyswarm_common.task_states import TaskState
from pyswarm_manager.store.tables import View

MOST_ENTRIES = 10_000


@dataclass(frozen=True)
class Entry:
    """A line of the timeline; the time is virtual nanoseconds since the start."""

    at_ns: int
    text: str


class Timeline:
    """Entries in their order; of very many only the first are kept."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.left_out = 0
        self._last_event: Entry | None = Entry(0, "the start")

    def add(self, at_ns: int, text: str) -> None:
        """Note what happened."""
        if len(self.entries) >= MOST_ENTRIES:
            self.left_out += 1
        else:
            self.entries.append(Entry(at_ns, text))

    def event(self, at_ns: int, text: str) -> None:
        """Note what the scenario asked for."""
        self.add(at_ns, text)
        self._last_event = Entry(at_ns, text)

    def settled(self, at_ns: int, view: View) -> None:
        """Note that everything is in its place, as far as there is one."""
        pending = pending_reasons(view)
        count = sum(pending.values())
        rest = f"; {count} {'task stays' if count == 1 else 'tasks stay'} pending" if count else ""
        after = ""
        if self._last_event is not None:
            elapsed_ns = max(0, at_ns - self._last_event.at_ns)
            after = f", {format_rounded(elapsed_ns)} after: {self._last_event.text}"
            self._last_event = None
        self.add(at_ns, f"settled{after}{rest}")


def pending_reasons(view: View) -> Counter[tuple[str, str]]:
    """Return how many tasks have no node, by service id and reason."""
    found: Counter[tuple[str, str]] = Counter()
    for state in (TaskState.NEW, TaskState.PENDING):
        for task in view.tasks.unplaced(state):
            if task.desired_state <= TaskState.RUNNING:
                found[task.service_id, task.status.error] += 1
    return found


def format_rounded(duration_ns: int) -> str:
    """Return a duration to the hundredth of a second, `3m2.5s`."""
    hundredths = round(duration_ns / SECOND_NS * 100)
    minutes, rest = divmod(hundredths, 6000)
    if not minutes:
        return f"{rest / 100:g}s"
    return format_duration_ns(minutes * 60 * SECOND_NS) + (f"{rest / 100:g}s" if rest else "")
