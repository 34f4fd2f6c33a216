"""What a service's healthcheck must hold; the words are SwarmKit's (`manager/controlapi/service.go`). Pure."""

from pyswarm_common.container_spec import HealthConfig
from pyswarm_common.errors import InvalidArgument

MINIMUM_DURATION_NS = 1_000_000
_TESTS = ("NONE", "CMD", "CMD-SHELL")


def validate_healthcheck(check: HealthConfig | None) -> None:
    """Check a healthcheck; None is fine. Raises InvalidArgument."""
    if check is None:
        return
    durations = {
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
    }
    for name, duration_ns in durations.items():
        if duration_ns and duration_ns < MINIMUM_DURATION_NS:
            _refuse(f"ContainerSpec: {name} in HealthConfig cannot be less than 1ms")
    if check.retries < 0:
        _refuse("ContainerSpec: Retries in HealthConfig cannot be negative")
    if check.test:
        _validate_test(check.test)


def _validate_test(test: list[str]) -> None:
    """What Docker would silently not check is refused."""
    kind, *rest = test
    if kind not in _TESTS:
        _refuse(f"ContainerSpec: Unknown healthcheck type '{kind}' (expected one of {', '.join(_TESTS)}), before what is executed")
    if kind != "NONE" and not any(rest):
        _refuse(f"ContainerSpec: Test in HealthConfig has nothing to execute after '{kind}'")


def _refuse(message: str) -> None:
    raise InvalidArgument(message, grpc_code="InvalidArgument")
