"""For all tests: `--rewrite` for tables kept in text files, and the rule that a test run leaves nothing behind on the machine."""

import os
import time
from collections.abc import Callable, Iterator

import pytest
from machine_traces import RUN_VARIABLE, machine_traces, other_test_runs, run_processes

_PATIENCE_S = 10.0
_BEFORE = pytest.StashKey[set[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--rewrite`: tests that compare with a table in a text file write it instead."""
    parser.addoption("--rewrite", action="store_true", help="write the expected tables anew from what the code does now")


def pytest_sessionstart(session: pytest.Session) -> None:
    """When other processes run the tests (`-n 2`): look at the machine before they begin."""
    if is_run_by_workers(session.config):
        session.config.stash[_BEFORE] = machine_traces()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """And again after they have ended; each of them looks at its own processes only."""
    if not is_run_by_workers(session.config) or other_test_runs():
        return
    if remaining := left_behind(lambda: machine_traces() - session.config.stash[_BEFORE]):
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_line("the tests left behind:\n  " + "\n  ".join(sorted(remaining)), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def is_run_by_workers(config: pytest.Config) -> bool:
    """Whether this process only hands the tests out."""
    return bool(getattr(config.option, "numprocesses", None)) and not is_worker()


def is_worker() -> bool:
    """Whether tests are handed to this process by another."""
    return "PYTEST_XDIST_WORKER" in os.environ


def left_behind(left: Callable[[], set[str]]) -> set[str]:
    """Return what is still there after a moment, which processes that were killed need to go."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while (remaining := left()) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return remaining


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
    others = is_worker() or other_test_runs()
    before = machine_traces() if touches_kernel else set()
    yield
    is_alone = touches_kernel and not others and not other_test_runs()
    remaining = left_behind(lambda: run_processes(mark) | (machine_traces() - before if is_alone else set()))
    if remaining:
        pytest.fail("the tests left behind:\n  " + "\n  ".join(sorted(remaining)), pytrace=False)
