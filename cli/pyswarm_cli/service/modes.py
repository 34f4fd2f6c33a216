"""What a service's mode means for what is shown of it. Pure: looks at the API's JSON."""

from collections.abc import Mapping
from typing import Any

from pyswarm_common.service_labels import SCHEDULE

_MODES = {"Replicated": "replicated", "Global": "global", "ReplicatedJob": "replicated job", "GlobalJob": "global job"}


def service_mode(spec: Mapping[str, Any]) -> str:
    """Return the word for a service's mode."""
    return next((word for key, word in _MODES.items() if key in (spec.get("Mode") or {})), "replicated")


def is_job(spec: Mapping[str, Any]) -> bool:
    """Whether its tasks are to complete."""
    return service_mode(spec).endswith("job")


def is_global(spec: Mapping[str, Any]) -> bool:
    """Whether it has one task on each node."""
    return service_mode(spec).startswith("global")


def is_scheduled(spec: Mapping[str, Any]) -> bool:
    """Whether it runs when its schedule says so."""
    return SCHEDULE in (spec.get("Labels") or {})


def job_iteration(holder: Mapping[str, Any]) -> int:
    """Return the iteration that a job's task, or a service's `JobStatus`, says; 0 when it says none."""
    return int((holder.get("JobIteration") or {}).get("Index", 0))


def total_completions(spec: Mapping[str, Any]) -> int | None:
    """Return how many tasks of a replicated job are to complete; None for other modes."""
    mode = spec.get("Mode") or {}
    if "ReplicatedJob" not in mode:
        return None
    job = mode["ReplicatedJob"] or {}
    wanted = job.get("TotalCompletions")
    at_once = job.get("MaxConcurrent")
    return int(wanted if wanted is not None else 1 if at_once is None else at_once)
