"""Nodes in the order of their load, kept up lazily while a round of placements changes it. Pure.

The round writes down which nodes it put something on; an order that is asked for brings those nodes to their new places first. So
orders that nobody asks for again cost nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

Entry = tuple[int, str]
"""Task count and id of a node."""
_RESORT_SHARE = 8
"""When more than one node in so many moved, all are sorted anew."""


class LoadOrder:
    """Some nodes, sorted by task count and id."""

    __slots__ = ("_entries", "_places", "_seen")

    def __init__(self, entries: list[Entry]) -> None:
        """Entries as they were before any move."""
        self._entries = entries
        self._seen = 0
        """How many of the round's moves are in it."""
        self._places: dict[str, int] | None = None
        """Task counts under which nodes stand, made when the first one moves."""

    def entries(self, moves: Sequence[str], count_of: Callable[[str], int]) -> Sequence[Entry]:
        """Return the nodes as they are after these moves (ids of nodes in which something changed); valid until the next call."""
        if self._seen < len(moves):
            moved = set(moves[self._seen :])
            self._seen = len(moves)
            if len(moved) * _RESORT_SHARE > len(self._entries):
                self._entries = sorted((count_of(node_id), node_id) for _, node_id in self._entries)
                self._places = None
            else:
                self._move(moved, count_of)
        return self._entries

    def _move(self, moved: set[str], count_of: Callable[[str], int]) -> None:
        places = self._places
        if places is None:
            places = self._places = {node_id: count for count, node_id in self._entries}
        for node_id in moved:
            before = places.get(node_id)
            if before is not None:
                del self._entries[bisect_left(self._entries, (before, node_id))]
                places[node_id] = after = count_of(node_id)
                insort(self._entries, (after, node_id))
