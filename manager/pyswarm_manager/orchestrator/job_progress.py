"""How far the present iteration of a job has come: its slots, and what of them is done, lost or still to do. Pure, shared.

A replicated job has the slots 0 to TotalCompletions - 1 (from 0, as in SwarmKit: the docker CLI counts on it); a global job has one
per node. A slot is complete when any of its tasks completed, also one that had been given up with its node, so that completions are
counted once. It has failed when its last task ended by itself without success and was told to stop: that is the mark by which
the orchestrator remembers that the restart policy allows no further attempt.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from pyswarm_common.objects import Node, Service, Task
from pyswarm_common.service_labels import SCHEDULE
from pyswarm_common.specs import TaskTemplate
from pyswarm_common.task_states import TaskState
from pyswarm_manager.decisions import succession_key
from pyswarm_manager.orchestrator.restart import is_node_gone, is_stopping
from pyswarm_manager.orchestrator.suitability import Suitability
from pyswarm_manager.store.tables import View

SlotKey: TypeAlias = int | str
"""The number of a replicated job's slot, or the id of a global job's node."""
_ENDED_BY_ITSELF = (TaskState.FAILED, TaskState.REJECTED)


@dataclass
class JobSlot:
    """One slot of the present iteration. `current` is the newest task that shall complete."""

    key: SlotKey
    current: Task | None = None
    past: list[Task] = field(default_factory=list)
    """Its other tasks, oldest first."""

    @property
    def newest(self) -> Task:
        """The task that stands for the slot."""
        return self.current or self.past[-1]

    @property
    def is_complete(self) -> bool:
        """Whether it needs nothing more."""
        return any(task.status.state is TaskState.COMPLETE for task in (*self.past, *filter(None, [self.current])))

    @property
    def is_open(self) -> bool:
        """Whether a task works on it, or has just ended and is to be looked at."""
        return self.current is not None and not self.is_complete

    @property
    def has_failed(self) -> bool:
        """Whether it will not complete: its last task failed and gets no successor."""
        return self.current is None and not self.is_complete and ended_by_itself(self.newest)


@dataclass(frozen=True)
class JobProgress:
    """Counts of slots: those that there are to be, those that completed, and those that will not complete."""

    wanted: int
    completed: int
    failed: int

    @property
    def is_finished(self) -> bool:
        """Whether nothing of the iteration is left to be done."""
        return self.completed + self.failed >= self.wanted


def ended_by_itself(task: Task) -> bool:
    """Whether the task failed, and was not stopped or taken from its node: the restart policy is about failures only."""
    return task.status.state in _ENDED_BY_ITSELF and not task.rejection and not task.must_move


def has_begun(service: Service) -> bool:
    """Whether the present iteration is under way or over; a scheduled job's first one waits for its time."""
    return service.job_started_at_ns != 0 or SCHEDULE not in (service.spec.labels or {})


def slots_of_iteration(service: Service, tasks: Iterable[Task]) -> dict[SlotKey, JobSlot]:
    """Return the slots of the present iteration that have tasks; tasks on their way out (desired REMOVE) are in none."""
    is_global = service.spec.mode_name == "global-job"
    slots: dict[SlotKey, JobSlot] = {}
    for task in sorted(tasks, key=succession_key):
        if task.job_iteration != service.job_iteration or task.desired_state is TaskState.REMOVE:
            continue
        key: SlotKey = task.node_id if is_global else task.slot
        slot = slots.get(key)
        if slot is None:
            slot = slots[key] = JobSlot(key)
        if task.desired_state <= TaskState.RUNNING:
            if slot.current is not None:
                slot.past.append(slot.current)
            slot.current = task
        else:
            slot.past.append(task)
    return slots


def may_still_run(task: Task, node: Node | None) -> bool:
    """Whether a task that was told to stop may not have stopped yet."""
    return is_stopping(task) and not is_node_gone(node)


def eligible_nodes(view: View, service: Service) -> list[Node]:
    """Return the nodes that a global job's present iteration is to run on, by id.

    A job runs on nodes that join later too (Docker's documentation says so), a run of a scheduled one only on those that were there
    when it began: others wait for the next run.
    """
    spec = view.task_specs.get(service.task_spec_id)
    suitability = Suitability(spec.template if spec is not None else TaskTemplate())
    is_scheduled = SCHEDULE in (service.spec.labels or {})
    found = [
        node
        for node in view.nodes
        if node.status.state == "ready"
        and node.spec.availability == "active"
        and not (is_scheduled and node.created_at_ns > service.job_started_at_ns)
        and suitability.suits(node)
    ]
    return sorted(found, key=lambda node: node.id)


def job_progress(view: View, service: Service) -> JobProgress:
    """Return how far the present iteration is. A slot on a node that is down counts as failed: it may never be heard of again."""
    slots = slots_of_iteration(service, view.tasks.of_service(service.id))
    if service.spec.mode_name == "global-job":
        return _global_progress(view, service, slots)
    counted = [slot for number, slot in slots.items() if int(number) < service.spec.total_completions]
    return JobProgress(
        wanted=service.spec.total_completions,
        completed=sum(slot.is_complete for slot in counted),
        failed=sum(slot.has_failed for slot in counted),
    )


def _global_progress(view: View, service: Service, slots: dict[SlotKey, JobSlot]) -> JobProgress:
    wanted = {node.id for node in eligible_nodes(view, service)}
    completed = failed = 0
    for key, slot in slots.items():
        node_id = str(key)
        node = view.nodes.get(node_id)
        if slot.is_complete:
            completed += 1
        elif slot.has_failed or (node is not None and is_node_gone(node)):
            failed += 1
        elif not slot.is_open and not any(may_still_run(task, node) for task in slot.past):
            continue  # it was stopped on a drained node: it runs again when that is eligible again
        wanted.add(node_id)
    return JobProgress(wanted=len(wanted), completed=completed, failed=failed)
