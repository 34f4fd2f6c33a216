"""What a service's labels say about when it runs, and when that is next. Pure (zone data is read once and kept).

Expressions mean what they mean to Debian's cron (`cronsim`), also when clocks are changed for summer: a job for a fixed time that
is left out runs as soon as that time has passed, and one for a time that comes twice runs the first time only; jobs that run
every so many minutes or hours go by the time that really passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import NoReturn
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.service_labels import SCHEDULE, SCHEDULE_HISTORY, SCHEDULE_OVERLAP, SCHEDULE_TIME_ZONE
from pyswarm_common.specs import SECOND_NS

OVERLAP_POLICIES = ("skip", "queue", "replace")
DEFAULT_HISTORY = 10
MAXIMUM_HISTORY = 100
_FIELD_COUNT = 5
_SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Timetable:
    """When a job runs, as its labels say it; all checked."""

    expression: str
    """Five fields."""
    zone: str = "UTC"
    overlap: str = "skip"
    history: int = DEFAULT_HISTORY
    """How many runs are remembered."""

    def next_due_ns(self, after_ns: int) -> int:
        """Return the first due time after this one (nanoseconds since the epoch); 0 when none comes within 50 years."""
        try:
            start = datetime.fromtimestamp(after_ns // SECOND_NS, _zone(self.zone))
            for due in CronSim(self.expression, start):
                # What the library finds in an hour that comes twice may lie in its first turn, and so be over.
                due_ns = int(due.timestamp()) * SECOND_NS
                if due_ns > after_ns:
                    return due_ns
        except (OverflowError, ValueError):  # a clock beyond the years that calendars know
            pass
        return 0


def timetable_of(labels: Mapping[str, str] | None) -> Timetable | None:
    """Return the timetable that labels hold; None when there is no `pyswarm.schedule`. Raises InvalidArgument."""
    if not labels or SCHEDULE not in labels:
        return None
    known = (SCHEDULE, SCHEDULE_TIME_ZONE, SCHEDULE_OVERLAP, SCHEDULE_HISTORY)
    for label in labels:
        if label.startswith(f"{SCHEDULE}.") and label not in known:
            _refuse(f"label {label} is not known: there are {', '.join(known[1:])}")
    return _parse(*(labels.get(label, "") for label in known))


@lru_cache(maxsize=4096)
def _parse(expression: str, zone: str, overlap: str, history: str) -> Timetable:
    if overlap not in ("", *OVERLAP_POLICIES):
        _refuse(f'label {SCHEDULE_OVERLAP} is "{overlap}": it must be {", ".join(OVERLAP_POLICIES[:-1])} or {OVERLAP_POLICIES[-1]}')
    timetable = Timetable(
        expression=_parsed_expression(expression),
        zone=_parsed_zone(zone),
        overlap=overlap or OVERLAP_POLICIES[0],
        history=_parsed_history(history),
    )
    if not timetable.next_due_ns(int(_ANY_TIME.timestamp()) * SECOND_NS):
        _refuse(f'label {SCHEDULE}: "{expression}" is never due: no such date exists')
    return timetable


def _parsed_expression(text: str) -> str:
    expression = _SHORTHANDS.get(text.strip().lower(), " ".join(text.split()))
    if len(expression.split()) != _FIELD_COUNT:
        shape = 'five fields are expected (minute, hour, day of month, month, day of week), such as "*/5 * * * *"'
        _refuse(f'label {SCHEDULE}: "{text}" is not a cron expression: {shape}')
    try:
        CronSim(expression, _ANY_TIME)
    except CronSimError as error:
        _refuse(f'label {SCHEDULE}: "{text}" is not a cron expression: {str(error)[:1].lower()}{str(error)[1:]}')
    return expression


def _parsed_zone(name: str) -> str:
    wanted = name or "UTC"
    try:
        if not wanted[0].isupper():  # `localtime` and the like mean something else on each machine
            raise KeyError(wanted)
        _zone(wanted)
    except (KeyError, ValueError, OSError):
        _refuse(f'label {SCHEDULE_TIME_ZONE}: there is no time zone "{name}": use a name such as Europe/Berlin')
    return wanted


def _parsed_history(text: str) -> int:
    if not text:
        return DEFAULT_HISTORY
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAXIMUM_HISTORY:
        _refuse(f'label {SCHEDULE_HISTORY} is "{text}": it must be a number from 1 to {MAXIMUM_HISTORY}')
    return int(text)


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def _refuse(problem: str) -> NoReturn:
    raise InvalidArgument(problem, grpc_code="InvalidArgument")
