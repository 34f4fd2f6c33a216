"""What creating or updating a service means for its executions as a job. Pure.

As in Swarm, a job runs when it is created and again with every update of it. One with a schedule runs when that says so: an update
only changes what its next runs will be, unless it is a forced one (`service update --force`), which runs the job now.
"""

from typing import Any

import msgspec

from pyswarm_common.objects import Service
from pyswarm_common.service_labels import SCHEDULE, SCHEDULE_TIME_ZONE
from pyswarm_common.specs import ServiceSpec


def with_first_execution(service: Service, now_ns: int) -> Service:
    """Return a new service with its first execution begun, if it is a job without a schedule."""
    if not service.spec.is_job or _is_scheduled(service.spec):
        return service
    return msgspec.structs.replace(service, job_started_at_ns=now_ns)


def with_next_execution(before: Service, after: Service, now_ns: int, *, is_forced: bool) -> Service:
    """Return the updated service with its next execution begun, if that is due to the update, and with its schedule up to date."""
    if not after.spec.is_job:
        return after
    changes: dict[str, Any] = {}
    if is_forced or not _is_scheduled(after.spec):
        iteration = before.job_iteration + 1 if before.job_started_at_ns else before.job_iteration
        changes = {"job_iteration": iteration, "job_started_at_ns": now_ns}
    if after.schedule is not None and _timetable_labels(before.spec) != _timetable_labels(after.spec):
        changes["schedule"] = msgspec.structs.replace(after.schedule, next_due_ns=0)
    return msgspec.structs.replace(after, **changes)


def _is_scheduled(spec: ServiceSpec) -> bool:
    return SCHEDULE in (spec.labels or {})


def _timetable_labels(spec: ServiceSpec) -> tuple[str, ...]:
    labels = spec.labels or {}
    return labels.get(SCHEDULE, ""), labels.get(SCHEDULE_TIME_ZONE, "")
