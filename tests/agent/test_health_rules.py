"""Health: when a container is probed, what the results mean, and whose healthcheck it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_agent.health.merging import merge_healthcheck
from pyswarm_agent.health.probing import command_of
from pyswarm_agent.health.rendering import health_suffix, render_health, render_healthcheck
from pyswarm_agent.health.rules import LOG_LENGTH, Health, ProbeResult, describe_failure, is_checked, pause_s, with_result
from pyswarm_agent.images import Image
from pyswarm_agent.images.records import ImageConfig
from pyswarm_agent.runtime.records import HealthcheckConfig
from pyswarm_common.container_spec import HealthConfig
from pyswarm_common.specs import SECOND_NS

CHECK = HealthcheckConfig(test=("CMD", "/check"), interval_s=10, start_period_s=60, start_interval_s=2, retries=3)


def after(*results: tuple[float, int], check: HealthcheckConfig = CHECK) -> Health:
    """Return the health after probes, each with the container's age at its beginning and its exit code."""
    health = Health()
    for age_s, exit_code in results:
        health = with_result(health, check, ProbeResult(started_at_ns=0, ended_at_ns=0, exit_code=exit_code), age_s)
    return health


@pytest.mark.parametrize(
    ("results", "status", "streak"),
    [
        ([], "starting", 0),
        ([(70, 0)], "healthy", 0),
        ([(70, 1), (80, 1)], "starting", 2),
        ([(70, 1), (80, 1), (90, 1)], "unhealthy", 3),
        ([(70, 1), (80, -1), (90, 137)], "unhealthy", 3),
        ([(2, 1), (4, 1), (6, 1), (8, 1), (59.9, 1)], "starting", 0),  # the start period forgives
        ([(2, 1), (60, 1)], "starting", 1),
        ([(2, 0), (12, 1), (22, 1), (32, 1)], "unhealthy", 3),  # a success ends it
        ([(70, 0), (80, 1), (90, 1), (100, 0), (110, 1)], "healthy", 1),
        ([(70, 1), (80, 1), (90, 1), (100, 0)], "healthy", 0),
    ],
)
def test_the_status_follows_from_the_results(results: list[tuple[float, int]], status: str, streak: int) -> None:
    health = after(*results)
    assert (health.status, health.failing_streak) == (status, streak)


@pytest.mark.parametrize(
    ("results", "age_s", "expected_s"),
    [
        ([], 0, 2),
        ([(2, 1)], 59, 2),
        ([(2, 1)], 60, 10),
        ([(2, 0)], 5, 10),  # healthy before the start period is over
    ],
)
def test_probes_come_faster_while_the_container_starts(results: list[tuple[float, int]], age_s: float, expected_s: float) -> None:
    assert pause_s(after(*results), CHECK, age_s) == expected_s


@given(st.lists(st.tuples(st.floats(0, 200), st.sampled_from([0, 1, -1])), max_size=30), st.integers(1, 5))
def test_it_is_unhealthy_only_after_so_many_failures_in_a_row(results: list[tuple[float, int]], retries: int) -> None:
    check = HealthcheckConfig(test=("CMD", "/check"), start_period_s=60, retries=retries)
    health = after(*results, check=check)
    assert len(health.log) == min(len(results), LOG_LENGTH)
    assert [result.exit_code for result in health.log] == [code for _, code in results[-LOG_LENGTH:]]
    last = [code for _, code in results[-retries:]]
    if health.status == "unhealthy":
        assert 0 not in last
        assert len(last) == retries
    if last and last[-1] == 0:
        assert health.status == "healthy"
    if not any(code == 0 for _, code in results) and all(age_s < 60 for age_s, _ in results):
        assert (health.status, health.failing_streak) == ("starting", 0)


@pytest.mark.parametrize(("test", "checked"), [((), False), (("NONE",), False), (("CMD", "a"), True), (("CMD-SHELL", "a"), True)])
def test_what_is_checked_at_all(test: tuple[str, ...], checked: bool) -> None:
    assert is_checked(HealthcheckConfig(test=test)) == checked


