"""How far a service is from what was asked of it, and when to give up. Pure: looks at what the API answered.

Only tasks of the service's present spec count. What had failed before the wait began is history. A slot whose tasks fail again and
again, or that ended for good (its restart policy wants no successor), ends the wait with its reason.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pyswarm_cli.service.task_rows import Names, natural_key, task_base_name, task_error

MAX_FAILURES = 3
_ENDED = ("complete", "shutdown", "failed", "rejected", "orphaned", "remove")
_FAILED = ("failed", "rejected")
_BAD_UPDATES = ("paused", "rollback_paused", "rollback_completed")
_UNFINISHED_UPDATES = ("updating", "rollback_started")


@dataclass(frozen=True)
class SlotProgress:
    """One slot: its newest task's state, where it is, what is wrong with it (`error`), and what failed since the wait began."""

    name: str
    state: str
    node: str
    error: str = ""
    failures: int = 0
    last_failure: str = ""


@dataclass(frozen=True)
class Progress:
    """The service as it is now; `failure` says why waiting on makes no sense, "" while it does.

    `is_update`: there were tasks of another form before, so `running` counts those of the new form.
    """

    service: str
    running: int
    desired: int
    slots: tuple[SlotProgress, ...]
    is_converged: bool
    failure: str = ""
    is_update: bool = False


class ConvergenceWatch:
    """Remembers, from one look to the next, which tasks have failed since the wait began."""

    def __init__(self, ended_before: Collection[str]) -> None:
        """`ended_before`: the ids of the tasks that had ended when the wait began."""
        self._ended_before = frozenset(ended_before)
        self._failures: dict[str, dict[str, str]] = {}

    def look(self, service: Mapping[str, Any], tasks: Collection[Mapping[str, Any]], nodes: Mapping[str, str]) -> Progress:
        """Return the progress, from a service, its up-to-date tasks, and the nodes' names by id."""
        name = service["Spec"]["Name"]
        names = Names({service["ID"]: name}, nodes)
        slots = _newest_by_slot(tasks, names)
        for task in tasks:
            if task["ID"] not in self._ended_before and task["Status"]["State"] in _FAILED:
                self._failures.setdefault(task_base_name(task, names), {})[task["ID"]] = task_error(task)
        wanted = {slot: task for slot, task in slots.items() if task["DesiredState"] in ("running", "ready", "accepted")}
        running = sum(task["Status"]["State"] == "running" for task in wanted.values())
        desired = _desired_count(service, wanted)
        failure = self._failure(service, slots) or _update_failure(service)
        return Progress(
            service=name,
            running=running,
            desired=desired,
            slots=tuple(self._slot(slot, task, nodes) for slot, task in slots.items() if slot in wanted or desired),
            is_converged=not failure and running == len(wanted) == desired and not _is_updating(service),
            failure=failure,
            is_update="PreviousSpec" in service and service["PreviousSpec"]["TaskTemplate"] != service["Spec"]["TaskTemplate"],
        )

    def _slot(self, slot: str, task: Mapping[str, Any], nodes: Mapping[str, str]) -> SlotProgress:
        node_id = task.get("NodeID", "")
        failures = list(self._failures.get(slot, {}).values())
        return SlotProgress(
            name=slot,
            state=task["Status"]["State"],
            node=nodes.get(node_id, node_id),
            error=task_error(task),
            failures=len(failures),
            last_failure=failures[-1] if failures else "",
        )

    def _failure(self, service: Mapping[str, Any], slots: Mapping[str, Mapping[str, Any]]) -> str:
        for slot, failures in sorted(self._failures.items(), key=lambda item: natural_key(item[0])):
            if len(failures) >= MAX_FAILURES:
                return f"task {slot} failed {len(failures)} times: {list(failures.values())[-1] or 'no reason given'}"
        for slot, task in slots.items():
            if task["ID"] not in self._ended_before and _ended_for_good(task):
                reason = task_error(task) or f"it ended as {task['Status']['State']}"
                return f"task {slot} is not restarted, as its restart policy says: {reason}"
        return ""


def ended_tasks(tasks: Collection[Mapping[str, Any]]) -> set[str]:
    """Return the ids of the tasks that have ended."""
    return {task["ID"] for task in tasks if task["Status"]["State"] in _ENDED}


def _newest_by_slot(tasks: Collection[Mapping[str, Any]], names: Names) -> dict[str, Mapping[str, Any]]:
    slots: dict[str, Mapping[str, Any]] = {}
    for task in sorted(tasks, key=lambda task: (task["DesiredState"] in ("running", "ready"), task["CreatedAt"], task["ID"])):
        if task["DesiredState"] != "remove":
            slots[task_base_name(task, names)] = task
    return {slot: slots[slot] for slot in sorted(slots, key=natural_key)}


def _ended_for_good(task: Mapping[str, Any]) -> bool:
    """A slot's newest task that ended by itself and was told to shut down has no successor."""
    return task["DesiredState"] == "shutdown" and task["Status"]["State"] in ("complete", "failed", "rejected")


def _desired_count(service: Mapping[str, Any], wanted: Mapping[str, object]) -> int:
    replicated = (service["Spec"].get("Mode") or {}).get("Replicated")
    if replicated is None:
        return len(wanted)
    replicas = replicated.get("Replicas")
    return 1 if replicas is None else int(replicas)


def _is_updating(service: Mapping[str, Any]) -> bool:
    return (service.get("UpdateStatus") or {}).get("State") in _UNFINISHED_UPDATES


def _update_failure(service: Mapping[str, Any]) -> str:
    status = service.get("UpdateStatus") or {}
    state = status.get("State", "")
    return f"the update is {state.replace('_', ' ')}: {status.get('Message', '')}" if state in _BAD_UPDATES else ""
