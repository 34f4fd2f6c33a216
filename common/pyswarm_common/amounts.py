"""Durations, sizes and CPUs as people write and read them. Pure.

Written as for docker: `1m30s`, `512m` (binary units), `0.5` CPUs. Shown as docker shows them.
"""

import math
import re

NANOSECONDS_PER_SECOND = 1_000_000_000
_DURATION_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": NANOSECONDS_PER_SECOND,
    "m": 60 * NANOSECONDS_PER_SECOND,
    "h": 3600 * NANOSECONDS_PER_SECOND,
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_SIZE_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def parse_duration_ns(text: str) -> int:
    """Return a duration such as `1m30s` or `250ms` in nanoseconds. Raises ValueError."""
    if text == "0":
        return 0
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 10s, 1m30s or 250ms")
    return sum(round(float(number) * _DURATION_UNITS_NS[unit]) for number, unit in parts)


def parse_bytes(text: str) -> int:
    """Return a size such as `512m` or `1.5g` in bytes, with powers of 1024. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 64m, 512m or 2g")
    return int(float(match[1]) * 1024 ** _SIZE_POWERS[match[2].lower()])


def parse_nano_cpus(text: str) -> int:
    """Return a number of CPUs such as `0.5` in units of 1e-9. Raises ValueError."""
    try:
        cpus = float(text)
    except ValueError:
        cpus = math.nan
    if not 0 <= cpus < 1e6:
        raise ValueError(f"{text!r} is not a number of CPUs such as 0.5 or 2")
    return round(cpus * NANOSECONDS_PER_SECOND)


def format_decimal_bytes(size_bytes: float) -> str:
    """Return a size as image lists show it: `5.58MB` (powers of 1000, three digits)."""
    return _format_size(size_bytes, 1000, _DECIMAL_UNITS, 3)


def format_binary_bytes(size_bytes: float) -> str:
    """Return a size as memory is shown: `23.54GiB` (powers of 1024, four digits)."""
    return _format_size(size_bytes, 1024, _BINARY_UNITS, 4)


def _format_size(size: float, base: int, units: tuple[str, ...], digits: int) -> str:
    power = 0
    while size >= base and power < len(units) - 1:
        size /= base
        power += 1
    return f"{size:.{digits}g}{units[power]}"


def format_duration_ns(duration_ns: int) -> str:
    """Return a duration in the largest units that say it exactly: `1m30s`, `250ms`."""
    if duration_ns == 0:
        return "0s"
    text, rest = "", duration_ns
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, rest = divmod(rest, _DURATION_UNITS_NS[unit])
        text += f"{count}{unit}" if count else ""
    return text
