"""The writes of one object in order: each names the one that it was made on; so together they form a chain, or a fork."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from faults.history import Operation

ABSENT = ""
"""The mark that a create is made on."""
INITIAL = "initial"
"""The mark of an object that was there before the run."""


class Chain:
    """One object's writes (creates and updates). `seen` are the marks that anybody saw, at any time."""

    def __init__(self, operations: Sequence[Operation], seen: Iterable[str]) -> None:
        self.writes = {o.wrote: o for o in operations if o.wrote}
        self.acknowledged = [o for o in self.writes.values() if o.outcome == "ok"]
        self.strangers = sorted({mark for mark in seen if mark not in self.writes and mark not in (ABSENT, INITIAL)})
        known = [o.wrote for o in self.acknowledged] + [mark for mark in seen if mark in self.writes]
        self.happened = {mark for one in known for mark in self.ancestors(one)}
        """The marks of writes that took effect: acknowledged, seen, or beneath one of these."""

    def ancestors(self, mark: str) -> Iterator[str]:
        """Yield the mark and those beneath it, down to where the chain began."""
        while mark in self.writes:
            yield mark
            mark = self.writes[mark].parent

    def forks(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each mark that more than one write was made on, with these writes."""
        children: dict[str, list[str]] = defaultdict(list)
        for mark in sorted(self.happened):
            children[self.writes[mark].parent].append(mark)
        yield from ((parent, marks) for parent, marks in children.items() if len(marks) > 1)

    def refused_yet_there(self) -> list[Operation]:
        """Return the writes that were refused for certain, and took effect all the same."""
        return [self.writes[mark] for mark in sorted(self.happened) if self.writes[mark].outcome == "fail"]
