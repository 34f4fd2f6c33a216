"""Freezes the processes of a cgroup, on version 1 and version 2. Blocking. `Cgroups.thaw` is the way back."""

import contextlib
import time

from pyswarm_agent.runtime.cgroups import Cgroups
from pyswarm_common.errors import PyswarmError, Unimplemented

FREEZE_LIMIT_S = 5.0
_RETRY_PAUSE_S = 0.005


def freeze(cgroups: Cgroups, name: str) -> None:
    """Freeze all processes of a cgroup; returns when they stand still. Raises PyswarmError (they are thawed again), OSError."""
    freezer = cgroups.freezer(name)
    if freezer is None:
        raise Unimplemented("this host cannot pause containers: its kernel has no cgroup freezer")
    deadline_s = time.monotonic() + FREEZE_LIMIT_S
    while True:
        # Version 1 gives up on a process that forks at the wrong moment, and wants to be asked again.
        freezer.file.write_text(freezer.frozen)
        if is_frozen(cgroups, name):
            return
        if time.monotonic() > deadline_s:
            cgroups.thaw(name)
            raise PyswarmError(f"the processes of container {name[:12]} do not stand still")
        time.sleep(_RETRY_PAUSE_S)


def is_frozen(cgroups: Cgroups, name: str) -> bool:
    """Return whether all processes of a cgroup stand still; False when it is gone."""
    freezer = cgroups.freezer(name)
    if freezer is not None:
        with contextlib.suppress(OSError):
            if not cgroups.layout.is_unified:
                return freezer.file.read_text().strip() == freezer.frozen
            return "frozen 1" in (freezer.file.parent / "cgroup.events").read_text().splitlines()
    return False
