"""Cron expressions and their labels: what is refused, and when jobs are due, also when clocks are changed for summer."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.service_labels import SCHEDULE, SCHEDULE_HISTORY, SCHEDULE_OVERLAP, SCHEDULE_TIME_ZONE
from pyswarm_common.specs import SECOND_NS
from pyswarm_manager.orchestrator.schedule.timetable import Timetable, timetable_of

BERLIN = ZoneInfo("Europe/Berlin")


def due_times(expression: str, zone: str, start: datetime, count: int) -> list[str]:
    """The next due times, in UTC."""
    timetable = timetable_of({SCHEDULE: expression, SCHEDULE_TIME_ZONE: zone})
    assert timetable is not None
    at_ns = int(start.timestamp()) * SECOND_NS
    found = []
    for _ in range(count):
        at_ns = timetable.next_due_ns(at_ns)
        found.append(datetime.fromtimestamp(at_ns // SECOND_NS, UTC).strftime("%d %H:%M"))
    return found


def test_labels_make_a_timetable() -> None:
    assert timetable_of(None) is None
    assert timetable_of({"other": "label", SCHEDULE_TIME_ZONE: "nonsense"}) is None
    assert timetable_of({SCHEDULE: "*/5 * * * *"}) == Timetable("*/5 * * * *")
    labels = {SCHEDULE: " 0  3 * * mon ", SCHEDULE_TIME_ZONE: "Europe/Berlin", SCHEDULE_OVERLAP: "queue", SCHEDULE_HISTORY: "3"}
    assert timetable_of(labels) == Timetable("0 3 * * mon", "Europe/Berlin", "queue", 3)
    assert timetable_of({SCHEDULE: "@Daily"}) == Timetable("0 0 * * *")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({SCHEDULE: ""}, "is not a cron expression: five fields are expected"),
        ({SCHEDULE: "* * * *"}, "five fields are expected"),
        ({SCHEDULE: "0 * * * * *"}, "five fields are expected"),
        ({SCHEDULE: "@reboot"}, "five fields are expected"),
        ({SCHEDULE: "61 * * * *"}, 'label pyswarm.schedule: "61 * * * *" is not a cron expression: bad minute'),
        ({SCHEDULE: "0 0 31 2 *"}, "bad day-of-month"),
        ({SCHEDULE: "0 0 LW * */7"}, "is never due: no such date exists"),
        ({SCHEDULE: "* * * * *", SCHEDULE_TIME_ZONE: "Mars/Olympus"}, 'there is no time zone "Mars/Olympus"'),
        ({SCHEDULE: "* * * * *", SCHEDULE_TIME_ZONE: "Europe"}, 'there is no time zone "Europe"'),
        ({SCHEDULE: "* * * * *", SCHEDULE_TIME_ZONE: "localtime"}, 'there is no time zone "localtime"'),
        ({SCHEDULE: "* * * * *", SCHEDULE_TIME_ZONE: "/etc/localtime"}, "there is no time zone"),
        ({SCHEDULE: "* * * * *", SCHEDULE_TIME_ZONE: "../Europe/Berlin"}, "there is no time zone"),
        ({SCHEDULE: "* * * * *", SCHEDULE_OVERLAP: "always"}, 'is "always": it must be skip, queue or replace'),
        ({SCHEDULE: "* * * * *", SCHEDULE_HISTORY: "0"}, 'is "0": it must be a number from 1 to 100'),
        ({SCHEDULE: "* * * * *", SCHEDULE_HISTORY: "-1"}, "it must be a number from 1 to 100"),
        ({SCHEDULE: "* * * * *", SCHEDULE_HISTORY: "1" * 5000}, "it must be a number from 1 to 100"),
        ({SCHEDULE: "* * * * *", "pyswarm.schedule.timezon": "UTC"}, "label pyswarm.schedule.timezon is not known"),
    ],
)
def test_labels_that_make_no_sense_are_refused(labels: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        timetable_of(labels)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        # 29 March 2026: 2:00 becomes 3:00, at 1:00 UTC. A job for 2:30 runs as soon as that has passed.
        ("30 2 * * *", datetime(2026, 3, 28, 3, tzinfo=BERLIN), ["29 01:00", "30 00:30"]),
        ("*/30 * * * *", datetime(2026, 3, 29, 1, 15, tzinfo=BERLIN), ["29 00:30", "29 01:00", "29 01:30"]),
        # 25 October 2026: 3:00 becomes 2:00, at 1:00 UTC. A job for 2:30 runs once.
        ("30 2 * * *", datetime(2026, 10, 24, 3, tzinfo=BERLIN), ["25 00:30", "26 01:30"]),
        ("30 2 * * *", datetime(2026, 10, 25, 2, 15, tzinfo=BERLIN, fold=1), ["26 01:30", "27 01:30"]),
        ("*/30 * * * *", datetime(2026, 10, 25, 2, 15, tzinfo=BERLIN), ["25 00:30", "25 01:00", "25 01:30", "25 02:00"]),
    ],
)
def test_clocks_are_changed_for_summer_and_back(expression: str, start: datetime, expected: list[str]) -> None:
    assert due_times(expression, "Europe/Berlin", start, len(expected)) == expected


FIELDS = st.tuples(
    st.sampled_from(["*", "0", "30", "*/7", "5,50"]),
    st.sampled_from(["*", "2", "1-3", "*/5"]),
    st.sampled_from(["*", "1", "L", "29"]),
    st.sampled_from(["*", "3", "10"]),
    st.sampled_from(["*", "0", "MON#1"]),
)


@settings(max_examples=200, deadline=None)
@given(FIELDS, st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]), st.integers(0, 10**19))
def test_the_next_due_time_is_a_whole_minute_ahead_of_now(fields: tuple[str, ...], zone: str, now_ns: int) -> None:
    timetable = Timetable(" ".join(fields), zone)
    due_ns = timetable.next_due_ns(now_ns)
    if due_ns:
        assert due_ns > now_ns
        assert due_ns % (60 * SECOND_NS) == 0
        assert timetable.next_due_ns(due_ns) > due_ns
        assert timetable.next_due_ns((now_ns + due_ns) // 2) == due_ns


def test_a_clock_beyond_all_calendars_is_never_due() -> None:
    assert Timetable("* * * * *").next_due_ns(2**63 * 1000) == 0
