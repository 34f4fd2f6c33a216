"""How far a service is from what was asked of it, and when to give up. Pure: looks at what the API answered.

Only tasks of the service's present spec count, of a job those of its present run. What had failed before the wait began is history,
and so is the status of an update before. A slot whose tasks fail again and again, or that ended for good (its restart policy wants
no successor), ends the wait with its reason; so does an update that stands still or was rolled back.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pyswarm_cli.service.modes import is_global, is_job, is_scheduled, job_iteration, total_completions
from pyswarm_cli.service.task_rows import Names, natural_key, task_base_name, task_error

MAX_FAILURES = 3
_ENDED = ("complete", "shutdown", "failed", "rejected", "orphaned", "remove")
_FAILED = ("failed", "rejected")
_ASKED_FOR = ("running", "ready", "accepted", "complete")
_UPDATE_FAILURES = {
    "paused": "the update paused",
    "rollback_paused": "the rollback paused",
    "rollback_completed": "the update was rolled back",
}
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

    `is_update`: there were tasks of another form before, so `running` counts those of the new form. `desired`: of a job how many
    are to complete. `needs_settling`: a moment of this proves nothing yet, as tasks may still be made, or die.
    """

    service: str
    running: int
    desired: int
    slots: tuple[SlotProgress, ...]
    is_converged: bool
    failure: str = ""
    is_update: bool = False
    is_rollback: bool = False
    is_watched: bool = False
    """Whether all tasks run and the update watches them for failures."""
    completed: int | None = None
    """Of a job: how many tasks have completed."""
    needs_settling: bool = True
    is_scheduled: bool = False
    """Whether it runs by a schedule, so that there is nothing to wait for."""


class ConvergenceWatch:
    """Remembers, from one look to the next, which tasks have failed since the wait began."""

    def __init__(
        self, ended_before: Collection[str], *, update_before: Mapping[str, Any] | None = None, is_rollback: bool = False
    ) -> None:
        """`ended_before`: the ids of the tasks that had ended when the wait began; `update_before`: the `UpdateStatus` of then.

        `is_rollback`: a rollback is what was asked for, so that its completion is no failure.
        """
        self._ended_before = frozenset(ended_before)
        self._update_before = dict(update_before or {})
        self._is_rollback = is_rollback
        self._failures: dict[str, dict[str, str]] = {}

    def look(self, service: Mapping[str, Any], tasks: Collection[Mapping[str, Any]], nodes: Mapping[str, str]) -> Progress:
        """Return the progress, from a service, its up-to-date tasks (of a job: all), and the nodes' names by id."""
        name, is_a_job, is_due_later = service["Spec"]["Name"], is_job(service["Spec"]), is_scheduled(service["Spec"])
        names = Names.of_services([service], nodes)
        if is_a_job:
            tasks = [task for task in tasks if job_iteration(task) == job_iteration(service.get("JobStatus") or {})]
        slots = _newest_by_slot(tasks, names)
        for task in tasks:
            if task["ID"] not in self._ended_before and task["Status"]["State"] in _FAILED:
                self._failures.setdefault(task_base_name(task, names), {})[task["ID"]] = task_error(task)
        wanted = {slot: task for slot, task in slots.items() if task["DesiredState"] in _ASKED_FOR}
        running = sum(task["Status"]["State"] == "running" for task in wanted.values())
        complete = {task_base_name(task, names) for task in tasks if task["Status"]["State"] == "complete"}
        completed = len(complete) if is_a_job else None
        desired = _desired_count(service, slots, wanted)
        failure = self._failure(slots, complete if is_a_job else ()) or self._update_failure(service)
        is_done = completed >= desired if completed is not None else running == len(wanted) == desired
        state = (service.get("UpdateStatus") or {}).get("State", "")
        return Progress(
            service=name,
            running=running,
            desired=desired,
            slots=tuple(self._slot(slot, task, nodes) for slot, task in slots.items() if slot in wanted or desired),
            is_converged=is_due_later or (not failure and is_done and state not in _UNFINISHED_UPDATES),
            failure="" if is_due_later else failure,
            is_update="PreviousSpec" in service and service["PreviousSpec"]["TaskTemplate"] != service["Spec"]["TaskTemplate"],
            is_rollback=state == "rollback_started",
            is_watched=is_done and state in _UNFINISHED_UPDATES,
            completed=completed,
            needs_settling=not is_due_later and self._needs_settling(service, desired),
            is_scheduled=is_due_later,
        )

    def _needs_settling(self, service: Mapping[str, Any], desired: int) -> bool:
        """An update that is complete has watched its tasks already."""
        status = service.get("UpdateStatus") or {}
        if status.get("State") in ("completed", "rollback_completed") and status != self._update_before:
            return False
        return is_global(service["Spec"]) or (bool(desired) and not is_job(service["Spec"]))

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

    def _failure(self, slots: Mapping[str, Mapping[str, Any]], complete: Collection[str]) -> str:
        for slot, failures in sorted(self._failures.items(), key=lambda item: natural_key(item[0])):
            if len(failures) >= MAX_FAILURES:
                return f"task {slot} failed {len(failures)} times: {list(failures.values())[-1] or 'no reason given'}"
        for slot, task in slots.items():
            if slot not in complete and task["ID"] not in self._ended_before and _ended_for_good(task):
                reason = task_error(task) or f"it ended as {task['Status']['State']}"
                return f"task {slot} is not restarted, as its restart policy says: {reason}"
        return ""

    def _update_failure(self, service: Mapping[str, Any]) -> str:
        status = service.get("UpdateStatus") or {}
        state = status.get("State", "")
        if state not in _UPDATE_FAILURES or (self._is_rollback and state == "rollback_completed") or status == self._update_before:
            return ""
        return f"{_UPDATE_FAILURES[state]}: {status.get('Message', '') or 'no reason given'}"


def ended_tasks(tasks: Collection[Mapping[str, Any]]) -> set[str]:
    """Return the ids of the tasks that have ended."""
    return {task["ID"] for task in tasks if task["Status"]["State"] in _ENDED}


def _newest_by_slot(tasks: Collection[Mapping[str, Any]], names: Names) -> dict[str, Mapping[str, Any]]:
    slots: dict[str, Mapping[str, Any]] = {}
    for task in sorted(tasks, key=lambda task: (task["DesiredState"] in _ASKED_FOR, task["CreatedAt"], task["ID"])):
        if task["DesiredState"] != "remove":
            slots[task_base_name(task, names)] = task
    return {slot: slots[slot] for slot in sorted(slots, key=natural_key)}


def _ended_for_good(task: Mapping[str, Any]) -> bool:
    """A slot's newest task that ended by itself and was told to shut down has no successor."""
    return task["DesiredState"] == "shutdown" and task["Status"]["State"] in ("complete", "failed", "rejected")


def _desired_count(service: Mapping[str, Any], slots: Mapping[str, object], wanted: Mapping[str, object]) -> int:
    spec = service["Spec"]
    if is_job(spec):
        completions = total_completions(spec)
        return len(slots) if completions is None else completions
    if is_global(spec):
        return len(wanted)
    replicas = ((spec.get("Mode") or {}).get("Replicated") or {}).get("Replicas")
    return 1 if replicas is None else int(replicas)
