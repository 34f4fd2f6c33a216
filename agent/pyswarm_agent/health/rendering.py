"""Health as the Engine API shows it."""

from typing import Any

from pyswarm_agent.health.rules import Health
from pyswarm_agent.runtime.records import HealthcheckConfig
from pyswarm_common.clock import NANOSECONDS_PER_SECOND
from pyswarm_common.engine_api.responses import rfc3339

_WORDS = {"starting": " (health: starting)", "healthy": " (healthy)", "unhealthy": " (unhealthy)"}


def render_health(health: Health) -> dict[str, Any]:
    """Return `State.Health` of an inspected container."""
    return {
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": rfc3339(result.started_at_ns),
                "End": rfc3339(result.ended_at_ns),
                "ExitCode": result.exit_code,
                "Output": result.output,
            }
            for result in health.log
        ],
    }


def health_suffix(health: Health | None) -> str:
    """Return what stands behind `Up 3 minutes` in a list of containers; "" when the container is not checked."""
    return _WORDS[health.status] if health is not None else ""


def health_filter_value(health: Health | None) -> str:
    """Return what the filter `health` compares with."""
    return health.status if health is not None else "none"


def render_healthcheck(check: HealthcheckConfig) -> dict[str, Any] | None:
    """Return `Config.Healthcheck` of an inspected container; None when there is nothing to check."""
    if not check.test:
        return None
    return {
        "Test": list(check.test),
        "Interval": round(check.interval_s * NANOSECONDS_PER_SECOND),
        "Timeout": round(check.timeout_s * NANOSECONDS_PER_SECOND),
        "StartPeriod": round(check.start_period_s * NANOSECONDS_PER_SECOND),
        "StartInterval": round(check.start_interval_s * NANOSECONDS_PER_SECOND),
        "Retries": check.retries,
    }
