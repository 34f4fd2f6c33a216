"""What is to be done about a log's files: from their state to the next steps. Pure.

How a log is rotated, and why so. conmon writes `container.log`. Told to reopen it, conmon closes it, makes `container.log.tmp`
and renames that to `container.log`: whatever has this name then is replaced, and what has no other name is gone. So:

1. **Reserve**: make `container.log.tmp`. If conmon could not, as on a full disk, it would end, and the container with it.
2. **Link**: give the file a second name, the next archive's. From here on readers count it as one file under two names.
3. **Reopen**: tell conmon, once. The rotation is over when `container.log` is another file than the newest archive.
4. **Compress** archives, but for the newest, whose end is what readers want most; **Drop** the oldest beyond the number that is
   kept. The newest archive is never removed, at most emptied, as its number tells the next one.

The daemon may be killed after any of these; the next one finds the state and goes on. The one thing that it cannot see is whether
conmon was told already. To tell it twice would lose the lines that are written between the two: so a daemon that finds a rotation
under way tells conmon only when it is certain that nobody has (`is_certainly_not_told`).
"""

from dataclasses import dataclass
from typing import TypeAlias

from pyswarm_agent.runtime.log_files import Archive
from pyswarm_common.log_drivers import LogLimits


@dataclass(frozen=True)
class LogState:
    """What there is. `is_linked`: the newest archive is the same file as `container.log`.

    `may_reopen`: nobody has told conmon to reopen the file since it was linked, for certain.
    """

    size_bytes: int
    archives: tuple[Archive, ...] = ()
    is_linked: bool = False
    is_written: bool = True
    has_reserve: bool = False
    has_partials: bool = False
    is_newest_empty: bool = False
    may_reopen: bool = False


@dataclass(frozen=True)
class ClearPartials:
    """Remove what an interrupted compression has left."""


@dataclass(frozen=True)
class Reserve:
    """Make the file that conmon will write next."""


@dataclass(frozen=True)
class RemoveReserve:
    """Remove it: nothing will be written any more."""


@dataclass(frozen=True)
class Link:
    """Give the file that is written an archive's name too."""

    number: int


@dataclass(frozen=True)
class Unlink:
    """Take that back: conmon ended before it began another file."""

    number: int


@dataclass(frozen=True)
class Reopen:
    """Tell conmon to begin another file."""


@dataclass(frozen=True)
class Compress:
    """Replace an archive by a compressed one."""

    number: int


@dataclass(frozen=True)
class RemovePlain:
    """Remove the plain form of an archive that was compressed."""

    number: int


@dataclass(frozen=True)
class Drop:
    """Remove an archive in either form."""

    number: int


@dataclass(frozen=True)
class Empty:
    """Replace the newest archive by an empty one."""

    number: int


Step: TypeAlias = ClearPartials | Reserve | RemoveReserve | Link | Unlink | Reopen | Compress | RemovePlain | Drop | Empty


def plan_rotation(state: LogState, limits: LogLimits) -> list[Step]:
    """Return the steps that can be taken now, in order; a rotation's end is seen the next time."""
    return [*_rotation(state, limits), *_housekeeping(state, limits)]


def _rotation(state: LogState, limits: LogLimits) -> list[Step]:
    newest = state.archives[-1].number if state.archives else 0
    if not state.is_written:
        return [*([Unlink(newest)] if state.is_linked else []), *([RemoveReserve()] if state.has_reserve else [])]
    reserve: list[Step] = [] if state.has_reserve else [Reserve()]
    if state.is_linked:
        return [*reserve, Reopen()] if state.may_reopen else []
    if 0 < limits.max_size_bytes <= state.size_bytes:
        return [*reserve, Link(newest + 1), Reopen()]
    return []


def _housekeeping(state: LogState, limits: LogLimits) -> list[Step]:
    """What concerns archives that nobody writes."""
    closed = state.archives[:-1] if state.is_linked else state.archives
    steps: list[Step] = [ClearPartials()] if state.has_partials else []
    surplus = max(0, len(closed) - (limits.max_files - 1))
    for archive in closed[:surplus]:
        if archive is not state.archives[-1]:
            steps.append(Drop(archive.number))
        elif not state.is_newest_empty:
            steps.append(Empty(archive.number))
    for archive in closed[surplus:]:
        if archive.is_plain and archive.is_compressed:
            steps.append(RemovePlain(archive.number))
        elif archive.is_plain and limits.compresses and archive is not state.archives[-1]:
            steps.append(Compress(archive.number))
    return steps


@dataclass(frozen=True)
class MonitorGlance:
    """What was seen of conmon and its fifo at one moment."""

    waiting_bytes: int
    state: str
    """As /proc has it: `S` asleep, `R` running, `D` waiting for a disk, `T` stopped, …"""


PATIENT_GLANCES = 10


def is_certainly_not_told(glances: list[MonitorGlance]) -> bool:
    """Whether conmon has not been told to reopen the file, if that is found to be linked still *after* the last glance.

    Between taking the message out of its fifo and renaming it never sleeps. Where it is never seen asleep, as it has much to
    write, a row of glances at which it was not held up will do.
    """
    if not glances or glances[-1].waiting_bytes:
        return False
    last = glances[-PATIENT_GLANCES:]
    is_moving = len(last) == PATIENT_GLANCES and all(glance.state == "R" and not glance.waiting_bytes for glance in last)
    return glances[-1].state == "S" or is_moving
