"""Fixtures of the CLI's tests: the API's own (a real application over a store in memory), and the command line against it."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator

import pytest
import structlog
from api_fixtures import api_socket, control, root_pem, store
from click.testing import CliRunner, Result

__all__ = ["Run", "api_socket", "control", "logs_of_the_api", "pyswarm", "root_pem", "store"]

Run = Callable[..., Awaitable[Result]]


@pytest.fixture(autouse=True)
def logs_of_the_api() -> Iterator[None]:
    """Keep them out of what the command line prints: `CliRunner` puts files of its own in place of stdout and stderr."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stdout))
    yield
    structlog.reset_defaults()


@pytest.fixture
def pyswarm(api_socket: str) -> Run:
    """Run a command line against the API; `input` is its standard input."""

    async def run(*arguments: str, input: bytes | None = None) -> Result:  # noqa: A002
        from pyswarm_cli.main import pyswarm as command

        line = ["-H", f"unix://{api_socket}", *arguments]
        return await asyncio.to_thread(CliRunner().invoke, command, line, input, catch_exceptions=False)

    return run
