"""Drift as it is told: what was wrong, whether it is right again; and the memory that keeps one that always comes back from being
told all the time."""

from collections import deque
from collections.abc import Iterable

import msgspec

from pyswarm_common.objects import Record

KEPT_DRIFTS = 100
FIRST_PAUSE_S = 60.0
LONGEST_PAUSE_S = 3600.0
_LONGEST_LIST = 8


class Drift(Record, frozen=True, kw_only=True):
    """What one audit found in one scope. `is_repaired`: it is as desired again; else `error` may say why not.

    `times`: how often it was found since it was last told.
    """

    scope: str
    what: tuple[str, ...]
    is_repaired: bool = True
    error: str = ""
    times: int = 1
    at_ns: int = 0

    def sentence(self) -> str:
        """Say it in one line, also when there is much of it."""
        rest = len(self.what) - _LONGEST_LIST
        return "; ".join(self.what[:_LONGEST_LIST]) + (f"; and {rest} more" if rest > 0 else "")


class _Told:
    def __init__(self, at_s: float) -> None:
        self.at_s = at_s
        self.pause_s = FIRST_PAUSE_S
        self.times = 0


class DriftHistory:
    """The last drifts, and which of them is worth telling."""

    def __init__(self) -> None:
        self._kept: deque[Drift] = deque(maxlen=KEPT_DRIFTS)
        self._told: dict[tuple[str, tuple[str, ...], str], _Told] = {}

    def note(self, drifts: Iterable[Drift], now_s: float) -> list[Drift]:
        """Keep them and return what shall be told: not again what was told a short time ago; the pause doubles up to an hour."""
        self._told = {key: told for key, told in self._told.items() if now_s - told.at_s < 2 * LONGEST_PAUSE_S}
        worth = []
        for drift in drifts:
            self._keep(drift)
            key = (drift.scope, drift.what, drift.error)
            told = self._told.get(key)
            if told is None:
                self._told[key] = _Told(now_s)
                worth.append(drift)
                continue
            told.times += 1
            if now_s - told.at_s >= told.pause_s:
                worth.append(msgspec.structs.replace(drift, times=told.times))
                told.at_s, told.pause_s, told.times = now_s, min(2 * told.pause_s, LONGEST_PAUSE_S), 0
        return worth

    @property
    def kept(self) -> tuple[Drift, ...]:
        """The last drifts, oldest first; one that came back at once is there once, with the time of the last."""
        return tuple(self._kept)

    def _keep(self, drift: Drift) -> None:
        last = self._kept[-1] if self._kept else None
        if last is not None and (last.scope, last.what, last.error) == (drift.scope, drift.what, drift.error):
            self._kept[-1] = msgspec.structs.replace(drift, times=last.times + 1)
        else:
            self._kept.append(drift)
