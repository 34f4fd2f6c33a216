"""A task's story in tables. Pure: looks at the API's JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))


def state_rows(story: Mapping[str, Any]) -> list[list[str]]:
    """Return a row per state that the task reached: the state, since when, and how long it lasted."""
    rows = []
    for position, reached in enumerate(story["States"]):
        is_last = position == len(story["States"]) - 1
        lasted = duration(reached["Duration"])
        if is_last:
            lasted = "the end" if not reached["Duration"] else f"{lasted} so far"
        rows.append([reached["State"], moment(reached["At"]), lasted])
    return rows


def relation_rows(story: Mapping[str, Any]) -> list[list[str]]:
    """Return a row per task of the same slot: those that came after it, itself, those before it; none when it stands alone."""
    if not story["Predecessors"] and not story["Successors"]:
        return []
    return list(_relations(story))


def _relations(story: Mapping[str, Any]) -> Iterator[list[str]]:
    for mark, tasks in (("after", reversed(story["Successors"])), ("this one", [story]), ("before", story["Predecessors"])):
        for each in tasks:
            error = each["Error"] or (f"exit code {each['ExitCode']}" if each["ExitCode"] else "")
            yield [mark, each["Name"], each["NodeName"], each["State"], moment(each["CreatedAt"]), error]


def moment(text: str) -> str:
    """Return an RFC 3339 time to the millisecond: `2026-11-21 01:55:05.968Z`."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return f"{seconds.replace('T', ' ')}.{fraction[:3].ljust(3, '0')}Z"


def duration(duration_ns: int) -> str:
    """Return a duration for people, to three digits or so: `812 ms`, `5.2 s`, `3.1 min`, `27.5 h`."""
    seconds = duration_ns / 1e9
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1000:.0f} ms"