@pytest.mark.parametrize(
    ("check", "command"),
    [
        (HealthcheckConfig(test=("CMD", "pg_isready", "-q")), ("pg_isready", "-q")),
        (HealthcheckConfig(test=("CMD-SHELL", "a || exit 1")), ("/bin/sh", "-c", "a || exit 1")),
        (HealthcheckConfig(test=("CMD-SHELL", "a"), shell=("/bin/bash", "-c")), ("/bin/bash", "-c", "a")),
    ],
)
def test_what_is_executed(check: HealthcheckConfig, command: tuple[str, ...]) -> None:
    assert command_of(check) == command


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ((), "unhealthy container"),
        (
            [(1, "connection\n refused\n")],
            "unhealthy container (its healthcheck failed once; the last time: exit code 1: connection refused)",
        ),
        ([(1, ""), (7, "")], "unhealthy container (its healthcheck failed 2 times; the last time: exit code 7)"),
        (
            [(-1, "Health check exceeded timeout (30s)")],
            "unhealthy container (its healthcheck failed once; the last time: Health check exceeded timeout (30s))",
        ),
    ],
)
def test_the_reason_says_what_the_last_probe_said(log: list[tuple[int, str]], reason: str) -> None:
    results = tuple(ProbeResult(started_at_ns=0, ended_at_ns=0, exit_code=code, output=output) for code, output in log)
    assert describe_failure(Health(status="unhealthy", failing_streak=len(log), log=results)) == reason


def test_what_a_probe_wrote_cannot_reach_through_to_the_operators_terminal() -> None:
    said = ProbeResult(started_at_ns=0, ended_at_ns=0, exit_code=1, output="a\x1b]0;evil\x07\n b\u202e\x9b2Jü")
    reason = describe_failure(Health(status="unhealthy", failing_streak=1, log=(said,)))
    assert reason.endswith("exit code 1: a\ufffd]0;evil\ufffd b\ufffd\ufffd2Jü)")


def image(shell: tuple[str, ...] = (), **healthcheck: object) -> Image:
    return Image(id="sha256:1", config=ImageConfig(healthcheck=dict(healthcheck), shell=shell))


IMAGES = image(Test=["CMD", "/image"], Interval=5 * SECOND_NS, Retries=7)


@pytest.mark.parametrize(
    ("asked", "of_image", "merged"),
    [
        (None, image(), HealthcheckConfig()),
        (None, IMAGES, HealthcheckConfig(test=("CMD", "/image"), interval_s=5, retries=7)),
        (HealthConfig(test=["NONE"]), IMAGES, HealthcheckConfig(test=("NONE",), interval_s=5, retries=7)),
        (HealthConfig(timeout=SECOND_NS), IMAGES, HealthcheckConfig(test=("CMD", "/image"), interval_s=5, timeout_s=1, retries=7)),
        (HealthConfig(test=[], retries=2), IMAGES, HealthcheckConfig(test=("CMD", "/image"), interval_s=5, retries=2)),
        (
            HealthConfig(test=["CMD", "x"]),
            image(("/bin/bash", "-c")),
            HealthcheckConfig(test=("CMD", "x"), shell=("/bin/bash", "-c")),
        ),
        (None, image(Test="not a list"), HealthcheckConfig()),
    ],
)
def test_spec_and_image_are_merged_by_dockers_rules(asked: HealthConfig | None, of_image: Image, merged: HealthcheckConfig) -> None:
    assert merge_healthcheck(asked, of_image) == merged


def test_health_is_shown_as_docker_shows_it() -> None:
    result = ProbeResult(started_at_ns=SECOND_NS, ended_at_ns=2 * SECOND_NS, exit_code=1, output="no")
    health = Health(status="unhealthy", failing_streak=3, log=(result,))
    assert render_health(health) == {
        "Status": "unhealthy",
        "FailingStreak": 3,
        "Log": [{"Start": "1970-01-01T00:00:01Z", "End": "1970-01-01T00:00:02Z", "ExitCode": 1, "Output": "no"}],
    }
    assert [health_suffix(h) for h in (None, Health(), Health(status="healthy"))] == ["", " (health: starting)", " (healthy)"]
    assert render_healthcheck(HealthcheckConfig()) is None
    assert render_healthcheck(HealthcheckConfig(test=("CMD", "x"))) == {
        "Test": ["CMD", "x"],
        "Interval": 30 * SECOND_NS,
        "Timeout": 30 * SECOND_NS,
        "StartPeriod": 0,
        "StartInterval": 5 * SECOND_NS,
        "Retries": 3,
    }
