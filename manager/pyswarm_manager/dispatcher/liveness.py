"""Which nodes are dead: deadlines that follow heartbeats, and that forgive the leader's own stalls.

A node is dead when it was silent for `GRACE_PERIODS` heartbeat periods. Two cases must not look like deaths: a leader that was
paused or starved (its late tick shifts all deadlines), and a cut that silences many nodes at once (more than a third of
them, and more than one: they get `MASS_SILENCE_GRACE_S`). A new leader gives every node double time. Pure: times are arguments, in
seconds of one monotonic clock.
"""

GRACE_PERIODS = 3.0
NEW_LEADER_FACTOR = 2.0
MASS_SILENCE_GRACE_S = 15.0
TICK_S = 0.2
LATE_TICK_S = 0.5


class Liveness:
    """The deadlines of all nodes that are thought alive."""

    def __init__(self, heartbeat_period_s: float, now_s: float) -> None:
        self.heartbeat_period_s = heartbeat_period_s
        self._deadlines: dict[str, float] = {}
        self._forgiven_until: dict[str, float] = {}
        self._last_tick_s = now_s

    def expect(self, node_id: str, now_s: float) -> None:
        """Await a node that a former leader knew: it gets double time."""
        self._deadlines[node_id] = now_s + self.heartbeat_period_s * GRACE_PERIODS * NEW_LEADER_FACTOR

    def heard(self, node_id: str, now_s: float) -> None:
        """The node gave a sign of life."""
        self._deadlines[node_id] = now_s + self.heartbeat_period_s * GRACE_PERIODS
        self._forgiven_until.pop(node_id, None)

    def forget(self, node_id: str) -> None:
        """The node is gone or known to be dead."""
        self._deadlines.pop(node_id, None)
        self._forgiven_until.pop(node_id, None)

    def tick(self, now_s: float) -> list[str]:
        """Return the nodes that are dead now, each once; call it every `TICK_S`."""
        stall_s = now_s - self._last_tick_s - TICK_S
        self._last_tick_s = now_s
        if stall_s > LATE_TICK_S:
            self._deadlines = {node_id: deadline + stall_s for node_id, deadline in self._deadlines.items()}
        silent = [node_id for node_id, deadline in self._deadlines.items() if deadline <= now_s]
        if len(silent) > max(1, len(self._deadlines) / 3):
            for node_id in silent:
                self._forgiven_until.setdefault(node_id, self._deadlines[node_id] + MASS_SILENCE_GRACE_S)
        dead = sorted(n for n in silent if self._forgiven_until.get(n, 0.0) <= now_s)
        for node_id in dead:
            self.forget(node_id)
        return dead
