"""Which nodes are dead: deadlines that follow heartbeats, and that forgive the leader's own stalls.

A node is dead when nothing was heard of it for `GRACE_PERIODS` heartbeat periods, but for three cases that must not look like
deaths:
  * a leader that was paused or starved: its late tick shifts all deadlines;
  * a cut that silences many nodes at once (more than a third of them, and more than one): they get `MASS_SILENCE_GRACE_S`;
  * a daemon that is paused: it is silent, but the kernel of its host still takes connections for it. So `tick` asks for a probe
    of a manager, whose address is known, just before its deadline. While probes reach it, it has `PAUSE_GRACE_S` since its beat.
A new leader gives every node more time, since it has to find its way here first.

Pure: times are arguments, in seconds of one monotonic clock.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter

GRACE_PERIODS = 3.0
NEW_LEADER_FACTOR = 1.5
MASS_SILENCE_GRACE_S = 15.0
PAUSE_GRACE_S = 15.0
PROBE_TIMEOUT_S = 0.5
PROBE_PAUSE_S = 0.5
TICK_S = 0.2
LATE_TICK_S = 0.5
BEATS_PER_S = 1000.0
"""How many heartbeats the leader takes in at most: one costs it less than 0.1 ms, with TLS, so 10 % of a core in all."""
_PERIOD_STEP_S = 0.25
"""Stretched periods grow in steps, so that not every join has to be told to every node."""


def heartbeat_period_s(configured_s: float, node_count: int) -> float:
    """Return the period in which nodes shall beat: the configured one, or the longer one that so many nodes demand."""
    if node_count <= configured_s * BEATS_PER_S:
        return configured_s
    return math.ceil(node_count / BEATS_PER_S / _PERIOD_STEP_S) * _PERIOD_STEP_S


@dataclass(frozen=True)
class Verdict:
    """What a tick finds: the nodes that are dead now, each told once, and those to probe, each answered by `probed`."""

    dead: list[str] = field(default_factory=list)
    to_probe: list[str] = field(default_factory=list)


@dataclass
class _Watched:
    heard_s: float
    deadline_s: float
    mass_deadline_s: float = 0.0
    is_being_probed: bool = False
    is_unreachable: bool = False


class Liveness:
    """The deadlines of all nodes that are thought alive."""

    def __init__(self, heartbeat_period_s: float, now_s: float) -> None:
        self.heartbeat_period_s = heartbeat_period_s
        self._nodes: dict[str, _Watched] = {}
        self._last_tick_s = now_s

    def expect(self, node_id: str, now_s: float) -> None:
        """Await a node that a former leader knew: it gets more time."""
        self._nodes[node_id] = _Watched(now_s, now_s + self.heartbeat_period_s * GRACE_PERIODS * NEW_LEADER_FACTOR)

    def heard(self, node_id: str, now_s: float) -> None:
        """The node gave a sign of life."""
        self._nodes[node_id] = _Watched(now_s, now_s + self.heartbeat_period_s * GRACE_PERIODS)

    def forget(self, node_id: str) -> None:
        """The node is gone or known to be dead."""
        self._nodes.pop(node_id, None)

    def change_period(self, heartbeat_period_s: float, now_s: float) -> None:
        """Nodes are told another period now: until the next beat of each the longer of the two counts."""
        grace_s = max(self.heartbeat_period_s, heartbeat_period_s) * GRACE_PERIODS
        self.heartbeat_period_s = heartbeat_period_s
        for watched in self._nodes.values():
            watched.deadline_s = max(watched.deadline_s, now_s + grace_s)

    def probed(self, node_id: str, now_s: float, *, is_reachable: bool) -> None:
        """Take in what a probe found."""
        watched = self._nodes.get(node_id)
        if watched is None or not watched.is_being_probed:
            return  # it was heard meanwhile
        watched.is_being_probed = False
        watched.is_unreachable = not is_reachable
        if is_reachable:
            until_s = min(now_s + PROBE_PAUSE_S + PROBE_TIMEOUT_S, watched.heard_s + PAUSE_GRACE_S)
            watched.deadline_s = max(watched.deadline_s, until_s)

    def tick(self, now_s: float, can_be_probed: Callable[[str], bool] = lambda _: False) -> Verdict:
        """Return what is so now; call it every `TICK_S`."""
        self._forgive_stall(now_s)
        self._forgive_mass(now_s)
        verdict = Verdict()
        for node_id, watched in self._due(now_s):
            if self._must_be_probed(watched, now_s) and can_be_probed(node_id):
                watched.is_being_probed = True
                verdict.to_probe.append(node_id)
            elif watched.deadline_s <= now_s:
                verdict.dead.append(node_id)
                self.forget(node_id)
        return verdict

    def _due(self, now_s: float) -> list[tuple[str, _Watched]]:
        due = (item for item in self._nodes.items() if item[1].deadline_s - PROBE_TIMEOUT_S <= now_s)
        return sorted((i for i in due if i[1].mass_deadline_s <= now_s and not i[1].is_being_probed), key=itemgetter(0))

    def _must_be_probed(self, watched: _Watched, now_s: float) -> bool:
        return not watched.is_unreachable and now_s < watched.heard_s + PAUSE_GRACE_S

    def _forgive_stall(self, now_s: float) -> None:
        stall_s = now_s - self._last_tick_s - TICK_S
        self._last_tick_s = now_s
        if stall_s > LATE_TICK_S:
            for watched in self._nodes.values():
                watched.heard_s += stall_s
                watched.deadline_s += stall_s

    def _forgive_mass(self, now_s: float) -> None:
        silent = [watched for watched in self._nodes.values() if watched.deadline_s <= now_s]
        if len(silent) > max(1, len(self._nodes) / 3):
            for watched in silent:
                watched.mass_deadline_s = watched.mass_deadline_s or watched.deadline_s + MASS_SILENCE_GRACE_S
