"""The amounts that a scenario's FILE holds as text, as types that msgspec converts to. Pure."""

from typing import Any

from pyswarm_common.amounts import parse_bytes, parse_duration_ns, parse_nano_cpus


class Duration(int):
    """Nanoseconds; written `1m30s`."""


class Size(int):
    """Bytes; written `512m` or `2g`."""


class CPUs(int):
    """Billionths of a CPU; written `0.5` or `4`."""


class Span:
    """From one number of nanoseconds to another; written `2s` or `1s..3s`."""

    __slots__ = ("least_ns", "most_ns")

    def __init__(self, least_ns: int, most_ns: int) -> None:
        self.least_ns = least_ns
        self.most_ns = most_ns


class Chance(float):
    """A probability from 0 to 1."""


def read_amount(type_: type, value: Any) -> Any:
    """Return a value of the FILE as one of the types above (a `dec_hook` of msgspec). Raises ValueError, NotImplementedError."""
    if type_ is Chance:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise ValueError(f"{value!r} is not a probability from 0 to 1")
        return Chance(value)
    if type_ is CPUs:
        return CPUs(parse_nano_cpus(str(value)))
    if not isinstance(value, str) and value != 0:
        raise ValueError(f"{value!r} must be a text such as {_EXAMPLES[type_]}")
    if type_ is Size:
        return Size(parse_bytes(str(value)))
    if type_ is Duration:
        return Duration(parse_duration_ns(str(value)))
    if type_ is Span:
        return _read_span(str(value))
    raise NotImplementedError(type_)


_EXAMPLES: dict[type, str] = {Size: '"512m" or "2g"', Duration: '"10s" or "1m30s"', Span: '"2s" or "1s..3s"'}


def _read_span(text: str) -> Span:
    least, dots, most = text.partition("..")
    span = Span(parse_duration_ns(least), parse_duration_ns(most if dots else least))
    if span.least_ns > span.most_ns:
        raise ValueError(f"{text!r} begins after its end")
    return span
