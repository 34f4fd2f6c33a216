"""For all tests: `--rewrite` for tables kept in text files, and the rule that a test run leaves nothing behind on the machine."""

import os
import time
from collections.abc import Iterator

import pytest
from machine_traces import RUN_VARIABLE, machine_traces, other_test_runs, run_processes

_PATIENCE_S = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--rewrite`: tests that compare with a table in a text file write it instead."""
    parser.addoption("--rewrite", action="store_true", help="write the expected tables anew from what the code does now")


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether expected tables are to be written anew."""
    return bool(request.config.getoption("--rewrite"))


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After all tests, find what they left: links, mounts, namespaces, cgroups, nft tables, processes, folders.

    A run beside other test runs on the same machine looks at its own processes only, for what else is new may be theirs.
    """
    mark = f"{os.getpid()}-{time.time_ns()}"
    os.environ[RUN_VARIABLE] = mark
    touches_kernel = any(item.get_closest_marker(name) for item in request.session.items for name in ("kernel", "cluster"))
    others = other_test_runs()
    before = machine_traces() if touches_kernel else set()
    yield
    is_alone = touches_kernel and not others and not other_test_runs()

    def left() -> set[str]:
        return run_processes(mark) | (machine_traces() - before if is_alone else set())

    deadline_s = time.monotonic() + _PATIENCE_S
    while left() and time.monotonic() < deadline_s:
        time.sleep(0.1)  # what was killed needs a moment to go
    if remaining := left():
        pytest.fail("the tests left behind:\n  " + "\n  ".join(sorted(remaining)), pytrace=False)
