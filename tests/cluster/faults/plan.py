"""Which faults come when: a pure function of a seed, a mix and the hosts."""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

KILL_DAEMON = "kill-pyswarmd"
KILL_ETCD = "kill-etcd"
KILL_BOTH = "kill-both"
STOP_DAEMON = "stop-pyswarmd"
POWER_CUT = "power-cut"
POWER_CUT_ALL = "power-cut-all"
PAUSE_DAEMON = "pause-pyswarmd"
PAUSE_ETCD = "pause-etcd"
PAUSE_BOTH = "pause-both"
CUT_OFF = "cut-off"
CUT_PAIR = "cut-pair"
CUT_ONE_WAY = "cut-one-way"
FLAP = "link-flap"

HOSTS_NEEDED = {CUT_PAIR: 2, CUT_ONE_WAY: 2}
"""Other kinds strike one host, or all."""
_KILLS = {KILL_DAEMON: 3, KILL_ETCD: 3, KILL_BOTH: 2, STOP_DAEMON: 2, POWER_CUT: 3}
_PAUSES = {PAUSE_DAEMON: 3, PAUSE_ETCD: 2, PAUSE_BOTH: 3}
_CUTS = {CUT_OFF: 3, CUT_PAIR: 3, CUT_ONE_WAY: 4, FLAP: 2}


class Mix(NamedTuple):
    """Weights of the kinds, how many faults may last at once, and the ranges of how long each lasts and of the gaps between."""

    weights: Mapping[str, int]
    at_once: int = 1
    lasts_s: tuple[float, float] = (1.0, 7.0)
    gap_s: tuple[float, float] = (0.5, 4.0)
    aims_at_leader: float = 0.5
    """The share of faults that strike the leader's host, whichever it is then."""


MIXES = {
    "kills": Mix(_KILLS),
    "pauses": Mix(_PAUSES, lasts_s=(1.0, 10.0)),
    "partitions": Mix(_CUTS, at_once=2),
    "power": Mix({POWER_CUT: 3, POWER_CUT_ALL: 1}),
    "all": Mix({**_KILLS, **_PAUSES, **_CUTS, POWER_CUT_ALL: 2}, at_once=2),
}


class PlannedFault(NamedTuple):
    """A fault to come: `at_s` after the start, on these hosts (or, when it aims at the leader, with the leader's as the first)."""

    kind: str
    hosts: tuple[str, ...]
    at_s: float
    lasts_s: float
    aims_at_leader: bool


def plan_faults(seed: int, seconds: float, hosts: Sequence[str], mix: Mix) -> list[PlannedFault]:
    """Return the faults of a run: at most `mix.at_once` last at any moment, and all end within `seconds`.

    A fault that strikes all hosts is alone.
    """
    chance = random.Random(seed)
    planned: list[PlannedFault] = []
    kinds = [kind for kind in mix.weights if HOSTS_NEEDED.get(kind, 1) <= len(hosts)]
    at_s = chance.uniform(*mix.gap_s)
    while True:
        kind = chance.choices(kinds, [mix.weights[k] for k in kinds])[0]
        lasts_s = chance.uniform(*mix.lasts_s)
        aims_at_leader = chance.random() < mix.aims_at_leader
        struck = tuple(hosts) if kind == POWER_CUT_ALL else tuple(chance.sample(list(hosts), HOSTS_NEEDED.get(kind, 1)))
        at_s = _next_free_s(planned, at_s, 1 if kind == POWER_CUT_ALL else mix.at_once)
        if at_s + lasts_s > seconds:
            return planned
        planned.append(PlannedFault(kind, struck, at_s, lasts_s, aims_at_leader and kind != POWER_CUT_ALL))
        at_s += chance.uniform(*mix.gap_s)


def _next_free_s(planned: Sequence[PlannedFault], at_s: float, at_once: int) -> float:
    """Return the first moment from `at_s` on when fewer than `at_once` faults last."""
    ends = sorted(fault.at_s + fault.lasts_s for fault in planned)
    alone_until_s = max((f.at_s + f.lasts_s for f in planned if f.kind == POWER_CUT_ALL), default=0.0)
    return max(at_s, alone_until_s, ends[-at_once] if len(ends) >= at_once else 0.0)
