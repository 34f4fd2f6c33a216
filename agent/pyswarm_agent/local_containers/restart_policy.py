"""When a container that has ended is started again, and after which pause; pure.

Docker's rules (Moby `restartmanager/restartmanager.go`): 100 ms, doubled each time up to a minute, anew after a run of 10 s. One
difference: a container with `on-failure` that was stopped by hand stays stopped when the daemon starts, as with `unless-stopped`.
"""

from typing import Literal, TypeAlias

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.objects import Record

FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_RUN_S = 0.1, 60.0, 10.0

PolicyName: TypeAlias = Literal["no", "always", "unless-stopped", "on-failure"]


class RestartPolicy(Record, frozen=True, kw_only=True):
    """`maximum_retries` of `on-failure`; 0 is without limit."""

    name: PolicyName = "no"
    maximum_retries: int = 0


class RestartProgress(Record, frozen=True, kw_only=True):
    """How often a container was started again since it was started by hand, and the pause before the last time."""

    count: int = 0
    pause_s: float = 0.0


def parse_policy(name: str, maximum_retries: int) -> RestartPolicy:
    """Return the policy of an Engine API body. Raises InvalidArgument."""
    match name:
        case "" | "no":
            known: PolicyName = "no"
        case "always" | "unless-stopped" | "on-failure":
            known = name
        case _:
            raise InvalidArgument(f"invalid restart policy '{name}'")
    if known != "on-failure" and maximum_retries:
        raise InvalidArgument(f"maximum retry count cannot be used with restart policy '{name or 'no'}'")
    if maximum_retries < 0:
        raise InvalidArgument("maximum retry count cannot be negative")
    return RestartPolicy(name=known, maximum_retries=maximum_retries)


def wants_restart(policy: RestartPolicy, *, count: int, exit_code: int, is_stopped_by_hand: bool) -> bool:
    """Whether a container that has ended while the daemon ran is started again."""
    if is_stopped_by_hand:
        return False
    match policy.name:
        case "always" | "unless-stopped":
            return True
        case "on-failure":
            return exit_code != 0 and (policy.maximum_retries == 0 or count < policy.maximum_retries)
        case "no":
            return False


def wants_start_with_daemon(policy: RestartPolicy, *, count: int, exit_code: int, is_stopped_by_hand: bool) -> bool:
    """Whether a container that does not run is started when the daemon starts."""
    if policy.name == "always":
        return True
    return wants_restart(policy, count=count, exit_code=exit_code, is_stopped_by_hand=is_stopped_by_hand)


def after_run(progress: RestartProgress, ran_s: float) -> RestartProgress:
    """Return the progress with one more start, whose pause follows from how long the container ran."""
    before_s = 0.0 if ran_s >= STEADY_RUN_S else progress.pause_s
    pause_s = min(2 * before_s, LONGEST_PAUSE_S) if before_s else FIRST_PAUSE_S
    return RestartProgress(count=progress.count + 1, pause_s=pause_s)
