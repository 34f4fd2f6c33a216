"""A pytest plugin for machines that are emulated: what tests wait for may take longer there, by the factor `slowness`.

Only the tests' own limits grow (`asyncio.timeout` and `asyncio.wait_for`, called from the tests' files); those of the product stay.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = str(Path(__file__).resolve().parents[1])


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting `slowness`."""
    parser.addini("slowness", "how many times longer than elsewhere a test may wait", default="1")


def pytest_configure(config: pytest.Config) -> None:
    """Let the limits in the tests' files grow."""
    let_limits_grow(float(config.getini("slowness")))


def let_limits_grow(factor: float) -> None:
    """Multiply what is given to `asyncio.timeout` and `asyncio.wait_for` in the tests' files."""
    timeout, wait_for = asyncio.timeout, asyncio.wait_for

    def grown(delay_s: float | None) -> float | None:
        is_test = sys._getframe(2).f_code.co_filename.startswith(TESTS)
        return delay_s * factor if is_test and delay_s is not None else delay_s

    def longer_timeout(delay: float | None) -> asyncio.Timeout:
        return timeout(grown(delay))

    def longer_wait_for(awaitable: Any, timeout: float | None) -> Any:
        return wait_for(awaitable, grown(timeout))

    asyncio.timeout = longer_timeout
    asyncio.wait_for = longer_wait_for  # type: ignore[assignment]
