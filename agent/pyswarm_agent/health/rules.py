"""What the results of probes mean, and when the next one is due. Pure; the rules are Docker's (Moby `daemon/health.go`).

A container begins as `starting`. One success makes it `healthy`; as many failures in a row as `retries` says make it `unhealthy`,
whatever it was. While it has never been healthy, failures of probes that began within the start period do not count.
"""

from typing import Literal, TypeAlias

import msgspec

from pyswarm_agent.runtime.records import HealthcheckConfig
from pyswarm_common.objects import Record

LOG_LENGTH = 5
"""So many results are kept."""
_REASON_LENGTH = 200

HealthStatus: TypeAlias = Literal["starting", "healthy", "unhealthy"]


class ProbeResult(Record, frozen=True, kw_only=True):
    """How one probe ended: -1 as exit code when it could not be run, or took too long."""

    started_at_ns: int
    ended_at_ns: int
    exit_code: int
    output: str = ""


class Health(Record, frozen=True, kw_only=True):
    """What is known of a container's health; `log` has its latest results, the newest last."""

    status: HealthStatus = "starting"
    failing_streak: int = 0
    log: tuple[ProbeResult, ...] = ()


def is_checked(check: HealthcheckConfig) -> bool:
    """Whether there is anything to probe."""
    return bool(check.test) and check.test[0] in ("CMD", "CMD-SHELL")


def pause_s(health: Health, check: HealthcheckConfig, age_s: float) -> float:
    """Return how long to wait before the next probe of a container that started `age_s` ago."""
    is_starting = health.status == "starting" and age_s < check.start_period_s
    return check.start_interval_s if is_starting else check.interval_s


def with_result(health: Health, check: HealthcheckConfig, result: ProbeResult, age_s: float) -> Health:
    """Return the health after a probe that began `age_s` after the container's start."""
    log = (*health.log, result)[-LOG_LENGTH:]
    if result.exit_code == 0:
        return Health(status="healthy", log=log)
    if health.status == "starting" and age_s < check.start_period_s:
        return msgspec.structs.replace(health, log=log)
    streak = health.failing_streak + 1
    status: HealthStatus = "unhealthy" if streak >= check.retries else health.status
    return Health(status=status, failing_streak=streak, log=log)


def describe_failure(health: Health) -> str:
    """Return why a container is unhealthy, beginning with SwarmKit's words; of its output only what harms no terminal."""
    if not health.log:
        return "unhealthy container"
    last = health.log[-1]
    said = "".join(each if each.isprintable() else "\ufffd" for each in " ".join(last.output.split()))
    shortened = said if len(said) <= _REASON_LENGTH else said[:_REASON_LENGTH] + "…"
    code = f"exit code {last.exit_code}" if last.exit_code >= 0 else ""
    outcome = ": ".join(part for part in (code, shortened) if part)
    times = "once" if health.failing_streak == 1 else f"{health.failing_streak} times"
    return f"unhealthy container (its healthcheck failed {times}; the last time: {outcome or 'no answer'})"
