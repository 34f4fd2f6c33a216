"""How a service's update, or rollback, goes on: what failures lead to, whose turn it is to be renewed, when it is complete. Pure.

    (none) ─ outdated units ─▶ updating ─ all renewed, then `monitor` over ─▶ completed
                                  │ too many failures, by the failure action
                                  ├─ pause ─▶ paused           (goes on by a new `service update`, which sets the status back)
                                  ├─ continue ─▶ updating
                                  └─ rollback ─▶ rollback_started ─ as above, by RollbackConfig ─▶ rollback_completed
                                                     └─ too many failures, unless `continue` ─▶ rollback_paused

Words, and rules where nothing else is said, are SwarmKit's (`manager/orchestrator/update/updater.go`). Like its workers,
`parallelism` renewals are under way at most; each ends when the new task runs or has failed, and `delay` later the next one begins.
`monitor` holds nothing up but completion. A rollback swaps the spec and the previous spec, so that what failed can be looked at.

Nothing here waits for a moment that may never come: a time in the future means that the clock was set back, or belongs to another
manager; a delay counts as over then, and the last monitoring begins anew.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic

import msgspec

from pyswarm_common.objects import Service, Task, UpdateStatus
from pyswarm_common.specs import DEFAULT_MONITOR_NS, UpdateConfig
from pyswarm_manager.orchestrator import restart
from pyswarm_manager.orchestrator.causes import CAUSES_OF_NEW_UNITS
from pyswarm_manager.orchestrator.update.freshness import is_outdated
from pyswarm_manager.orchestrator.update.outcome import begun_at_ns, failure_of
from pyswarm_manager.orchestrator.update.units import KeyT, Unit
from pyswarm_manager.store.tables import View

UPDATING, PAUSED, COMPLETED = "updating", "paused", "completed"
ROLLBACK_STARTED, ROLLBACK_PAUSED, ROLLBACK_COMPLETED = "rollback_started", "rollback_paused", "rollback_completed"

_ACTIVE = (UPDATING, ROLLBACK_STARTED)
_NO_STATUS = UpdateStatus()
_DEFAULT_CONFIG = UpdateConfig(parallelism=1)


@dataclass(frozen=True)
class Step(Generic[KeyT]):
    """What an update does now. `service` is the same object when nothing changed of it."""

    service: Service
    renewals: tuple[Unit[KeyT], ...] = ()
    """The units whose turn it is, in this order."""
    wake_at_ns: int | None = None
    """When to look again without any event."""


def config_in_force(service: Service) -> UpdateConfig:
    """Return the rules that the service is updated by now: while it rolls back its RollbackConfig, otherwise its UpdateConfig."""
    is_rollback = _status(service).state in (ROLLBACK_STARTED, ROLLBACK_PAUSED)
    return (service.spec.rollback_config if is_rollback else service.spec.update_config) or _DEFAULT_CONFIG


def monitor_ns(service: Service) -> int:
    """Return for how long a renewed task is watched, in nanoseconds."""
    monitor = config_in_force(service).monitor
    return DEFAULT_MONITOR_NS if monitor is None else monitor


def is_start_first(service: Service) -> bool:
    """Whether the new task of a unit runs before the old one is told to stop."""
    return config_in_force(service).order == "start-first"


def is_updating(service: Service) -> bool:
    """Whether an update or rollback is under way, and not paused."""
    return _status(service).state in _ACTIVE


def judged(view: View, service: Service, units: Collection[Unit[KeyT]]) -> Service:
    """Return the service as the failures of its update leave it: the same, paused, or rolled back."""
    status, config = _status(service), config_in_force(service)
    if status.state not in _ACTIVE or not status.unit_count or config.failure_action == "continue":
        return service
    limit_ns = monitor_ns(service)
    failures = [failure for unit in units if (failure := failure_of(service, unit, limit_ns)) is not None]
    if len(failures) / status.unit_count <= config.max_failure_ratio:
        return service
    task = max(failures, key=lambda t: (t.status.at_ns, t.id))
    after = _after_failure(view, service, config, task)
    if not is_updating(after):
        return after
    # Counted before any of them is restarted: the rollback is over when all of them run again and were watched.
    count = sum(needs_renewal(view, after, unit) for unit in units)
    return _with_status(after, msgspec.structs.replace(_status(after), unit_count=count))


def next_step(view: View, service: Service, units: Collection[Unit[KeyT]], now_ns: int) -> Step[KeyT]:
    """Return what the service's update does now; nothing when there is none, or it is paused."""
    if _status(service).state in (PAUSED, ROLLBACK_PAUSED):
        return Step(service)
    left = [unit for unit in units if needs_renewal(view, service, unit)]
    counted = _counted(service, len(left), now_ns)
    if counted is not service and (after := judged(view, counted, units)) is not counted:
        return next_step(view, after, units, now_ns)
    service = counted
    if not is_updating(service):
        return Step(service)
    busy, free_at_ns = _busy(view, service, units, now_ns)
    if left:
        config = config_in_force(service)
        free = len(left) if not config.parallelism else max(0, config.parallelism - busy)
        left.sort(key=lambda unit: (unit.is_running, unit.key))
        service = _with_status(service, msgspec.structs.replace(_status(service), renewed_at_ns=0))
        return Step(service, tuple(left[:free]), free_at_ns if free < len(left) else None)
    return _completing(service, now_ns, is_all_renewed=not _waiting(view, service, units))


