"""When ended containers are started again: Docker's rules as sentences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_agent.local_containers.restart_policy import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    STEADY_RUN_S,
    RestartPolicy,
    RestartProgress,
    after_run,
    parse_policy,
    wants_restart,
    wants_start_with_daemon,
)
from pyswarm_common.errors import InvalidArgument

policies = st.builds(
    RestartPolicy, name=st.sampled_from(["no", "always", "unless-stopped", "on-failure"]), maximum_retries=st.integers(0, 5)
)
exit_codes = st.integers(0, 255)


@given(policies, exit_codes, st.integers(0, 10))
def test_what_was_stopped_by_hand_stays_stopped(policy: RestartPolicy, exit_code: int, count: int) -> None:
    assert not wants_restart(policy, count=count, exit_code=exit_code, is_stopped_by_hand=True)


@given(policies, exit_codes, st.integers(0, 10))
def test_the_daemon_starts_what_would_be_restarted_and_always(policy: RestartPolicy, exit_code: int, count: int) -> None:
    for by_hand in (False, True):
        would = wants_restart(policy, count=count, exit_code=exit_code, is_stopped_by_hand=by_hand)
        starts = wants_start_with_daemon(policy, count=count, exit_code=exit_code, is_stopped_by_hand=by_hand)
        assert starts == (would or policy.name == "always")


@given(st.integers(1, 5), exit_codes)
def test_on_failure_ends_after_so_many_retries(maximum: int, exit_code: int) -> None:
    policy, progress, starts = RestartPolicy(name="on-failure", maximum_retries=maximum), RestartProgress(), 0
    while wants_restart(policy, count=progress.count, exit_code=exit_code, is_stopped_by_hand=False):
        progress, starts = after_run(progress, 0.0), starts + 1
    assert starts == (maximum if exit_code else 0)


@given(st.lists(st.floats(0, STEADY_RUN_S - 0.001), max_size=30))
def test_pauses_double_up_to_a_minute(runs_s: list[float]) -> None:
    progress = RestartProgress()
    for number, ran_s in enumerate(runs_s):
        progress = after_run(progress, ran_s)
        assert progress == RestartProgress(count=number + 1, pause_s=min(FIRST_PAUSE_S * 2**number, LONGEST_PAUSE_S))


def test_a_steady_run_begins_anew() -> None:
    assert after_run(RestartProgress(count=9, pause_s=25.6), STEADY_RUN_S) == RestartProgress(count=10, pause_s=FIRST_PAUSE_S)


@pytest.mark.parametrize(
    ("name", "retries", "words"),
    [
        ("sometimes", 0, "invalid restart policy 'sometimes'"),
        ("always", 3, "maximum retry count cannot be used with restart policy 'always'"),
        ("on-failure", -1, "maximum retry count cannot be negative"),
    ],
)
def test_policies_that_mean_nothing(name: str, retries: int, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_policy(name, retries)


def test_policies() -> None:
    assert parse_policy("", 0) == RestartPolicy(name="no")
    assert parse_policy("on-failure", 3) == RestartPolicy(name="on-failure", maximum_retries=3)
