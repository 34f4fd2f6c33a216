"""Amounts are read and shown as docker does."""

import pytest

from pyswarm_cli import units


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("10s", 10_000_000_000),
        ("1m30s", 90_000_000_000),
        ("250ms", 250_000_000),
        ("1.5h", 5_400_000_000_000),
        ("0", 0),
        ("0s", 0),
        ("3us", 3_000),
    ],
)
def test_durations(text: str, duration_ns: int) -> None:
    assert units.parse_duration_ns(text) == duration_ns
    assert units.parse_duration_ns(units.format_duration_ns(duration_ns)) == duration_ns


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5x", "1m30"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as"):
        units.parse_duration_ns(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("64", 64), ("64m", 64 << 20), ("1.5g", 3 << 29), ("2GB", 2 << 30), ("8KiB", 8 << 10), ("5b", 5)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert units.parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "m", "-1m", "1x", "1mm"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size such as"):
        units.parse_bytes(text)


def test_cpus() -> None:
    assert units.parse_nano_cpus("0.5") == 500_000_000
    assert units.parse_nano_cpus("2") == 2_000_000_000
    for text in ("", "two", "-1", "nan", "inf"):
        with pytest.raises(ValueError, match="is not a number of CPUs"):
            units.parse_nano_cpus(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1.9, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (130, "2 minutes"),
        (3590, "59 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (47 * 3600, "47 hours"),
        (72 * 3600, "3 days"),
        (15 * 86400, "2 weeks"),
        (70 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert units.format_age(seconds) == text


def test_sizes_are_shown_as_docker_does() -> None:
    assert units.format_decimal_bytes(5_577_835) == "5.58MB"
    assert units.format_decimal_bytes(0) == "0B"
    assert units.format_decimal_bytes(141_000_000) == "141MB"
    assert units.format_binary_bytes(25_276_510_208) == "23.54GiB"


def test_times_with_nanoseconds() -> None:
    assert units.parse_time_s("2026-11-21T01:55:08.120053952Z") == pytest.approx(1795226108.120053)
    assert units.parse_time_s("2026-11-21T01:55:08Z") == 1795226108