def needs_renewal(view: View, service: Service, unit: Unit[KeyT]) -> bool:
    """Whether the unit is outdated and was not tried yet in this generation: each one is renewed once."""
    if not is_outdated(view, service, unit.newest):
        return False
    return not any(task.spec_generation == service.spec_generation for task in unit.tasks)


def _counted(service: Service, count: int, now_ns: int) -> Service:
    """The service with its update begun when it has any units to renew, or complete at once when it has none."""
    status = _status(service)
    if status.state in _ACTIVE and status.unit_count:
        return service
    if count and status.state in _ACTIVE:
        return _with_status(service, msgspec.structs.replace(status, unit_count=count))
    if count:
        begun = UpdateStatus(state=UPDATING, message="update in progress", started_at_ns=now_ns, unit_count=count)
        return _with_status(service, begun)
    return _completed(service, now_ns) if status.state in _ACTIVE else service


def _busy(view: View, service: Service, units: Iterable[Unit[KeyT]], now_ns: int) -> tuple[int, int | None]:
    """How many renewals are under way or in their delay, and when the first delay is over."""
    delay_ns = config_in_force(service).delay
    count, free_at_ns = 0, None
    for unit in units:
        if not _is_taken_up(view, service, unit):
            continue
        begun_ns = begun_at_ns(service, unit)
        if begun_ns is None:
            count += 1
        elif begun_ns <= now_ns + restart.CLOCK_TOLERANCE_NS and begun_ns + delay_ns > now_ns:
            count += 1
            free_at_ns = min(begun_ns + delay_ns, free_at_ns or begun_ns + delay_ns)
    return count, free_at_ns


def _waiting(view: View, service: Service, units: Iterable[Unit[KeyT]]) -> bool:
    """Whether a renewed unit has neither begun to run nor failed yet."""
    return any(_is_taken_up(view, service, unit) and begun_at_ns(service, unit) is None for unit in units)


def _is_taken_up(view: View, service: Service, unit: Unit[KeyT]) -> bool:
    """Whether the unit has a task of the present task spec in place of another one: an update does not wait for new units."""
    return unit.newest.cause not in CAUSES_OF_NEW_UNITS and not is_outdated(view, service, unit.newest)


def _completing(service: Service, now_ns: int, *, is_all_renewed: bool) -> Step[KeyT]:
    status = _status(service)
    renewed_at_ns = status.renewed_at_ns
    if not renewed_at_ns and not is_all_renewed:
        return Step(service)
    if not renewed_at_ns or renewed_at_ns > now_ns + restart.CLOCK_TOLERANCE_NS:
        renewed_at_ns = now_ns
    end_ns = renewed_at_ns + monitor_ns(service)
    if end_ns <= now_ns:
        return Step(_completed(service, now_ns))
    return Step(_with_status(service, msgspec.structs.replace(status, renewed_at_ns=renewed_at_ns)), wake_at_ns=end_ns)


def _completed(service: Service, now_ns: int) -> Service:
    status = _status(service)
    is_rollback = status.state == ROLLBACK_STARTED
    state, message = (ROLLBACK_COMPLETED, "rollback completed") if is_rollback else (COMPLETED, "update completed")
    ended = UpdateStatus(state=state, message=message, started_at_ns=status.started_at_ns, completed_at_ns=now_ns)
    return _with_status(service, ended)


def _after_failure(view: View, service: Service, config: UpdateConfig, task: Task) -> Service:
    status = _status(service)
    is_rollback = status.state == ROLLBACK_STARTED
    because = f"due to failure or early termination of task {task.id}"
    can_roll_back = service.previous_spec_json is not None and service.previous_task_spec_id in view.task_specs
    if config.failure_action != "rollback" or is_rollback or not can_roll_back:
        noun = "rollback" if is_rollback and config.failure_action == "rollback" else "update"
        state = ROLLBACK_PAUSED if is_rollback else PAUSED
        paused = UpdateStatus(state=state, message=f"{noun} paused {because}", started_at_ns=status.started_at_ns)
        return _with_status(service, paused)
    begun = UpdateStatus(state=ROLLBACK_STARTED, message=f"update rolled back {because}", started_at_ns=status.started_at_ns)
    return rolled_back(service, begun)


def rolled_back(service: Service, status: UpdateStatus | None) -> Service:
    """Return the service with its spec and its previous spec swapped, which it must have; a generation of its own."""
    return msgspec.structs.replace(
        service,
        spec_json=service.previous_spec_json,
        task_spec_id=service.previous_task_spec_id,
        previous_spec_json=service.spec_json,
        previous_task_spec_id=service.task_spec_id,
        spec_generation=service.spec_generation + 1,
        update_status=status,
    )


def _status(service: Service) -> UpdateStatus:
    return service.update_status or _NO_STATUS


def _with_status(service: Service, status: UpdateStatus) -> Service:
    return service if status == service.update_status else msgspec.structs.replace(service, update_status=status)
