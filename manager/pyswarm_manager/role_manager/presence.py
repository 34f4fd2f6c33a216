"""Which nodes lately asked to be managers, and what they said of their data. Kept by the leader, in memory: nodes ask again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyswarm_manager.role_manager.decide import Presence

PRESENT_S = 10.0
"""For how long a request shows that its node is there."""
LOSS_CONFIRMED_S = 1.0
"""For how long a node must say that its data is lost: a request that was under way for long may come after newer ones."""


@dataclass
class _Heard:
    at_s: float
    has_data: bool
    since_s: float
    """When it first said so without a break."""


class Presences:
    """What nodes said, by node. Times are those of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._heard: dict[str, _Heard] = {}

    def note(self, node_id: str, now_s: float, *, has_data: bool) -> bool:
        """Note a request; returns whether that is news."""
        before = self._heard.get(node_id)
        goes_on = before is not None and before.has_data == has_data and now_s - before.at_s < PRESENT_S
        since_s = before.since_s if before is not None and goes_on else now_s
        self._heard[node_id] = _Heard(now_s, has_data, since_s)
        return not goes_on

    def note_told_to_start(self, node_id: str, now_s: float) -> None:
        """Note that the node was told to start without data: what it said before that says nothing of what it has then."""
        heard = self._heard.get(node_id)
        if heard is not None:
            heard.since_s = now_s

    def at(self, now_s: float) -> Mapping[str, Presence]:
        """Return the nodes that are there."""
        return {node_id: _presence(heard) for node_id, heard in self._heard.items() if now_s - heard.at_s < PRESENT_S}

    def silent_for_s(self, node_ids: Iterable[str], now_s: float, since_s: float) -> Mapping[str, float]:
        """Return for how long each of these nodes has been silent to a leader that leads since `since_s`."""
        heard_s = {node_id: heard.at_s for node_id, heard in self._heard.items()}
        return {node_id: now_s - max(heard_s.get(node_id, since_s), since_s) for node_id in node_ids}


def _presence(heard: _Heard) -> Presence:
    if heard.has_data:
        return "with data"
    return "without data" if heard.at_s - heard.since_s >= LOSS_CONFIRMED_S else "there"
