"""Which processes belong to one that was started in a container: those of its session, and its descendants."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


class ProcessPlace(NamedTuple):
    """Where a process stands, in numbers as the host sees them."""

    parent: int
    session: int


def place_of(pid: int) -> ProcessPlace | None:
    """Return where a process stands, None if there is none."""
    with contextlib.suppress(OSError):
        return parse_place(Path(f"/proc/{pid}/stat").read_text())
    return None


def parse_place(stat: str) -> ProcessPlace:
    """Return what /proc/PID/stat says; pure."""
    # The name in parentheses may hold anything, parentheses too.
    fields = stat.rpartition(")")[2].split()
    return ProcessPlace(parent=int(fields[1]), session=int(fields[3]))


def members(root: int, session: int, places: Mapping[int, ProcessPlace]) -> set[int]:
    """Return those of `places` that are `root`, of its session, or descend from one of these; pure."""
    found = {pid for pid, place in places.items() if pid == root or place.session == session}
    grows = True
    while grows:
        more = {pid for pid, place in places.items() if place.parent in found} - found
        found |= more
        grows = bool(more)
    return found


def living_members(root: int, session: int, candidates: Iterable[int]) -> set[int]:
    """Return which of the candidates (a container's processes) belong to the process `root` of this session, now."""
    places = {pid: place for pid in candidates if (place := place_of(pid)) is not None}
    return members(root, session, places)
