"""Amounts as people write and read them: those of `pyswarm_common.amounts`, ages, and times. Pure."""

import re
from datetime import datetime

from pyswarm_common.amounts import (
    format_binary_bytes,
    format_decimal_bytes,
    format_duration_ns,
    parse_bytes,
    parse_duration_ns,
    parse_nano_cpus,
)

__all__ = [
    "format_age",
    "format_binary_bytes",
    "format_decimal_bytes",
    "format_duration_ns",
    "parse_bytes",
    "parse_duration_ns",
    "parse_nano_cpus",
    "parse_time_s",
]


def format_age(seconds: float) -> str:
    """Return a rough duration as docker words it: `5 seconds`, `About a minute`, `3 weeks`."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if int(seconds) == 1 else f"{int(seconds)} seconds"
    minutes, hours = int(seconds / 60), round(seconds / 3600)
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    for limit, size, unit in (
        (48, 1, "hours"),
        (24 * 14, 24, "days"),
        (24 * 60, 24 * 7, "weeks"),
        (24 * 365 * 2, 24 * 30, "months"),
    ):
        if hours < limit:
            return f"{hours // size} {unit}"
    return f"{hours // (24 * 365)} years"


def parse_time_s(text: str) -> float:
    """Return an RFC 3339 time, with up to nanoseconds, in seconds since the epoch. Raises ValueError."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()
